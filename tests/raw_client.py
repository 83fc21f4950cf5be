"""A PKCS#11 client without opinions: it makes the calls it is told to make and says what they returned.

The one thing to know: the module under test is loaded in a process of its own, this same file run as a program, and
every method of :class:`Calls` can be called on a :class:`RawClient` as if it were here. Each returns ``(rv, value)``.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_ulong, c_void_p
from typing import Any, Self

__all__ = ["CKA", "Calls", "RawClient", "Template"]

Template = Sequence[tuple[int, bytes]]
Answer = tuple[int, Any]

_POSITIONS = {
    "C_Initialize": 0, "C_Finalize": 1, "C_GetInfo": 2, "C_GetSlotList": 4, "C_GetSlotInfo": 5, "C_GetTokenInfo": 6,
    "C_GetMechanismList": 7, "C_OpenSession": 12, "C_CloseSession": 13, "C_CloseAllSessions": 14,
    "C_GetSessionInfo": 15, "C_Login": 18, "C_Logout": 19, "C_CreateObject": 20, "C_GetAttributeValue": 24,
    "C_FindObjectsInit": 26, "C_FindObjects": 27, "C_FindObjectsFinal": 28, "C_SignInit": 42, "C_Sign": 43,
    "C_GenerateKeyPair": 59,
}  # fmt: skip
_SECP256K1 = bytes.fromhex("06052b8104000a")
_ROOM = 256


class CKA:
    """Attributes and classes of pkcs11t.h, as bytes where they are values."""

    CLASS, TOKEN, PRIVATE, VALUE, KEY_TYPE, ID, SIGN, EC_PARAMS, EC_POINT = (
        0x0, 0x1, 0x2, 0x11, 0x100, 0x102, 0x108, 0x180, 0x181,
    )  # fmt: skip
    PUBLIC_KEY, PRIVATE_KEY, EC = (value.to_bytes(8, sys.byteorder) for value in (2, 3, 3))
    YES, NO = b"\x01", b"\x00"


class _Attribute(ctypes.Structure):
    _fields_ = (("type", c_ulong), ("value", c_void_p), ("size", c_ulong))


class _Arguments(ctypes.Structure):
    _fields_ = (("mutexes", c_void_p * 4), ("flags", c_ulong), ("reserved", c_void_p))


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("size", c_ulong))


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", c_void_p * 68))


def _template(attributes: Template) -> Any:
    made: Any = (_Attribute * len(attributes))()
    made.buffers = [ctypes.create_string_buffer(value, len(value)) for _, value in attributes]  # kept alive with it
    for attribute, (kind, value), buffer in zip(made, attributes, made.buffers, strict=True):
        attribute.type, attribute.size = kind, len(value)
        attribute.value = ctypes.cast(buffer, c_void_p)
    return made


class Calls:
    """The calls, in the process that has the library."""

    def __init__(self, library: str) -> None:
        functions = ctypes.POINTER(_FunctionList)()
        if ctypes.CDLL(library).C_GetFunctionList(byref(functions)) != 0:
            raise RuntimeError("C_GetFunctionList failed")
        self._functions = functions.contents.functions

    def _call(self, name: str, *arguments: Any) -> int:
        words = [c_ulong(each) if isinstance(each, int) else each for each in arguments]
        return int(ctypes.CFUNCTYPE(c_ulong)(self._functions[_POSITIONS[name]])(*words))

    def initialize(self, *, locking: bool = True) -> Answer:
        return self._call("C_Initialize", byref(_Arguments(flags=2)) if locking else None), None

    def finalize(self) -> Answer:
        return self._call("C_Finalize", None), None

    def info(self) -> Answer:
        return self._call("C_GetInfo", ctypes.create_string_buffer(_ROOM)), None

    def slots(self, *, present: bool = True) -> Answer:
        """Slot ids."""
        found, count = (c_ulong * 64)(), c_ulong(64)
        rv = self._call("C_GetSlotList", int(present), found, byref(count))
        return rv, list(found[: count.value])

    def slot_flags(self, slot: int) -> Answer:
        """CKF_* of the slot."""
        info = ctypes.create_string_buffer(_ROOM)
        rv = self._call("C_GetSlotInfo", slot, info)
        return rv, int.from_bytes(info.raw[96:104], sys.byteorder)

    def token(self, slot: int) -> Answer:
        """(label, serial, flags, most sessions)."""
        info = ctypes.create_string_buffer(_ROOM)
        rv = self._call("C_GetTokenInfo", slot, info)
        flags, sessions = (int.from_bytes(info.raw[at : at + 8], sys.byteorder) for at in (96, 104))
        return rv, (info.raw[:32].decode().rstrip(), info.raw[80:96].decode().rstrip(), flags, sessions)

    def mechanisms(self, slot: int) -> Answer:
        """Numbers of the mechanisms."""
        found, count = (c_ulong * 256)(), c_ulong(256)
        rv = self._call("C_GetMechanismList", slot, found, byref(count))
        return rv, set(found[: count.value])

    def open(self, slot: int, *, write: bool = True) -> Answer:
        """A session's handle."""
        handle = c_ulong(0)
        rv = self._call("C_OpenSession", slot, 6 if write else 4, None, None, byref(handle))
        return rv, handle.value

    def close(self, session: int) -> Answer:
        return self._call("C_CloseSession", session), None

    def close_all(self, slot: int) -> Answer:
        return self._call("C_CloseAllSessions", slot), None

    def session(self, session: int) -> Answer:
        """(slot id, state)."""
        info = (c_ulong * 4)()
        rv = self._call("C_GetSessionInfo", session, info)
        return rv, (info[0], info[1])

    def login(self, session: int, pin: str) -> Answer:
        return self._call("C_Login", session, 1, pin.encode(), len(pin)), None

    def logout(self, session: int) -> Answer:
        return self._call("C_Logout", session), None

    def generate(self, session: int, cka_id: bytes) -> Answer:
        """(public, private) handles of a new secp256k1 pair in the token."""
        public, private = c_ulong(0), c_ulong(0)
        mechanism = _Mechanism(0x1040, None, 0)
        stored = [(CKA.TOKEN, CKA.YES), (CKA.ID, cka_id)]
        halves = (
            _template([*stored, (CKA.EC_PARAMS, _SECP256K1)]),
            _template([*stored, (CKA.PRIVATE, CKA.YES), (CKA.SIGN, CKA.YES)]),
        )
        rv = self._call(
            "C_GenerateKeyPair", session, byref(mechanism), halves[0], len(halves[0]), halves[1], len(halves[1]),
            byref(public), byref(private),
        )  # fmt: skip
        return rv, (public.value, private.value)

    def create(self, session: int, attributes: Template) -> Answer:
        """Handle of a new object."""
        template, handle = _template(attributes), c_ulong(0)
        return self._call("C_CreateObject", session, template, len(template), byref(handle)), handle.value

    def find(self, session: int, attributes: Template = ()) -> Answer:
        """Handles, or the first return code that was none of success."""
        template, found, count = _template(attributes), (c_ulong * 64)(), c_ulong(0)
        rv = self._call("C_FindObjectsInit", session, template, len(template))
        if rv == 0:
            rv = self._call("C_FindObjects", session, found, 64, byref(count))
            self._call("C_FindObjectsFinal", session)
        return rv, list(found[: count.value])

    def attribute(self, session: int, handle: int, kind: int, room: int | None = _ROOM) -> Answer:
        """An attribute's value; without room only its size."""
        buffer = ctypes.create_string_buffer(room) if room is not None else None
        asked = _Attribute(kind, ctypes.cast(buffer, c_void_p) if buffer else None, room or 0)
        rv = self._call("C_GetAttributeValue", session, handle, byref(asked), 1)
        return rv, asked.size if buffer is None or rv else buffer.raw[: asked.size]

    def sign_init(self, session: int, key: int) -> Answer:
        return self._call("C_SignInit", session, byref(_Mechanism(0x1041, None, 0)), key), None

    def sign_only(self, session: int, digest: bytes) -> Answer:
        """A signature, without C_SignInit."""
        buffer, size = ctypes.create_string_buffer(_ROOM), c_ulong(_ROOM)
        rv = self._call("C_Sign", session, digest, len(digest), buffer, byref(size))
        return rv, buffer.raw[: size.value] if rv == 0 else b""

    def sign(self, session: int, key: int, digest: bytes) -> Answer:
        """A signature."""
        rv, _ = self.sign_init(session, key)
        return (rv, b"") if rv else self.sign_only(session, digest)

    def repeat(self, times: int, threads: int, name: str, *arguments: Any) -> Answer:
        """Make a call so often in each of so many threads at once; its return codes."""
        codes: list[int] = []
        start = threading.Barrier(threads)

        def work() -> None:
            start.wait()
            codes.extend(getattr(self, name)(*arguments)[0] for _ in range(times))

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return 0, codes

    def timed(self, name: str, *arguments: Any) -> Answer:
        """Seconds that a call took."""
        began = time.monotonic()
        rv, _ = getattr(self, name)(*arguments)
        return rv, time.monotonic() - began


class RawClient:
    """A process that has the library loaded; its methods are those of :class:`Calls`."""

    def __init__(self, library: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this very file
            [sys.executable, "-I", __file__, library],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def send(self, name: str, *arguments: Any, **options: Any) -> None:
        """Begin a call."""
        assert self._process.stdin is not None
        pickle.dump((name, arguments, options), self._process.stdin)
        self._process.stdin.flush()

    def receive(self) -> Answer:
        """Wait for what it returned; EOFError where the process died instead."""
        assert self._process.stdout is not None
        answer: Answer = pickle.load(self._process.stdout)  # noqa: S301 - from our own process
        return answer

    def __getattr__(self, name: str) -> Callable[..., Answer]:
        def call(*arguments: Any, **options: Any) -> Answer:
            self.send(name, *arguments, **options)
            return self.receive()

        return call

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        """Its exit status, as subprocess has it."""
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not spoil an answer
    calls = Calls(sys.argv[1])
    while True:
        try:
            name, arguments, options = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the test
        except EOFError:
            return
        pickle.dump(getattr(calls, name)(*arguments, **options), answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
