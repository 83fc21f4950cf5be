"""python-pkcs11 as a contestant: ``pkcs11_loop.py LIBRARY TOKEN KEY``, with the PIN on standard input.

The one thing to know: this is the library as its documentation shows it, one session and one thread; ``run SECONDS``
answers with signatures a second.
"""

from __future__ import annotations

import itertools
import sys
from time import perf_counter
from typing import Any

import pkcs11


def _main(library: str, token_label: str, key_label: str) -> None:
    pin = sys.stdin.readline().rstrip("\n")
    token = pkcs11.lib(library).get_token(token_label=token_label)
    with token.open(user_pin=pin) as session:
        key: Any = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=key_label)
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            seconds = float(line.split()[1])
            began = now = perf_counter()
            for number in itertools.count(1):
                key.sign(number.to_bytes(32, "big"), mechanism=pkcs11.Mechanism.ECDSA)
                now = perf_counter()
                if now - began >= seconds:
                    break
            print(number / (now - began), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(*sys.argv[1:])
