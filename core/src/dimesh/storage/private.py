"""Files and folders that only their owner can use: events and positions are nobody else's business.

Folders that dimesh creates get mode 0700 and files 0600, whatever the umask. A file of dimesh that an earlier version left
open to others is narrowed when it is opened, if it belongs to this user. A folder that was there before is left alone: it
may be the user's home.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from dimesh.errors import StorageError

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, for their owner only.

    Raises:
        StorageError: the folder cannot be created.
    """
    try:
        _make(folder)
    except OSError as error:
        raise StorageError(f"cannot create the folder {folder}: {error.strerror}") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(FOLDER_MODE)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        _make(folder.parent)
        folder.mkdir(FOLDER_MODE, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return
    if os.name == "posix":
        folder.chmod(FOLDER_MODE)  # the umask may have taken bits away


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open or create a file for its owner only, and return its descriptor.

    Args:
        path: the file.
        flags: as for :func:`os.open`; the descriptor is not inherited by child processes.

    Raises:
        OSError: the file cannot be opened.
    """
    fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), FILE_MODE)
    try:
        _narrow(fd, os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def opener(path: str, flags: int) -> int:
    """Serve as the ``opener`` of :func:`open` and :class:`io.FileIO` for private files."""
    return open_private(path, flags)


def narrow(path: Path) -> None:
    """Take all access from others than the owner, if the file is there and belongs to this user."""
    try:
        _narrow(path, path.stat())
    except FileNotFoundError:
        pass


def _narrow(file: int | Path, status: os.stat_result) -> None:
    if os.name != "posix" or not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        os.chmod(file, mode & ~_OTHERS)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, such as those of files that were created or renamed."""
    if os.name != "posix":
        return  # other systems cannot open a folder; they write its entries at once
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
