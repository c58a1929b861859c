"""A file in which the processes of one machine share the tokens of a credential.

Some systems end the old tokens when they give new ones, so two processes that renew a token at the same time would lock each
other out. A process renews tokens while it holds the lock of the file, and stores the new ones before it uses them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from dimesh.clock import Clock
from dimesh.errors import CredentialsError, StorageError
from dimesh.storage.filelock import FileLock
from dimesh.storage.private import open_private, sync_folder

_RECHECK: Final = 0.02
"""The number of seconds between attempts to take the lock that another process holds while it renews tokens."""
_PATIENCE: Final = 120.0
"""The number of seconds to wait for the lock."""


class Tokens(msgspec.Struct):
    """The tokens of one credential."""

    access: str
    expires: float
    """The time at which the access token expires, in seconds since the epoch; 0: unknown."""
    refresh: str = ""
    """The token that gives the next tokens; empty: there is none."""
    origin: str = ""
    """A digest of the configured credential that these tokens descend from."""


class TokenFile:
    """The shared tokens of one credential. Only the owner of the file can read it.

    Args:
        path: the file; a file with the suffix ``.lock`` stands beside it.
        clock: time.
    """

    def __init__(self, path: str | Path, clock: Clock) -> None:
        self.path = Path(path)
        self._clock = clock

    @classmethod
    def default(cls, name: str, clock: Clock) -> TokenFile:
        """Return a file in the user's data folder, which is made.

        Args:
            name: identifies the credential; may be secret.
            clock: time.

        Raises:
            CredentialsError: the folder cannot be made.
        """
        from platformdirs import user_data_path

        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        try:
            folder = user_data_path("dimesh", appauthor=False, ensure_exists=True)
        except OSError as error:
            raise CredentialsError(
                f"the folder for tokens cannot be made ({error.strerror}): name a file in the option token_file"
            ) from error
        return cls(folder / f"tokens-{digest}.json", clock)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the lock of the file: no other process renews tokens meanwhile.

        Raises:
            CredentialsError: the file cannot be locked, or another process has held it for two minutes.
        """
        lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        end = self._clock.monotonic() + _PATIENCE
        try:
            while not lock.try_acquire():
                if self._clock.monotonic() > end:
                    raise CredentialsError(f"another process does not release {lock.path}: end it, or wait")
                await self._clock.sleep(_RECHECK)
            yield
        except StorageError as error:
            raise CredentialsError(f"the tokens cannot be shared: {error}") from error
        finally:
            lock.release()

    def read(self) -> Tokens | None:
        """Return the tokens; None if there are none, or the file cannot be read."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Tokens)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def write(self, tokens: Tokens) -> None:
        """Store tokens, on the disk when this returns. Call it within :meth:`locked`.

        Raises:
            CredentialsError: the file cannot be written.
        """
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            descriptor = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with open(descriptor, "wb") as file:
                file.write(json.dumps(msgspec.to_builtins(tokens)).encode())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise CredentialsError(
                f"the new tokens cannot be stored in {self.path} ({error.strerror}): name another file in the option token_file"
            ) from error


def digest_of(secret: str) -> str:
    """Return what stands for a secret in the file: it does not help to guess the secret."""
    return hashlib.sha256(b"dimesh tokens\0" + secret.encode()).hexdigest()[:32]
