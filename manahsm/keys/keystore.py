"""Software keys on disk: Web3 Secret Storage (v3) files, one a key, that any Ethereum client can read.

Files are named ``<key_id>.json``, are private to us, and are written whole or not at all. Deriving the file's
key from the passphrase takes half a second and 256 MB with the usual scrypt parameters, so it runs in a
thread, one at a time, and an unlocked key stays in memory until it is deleted or :meth:`Keystore.lock` is
called. Python can not wipe memory: whoever can read this process's memory can read its unlocked keys.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from attrs import define, field, frozen
from coincurve import PrivateKey

from manahsm.config.model import Kdf
from manahsm.config.secret import Secret
from manahsm.errors import KeystoreError
from manahsm.ethereum.signatures import key_id_of, public_key_of
from manahsm.files import make_private_directory, remove_leftovers, sync_directory, write_atomically
from manahsm.keys.keyfile import KeyfileProblem, decrypt, encrypt, read_outside
from manahsm.keys.labels import is_key_id

__all__ = ["Keystore", "KeystoreEntry", "UnlockedKey", "required"]

T = TypeVar("T")


@frozen(kw_only=True)
class KeystoreEntry:
    """What a keystore file says of itself, without its passphrase.

    Attributes:
        key_id: the key's id, from the file's name.
        address: the address that the file claims, in lower case, or ``None``; checked when it is unlocked.
        name: what the key was called when the file was made, or ``None``: a help to people, not the label.
        path: the file.
    """

    key_id: str
    address: str | None
    name: str | None
    path: Path


@define(eq=False)
class UnlockedKey:
    """A private key in memory, ready to sign. Shows nothing of itself and can not be pickled.

    Attributes:
        key_id: the key's id.
        public_key: 65 bytes, uncompressed.
        private_key: for :func:`manahsm.ethereum.signatures.sign`.
    """

    key_id: str
    public_key: bytes = field(repr=False)
    private_key: PrivateKey = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key cannot be pickled or copied into another process")


class Keystore:
    """The folder of keystore files.

    Args:
        directory: made when the first file is written, and closed to others.
        passphrase: of all files; or a function that reads it when it is first needed (in a thread) and whose
            own errors reach the caller.
        kdf: key derivation function of new files.
        iterations: its work factor: n for scrypt (a power of two), rounds for pbkdf2. Small only in tests.
    """

    def __init__(
        self,
        directory: Path,
        passphrase: Secret | Callable[[], Secret],
        *,
        kdf: Kdf = Kdf.SCRYPT,
        iterations: int = 2**18,
    ) -> None:
        if kdf is Kdf.SCRYPT and iterations & (iterations - 1):
            raise ValueError(f"scrypt's work factor is a power of two, not {iterations}")
        self.directory = directory
        self._passphrase = passphrase
        self._kdf = kdf
        self._iterations = iterations
        self._unlocked: dict[str, UnlockedKey] = {}
        # One at a time: memory for one derivation is bounded, and two callers never derive the same key
        # twice.
        self._thread = CapacityLimiter(1)
        # The limiter is let go by a native asyncio cancellation while its thread still runs; this is not.
        self._working = threading.Lock()

    async def create(self, name: str | None = None) -> bytes:
        """Generate a key and store it.

        Args:
            name: written into the file in the clear, to help people who have lost the registry.

        Returns:
            The 65-byte public key.

        Raises:
            KeystoreError: the file could not be written; no key was made.
        """
        return await self.store(PrivateKey().secret, name)

    async def store(self, private_key: bytes, name: str | None = None) -> bytes:
        """Encrypt a key into its file. Storing a key that is there already changes nothing.

        Args:
            private_key: 32 bytes, as :func:`~manahsm.ethereum.signatures.parse_private_key` returns them.
            name: see :meth:`create`.

        Returns:
            The 65-byte public key.

        Raises:
            KeystoreError: the file could not be written, or there is one that does not open.
        """
        return (await self._in_thread(partial(self._store, private_key, name))).public_key

    async def unlock(self, key_id: str) -> UnlockedKey:
        """Decrypt a key, or return it from memory. The same object until it is locked or deleted.

        Raises:
            KeystoreError: no file, a wrong passphrase, a damaged file, or one that holds another key.
        """
        unlocked = self._unlocked.get(key_id)
        if unlocked is None:
            unlocked = await self._in_thread(partial(self._unlock, key_id))
        return unlocked

    def unlocked(self, key_id: str) -> UnlockedKey | None:
        """Return the key if it is in memory already, at no cost."""
        return self._unlocked.get(key_id)

    async def delete(self, key_id: str) -> None:
        """Remove a key's file, and the key from memory. There is no way back.

        Raises:
            KeystoreError: there is no such file, or it could not be removed.
        """
        await self._in_thread(partial(self._delete, key_id))

    async def list(self) -> tuple[KeystoreEntry, ...]:
        """Return what files there are, by key id. Files that are not ours, or not readable, are left out.

        Raises:
            KeystoreError: the folder can not be read.
        """
        return await self._in_thread(self._list)

    def lock(self) -> None:
        """Forget every unlocked key."""
        self._unlocked.clear()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(partial(self._exclusively, work), limiter=self._thread)

    def _exclusively(self, work: Callable[[], T]) -> T:
        with self._working:
            return work()

    def _store(self, private_key: bytes, name: str | None) -> UnlockedKey:
        public_key = public_key_of(private_key)
        key_id = key_id_of(public_key)
        path = self._path(key_id)
        if path.exists():
            return self._unlock(key_id)
        content = encrypt(private_key, self._read_passphrase(), kdf=self._kdf, iterations=self._iterations, name=name)
        try:
            make_private_directory(self.directory)
            remove_leftovers(self.directory)
            write_atomically(path, content)
        except OSError as error:
            raise KeystoreError(
                f"{path}: cannot be written ({error.strerror or error}); check the folder's owner and the disk's space"
            ) from error
        return self._remember(private_key)

    def _unlock(self, key_id: str) -> UnlockedKey:
        if (unlocked := self._unlocked.get(key_id)) is not None:  # while this call waited for its turn
            return unlocked
        path = self._path(key_id)
        try:
            private_key = decrypt(path.read_bytes(), self._read_passphrase())
        except FileNotFoundError:
            raise KeystoreError(
                f"{path}: no keystore file for key {key_id}; restore it from a backup, or remove the key"
            ) from None
        except OSError as error:
            raise KeystoreError(f"{path}: cannot be read: {error.strerror or error}") from error
        except KeyfileProblem as problem:
            raise KeystoreError(f"{path}: {problem}") from None
        if key_id_of(public_key_of(private_key)) != key_id:
            raise KeystoreError(f"{path}: holds another key than its name says; restore the right file")
        return self._remember(private_key)

    def _remember(self, private_key: bytes) -> UnlockedKey:
        key = PrivateKey(private_key)
        public_key = public_key_of(key)
        unlocked = UnlockedKey(key_id_of(public_key), public_key, key)
        self._unlocked[unlocked.key_id] = unlocked
        return unlocked

    def _delete(self, key_id: str) -> None:
        self._unlocked.pop(key_id, None)
        path = self._path(key_id)
        try:
            path.unlink()
            sync_directory(self.directory)
        except FileNotFoundError:
            raise KeystoreError(f"{path}: no keystore file for key {key_id}") from None
        except OSError as error:
            raise KeystoreError(f"{path}: cannot be removed: {error.strerror or error}") from error

    def _list(self) -> tuple[KeystoreEntry, ...]:
        entries = []
        try:
            paths = sorted(self.directory.iterdir())
        except FileNotFoundError:  # no key was ever stored
            return ()
        except OSError as error:
            raise KeystoreError(f"{self.directory}: cannot be read: {error.strerror or error}") from error
        for path in paths:
            if path.suffix != ".json" or not is_key_id(path.stem):
                continue
            try:
                address, name = read_outside(path.read_bytes())
            except (OSError, KeyfileProblem):
                continue
            entries.append(KeystoreEntry(key_id=path.stem, address=address, name=name, path=path))
        return tuple(entries)

    def _path(self, key_id: str) -> Path:
        if not is_key_id(key_id):  # it becomes a file name
            raise KeystoreError(f"{self.directory}: a key id is 16 hexadecimal characters")
        return self.directory / f"{key_id}.json"

    def _read_passphrase(self) -> Secret:
        return self._passphrase if isinstance(self._passphrase, Secret) else self._passphrase()


def required(keystore: Keystore | None) -> Keystore:
    """Return the keystore, where one is configured.

    Raises:
        KeystoreError: none is.
    """
    if keystore is None:
        raise KeystoreError("software keys need hsm.keystore.passphrase_file: set it and restart")
    return keystore
