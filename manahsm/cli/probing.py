"""What the prober does once it is hardened: load the library, list its tokens, and try to make a key where asked.

The one thing to know: this imports the module that loads foreign code, so :mod:`manahsm.cli.prober` alone imports it.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from manahsm.hsm.cryptoki import TokenCallFailed
from manahsm.hsm.host_token import open_token
from manahsm.hsm.login_turn import login_turn
from manahsm.hsm.module import Module
from manahsm.hsm.protocol import Start
from manahsm.hsm.quirks import Quirks
from manahsm.hsm.token_keys import find_pair, generate_key

__all__ = ["answer"]

_LABEL = "manahsm-doctor-trial"
_MECHANISMS = {0x1040: "CKM_EC_KEY_PAIR_GEN", 0x1041: "CKM_ECDSA"}
# As in manahsm.hsm.host_token: processes that start at the same instant can make SoftHSM show no token.
_LOOK_AGAIN_AFTER = (0.02, 0.1, 0.3)


def answer(questions: int, answers: int) -> None:
    """Read the question from one descriptor and write the answer to the other."""
    with os.fdopen(questions, "rb") as file:
        question = json.loads(file.read())
    try:
        found = _try_key(question["start"]) if "start" in question else _list_tokens(question["library"])
    except TokenCallFailed as error:
        failure = error.failure
        found = {"failure": {"name": failure.name, "function": failure.function, "detail": failure.detail}}
    with os.fdopen(answers, "wb") as file:
        file.write(json.dumps(found).encode())


def _list_tokens(library: str) -> dict[str, Any]:
    with login_turn(library):
        module = Module(library, Quirks())
        tokens = list(module.tokens())
        for delay in _LOOK_AGAIN_AFTER:
            if tokens:
                break
            time.sleep(delay)
            module.look_again()
            tokens = list(module.tokens())
    return {
        "description": module.description,
        "locking": module.locking,
        "tokens": [
            {
                "slot_id": slot_id,
                "label": info.text("label"),
                "serial": info.text("serial"),
                "manufacturer": info.text("manufacturer"),
                "model": info.text("model"),
                "flags": info.flag_names,
                "max_sessions": info.max_sessions,
                "mechanisms": _mechanisms(module, slot_id),
            }
            for slot_id, info in tokens
        ],
    }


def _mechanisms(module: Module, slot_id: int) -> list[str]:
    offered = module.cryptoki.mechanisms(slot_id)
    return [name for number, name in _MECHANISMS.items() if number in offered]


def _try_key(fields: dict[str, Any]) -> dict[str, Any]:
    """Make a secp256k1 key, which proves itself by a signature, and remove it."""
    token = open_token(Start(**fields))
    made = generate_key(token.anchor, _LABEL)
    pair = find_pair(token.anchor, made.public_key)
    for half in pair or ():
        if half is not None:
            token.anchor.destroy(half)
    return {"made": True, "removed": find_pair(token.anchor, made.public_key) is None}
