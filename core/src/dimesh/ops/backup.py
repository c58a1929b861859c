"""Copies of the embedded files of a mesh that runs, and the way back.

Order. The state of capture and the bus are seen at one moment: the lock of the state's writers is held for the few milliseconds
in which both files are frozen, so the pair is one that a crash could have left, and what holds after a crash holds after a
restore. On the sqlite bus, positions are stored in the bus's own file, in the transaction that publishes the changes, and cannot
be ahead of them; rows are staged in the state's file before that, and a state that were older than the bus would lack rows whose
deletes a repair must find. On a broker, the positions are in the state's file: a copy of it is never ahead of what the broker has
acknowledged, and after a restore the changes since then are published again.

The registry comes next, so that it has every schema that an event of the copy was written with. Lineage comes last: an
observation is recorded after its event, and one too many does no harm.

A backup is written to a folder beside its own, which gets its name when everything in it is verified and flushed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from dimesh.backends.bus.sqlite.database import FORMAT as BUS
from dimesh.backends.lineage.segments import SegmentLog
from dimesh.backends.registry.tables import FORMAT as REGISTRY
from dimesh.backends.state.sqlite import FORMAT as CAPTURE
from dimesh.errors import ConfigurationError, StorageError
from dimesh.mesh import driver_options
from dimesh.settings import DriverSection, MeshSettings
from dimesh.storage.copying import Frozen, copy_bytes, verify
from dimesh.storage.filelock import FileLock
from dimesh.storage.private import make_folder, open_private, sync_folder
from dimesh.storage.sqlitefile import Format

MANIFEST: Final = "manifest.json"
VERSION: Final = 1
"""The version of the manifest."""
_LOCK: Final = "lock"
_SIDE_FILES: Final = ("", "-wal", "-shm", "-journal")
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OnProgress = Callable[[str, int, int], object]
"""Called with the name of a part, the bytes of all parts that are done, and the bytes in all."""


@dataclass(frozen=True, slots=True)
class BackedUpFile:
    """One file of a backup."""

    part: str
    """``bus``, ``capture``, ``registry`` or ``lineage``."""
    name: str
    """The path within the backup."""
    bytes: int
    sha256: str
    format: int
    """The version of the file's format."""
    rows: dict[str, int]
    """The number of rows by table, or of records."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a backup, as ``manifest.json`` has it."""

    version: int
    mesh: str
    dimesh: str
    sqlite: str
    began: str
    ended: str
    files: tuple[BackedUpFile, ...]
    left_out: dict[str, str]
    """By part, the reason for which the backup does not have it."""

    @property
    def parts(self) -> list[str]:
        """The names of the parts, in the order in which they were copied."""
        return list(dict.fromkeys(file.part for file in self.files))


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    path: Path
    """The file, or the folder of lineage."""
    format: Format | None
    """The format of a SQLite file; None for lineage."""


def back_up(
    settings: MeshSettings, folder: Path, on_progress: OnProgress = lambda part, done, total: None
) -> Manifest:
    """Copy the embedded files of a mesh to a new folder. The mesh may be running.

    Args:
        settings: the settings of the mesh.
        folder: the folder to create.
        on_progress: called while files are copied.

    Raises:
        ConfigurationError: the folder exists, or the mesh has nothing that can be copied.
        StorageError: a file is damaged, or the disk is full; nothing of the backup is kept.
    """
    from dimesh import __version__

    began = _now()
    _refuse(folder)
    parts, left_out = _embedded(settings)
    existing = [part for part in parts if part.path.exists()]
    left_out |= {part.name: f"{part.path} does not exist" for part in parts if part not in existing}
    if not existing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ConfigurationError(f"there is nothing to back up ({reasons})")
    with _created(folder) as target, ExitStack() as stack:
        frozen = _freeze(existing, stack)
        total = sum(_size(part, frozen) for part in existing)
        _check_space(target, total, folder)
        done = 0

        def on_bytes(part: str, count: int) -> None:
            nonlocal done
            done += count
            on_progress(part, done, total)

        files: list[BackedUpFile] = []
        for part in existing:
            files += _copied(part, frozen, target, partial(on_bytes, part.name))
        manifest = Manifest(
            VERSION,
            settings.mesh.name,
            __version__,
            sqlite3.sqlite_version,
            began,
            _now(),
            tuple(files),
            left_out,
        )
        _write_manifest(target / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Return the description of a backup.

    Raises:
        ConfigurationError: the folder is not a backup that this dimesh can read.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{folder} is not a backup: {MANIFEST} cannot be read ({error.strerror})"
        ) from error
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigurationError(f"{folder} is not a backup: {MANIFEST} is damaged ({error})") from error
    if manifest.version > VERSION:
        raise ConfigurationError(
            f"{folder} was made by dimesh {manifest.dimesh}, and this one cannot read it: upgrade dimesh"
        )
    return manifest


def restore(
    settings: MeshSettings, folder: Path, on_progress: OnProgress = lambda part, done, total: None
) -> Manifest:
    """Copy the files of a backup to where the settings have them. No process of the mesh may run.

    Every file is checked against the manifest before the first one gets its name.

    Raises:
        ConfigurationError: the folder is not a backup, the settings have no place for one of its parts, or there is a file
            already.
        StorageError: the backup is damaged, or the disk is full; nothing was restored.
    """
    manifest = read_manifest(folder)
    parts = {part.name: part for part in _embedded(settings)[0]}
    targets = [(file, _place(file, parts, folder)) for file in manifest.files]
    for part in (parts[name] for name in manifest.parts):
        _refuse_existing(part)
    total = sum(file.bytes for file in manifest.files)
    done = 0
    written: list[tuple[Path, Path]] = []
    try:
        for file, target in targets:
            make_folder(target.parent)
            temporary = target.with_name(f"{target.name}.restoring")
            temporary.unlink(missing_ok=True)
            written.append((temporary, target))

            def on_bytes(count: int, name: str = file.part) -> None:
                nonlocal done
                done += count
                on_progress(name, done, total)

            _restore_file(folder, file, parts[file.part], temporary, on_bytes)
        # The bus last: a mesh without its bus is seen to be empty, and one without its rows is not.
        for temporary, target in reversed(written):
            os.rename(temporary, target)
            sync_folder(target.parent)
    except BaseException as error:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _no_space(error, f"restore {folder}") from error
        raise
    return manifest


def embedded_files(settings: MeshSettings) -> list[Path]:
    """Return the files of a mesh that exist: those of the embedded drivers, with SQLite's files beside them."""
    found: list[Path] = []
    for part in _embedded(settings)[0]:
        if part.format is None:
            found += sorted(part.path.glob("*.lineage"))
        else:
            found += [path for suffix in _SIDE_FILES if (path := Path(f"{part.path}{suffix}")).exists()]
    return found


# -- what is embedded ----------------------------------------------------------------------------


def _embedded(settings: MeshSettings) -> tuple[list[_Part], dict[str, str]]:
    """Return the parts that are files of dimesh, in the order of the module's docstring, and why others are not."""
    places: Sequence[tuple[str, DriverSection, str, str, Format | None]] = (
        ("bus", settings.bus, "mesh", "sqlite", BUS),
        ("registry", settings.registry, "registry", "sqlite", REGISTRY),
        ("lineage", settings.lineage, "lineage", "file", None),
    )
    parts: list[_Part] = []
    left_out: dict[str, str] = {}
    for name, section, file, driver, file_format in places:
        if section.driver == driver:
            path = Path(os.path.abspath(str(driver_options(settings, section, file)["path"])))
            parts.append(_Part(name, path, file_format))
        elif section.driver == "memory":
            left_out[name] = "driver 'memory' keeps nothing on disk"
        else:
            left_out[name] = f"driver {section.driver!r} keeps its data elsewhere: back it up there"
    parts.insert(
        int(bool(parts) and parts[0].name == "bus"),
        _Part("capture", Path(os.path.abspath(settings.cdc.state)), CAPTURE),
    )
    return parts, left_out


def _freeze(parts: Sequence[_Part], stack: ExitStack) -> dict[str, Frozen]:
    """See the SQLite files at their moments; the bus and the state of capture at the same one."""
    frozen: dict[str, Frozen] = {}
    locks: dict[str, FileLock] = {}
    for part in parts:
        if part.format is not None:
            lock = FileLock(Path(f"{part.path}-lock")) if part.format.wal else None
            frozen[part.name] = file = Frozen(part.path, part.format, lock)
            stack.callback(file.close)
            file.open()
            if lock is not None:
                locks[part.name] = lock
    with ExitStack() as held:
        if "capture" in locks:
            held.enter_context(locks["capture"])
        for name in ("capture", "bus"):
            if name in frozen:
                frozen[name].freeze()
    return frozen


def _size(part: _Part, frozen: Mapping[str, Frozen]) -> int:
    """Return the bytes of a part, about."""
    if part.format is not None:
        return frozen[part.name].size or part.path.stat().st_size
    return sum(path.stat().st_size for path in part.path.iterdir() if path.is_file())


# -- writing -------------------------------------------------------------------------------------


def _copied(
    part: _Part, frozen: Mapping[str, Frozen], target: Path, on_bytes: Callable[[int], object]
) -> Iterator[BackedUpFile]:
    if part.format is None:
        make_folder(target / part.name)
        counts = SegmentLog(part.path, 0, read_only=True).copy(target / part.name, on_bytes)
        for name, records in counts.items():
            yield _described(part.name, target, f"{part.name}/{name}", 1, {"records": records})
        return
    file = frozen[part.name]
    if part.name == "registry":
        file.freeze()  # only now: its writers wait meanwhile
    rows = file.copy(target / f"{part.name}.db", on_bytes)
    file.close()  # its log can shrink again while the next file is copied
    yield _described(part.name, target, f"{part.name}.db", file.version, rows)


def _described(part: str, target: Path, name: str, format: int, rows: dict[str, int]) -> BackedUpFile:
    path = target / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return BackedUpFile(part, name, path.stat().st_size, digest, format, rows)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with open(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _created(folder: Path) -> Iterator[Path]:
    """Give the folder that a backup is written to; it gets its name at the end of the block, or is removed."""
    folder = Path(os.path.abspath(folder))
    unfinished = folder.with_name(f"{folder.name}.partial")
    make_folder(unfinished)
    lock = FileLock(unfinished / _LOCK)
    if not lock.try_acquire():
        raise ConfigurationError(
            f"another backup to {folder} is running: wait for it, or name another folder"
        )
    try:
        _empty(unfinished)  # of a backup that was killed
        yield unfinished
        (unfinished / _LOCK).unlink()
        sync_folder(unfinished)
        _refuse(folder)
        os.rename(unfinished, folder)
        sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, OSError):
            raise _no_space(error, f"write the backup {folder}") from error
        raise
    finally:
        lock.release()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _check_space(target: Path, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(target).free
    if free < needed:
        raise StorageError(
            f"the backup needs {_megabytes(needed)}, and {_megabytes(free)} are free for {folder}: free space, or name "
            "a folder on another disk"
        )


def _no_space(error: OSError, doing: str) -> StorageError:
    if error.errno in _NO_SPACE:
        return StorageError(
            f"cannot {doing}: the disk (or the quota) is full. Nothing of it was kept; free space and try again"
        )
    where = f" ({error.filename})" if error.filename else ""
    return StorageError(f"cannot {doing}: {error.strerror or error}{where}. Nothing of it was kept")


def _refuse(folder: Path) -> None:
    if os.path.lexists(folder):
        raise ConfigurationError(f"{folder} exists, and a backup replaces nothing: name a new folder")


# -- restoring -----------------------------------------------------------------------------------


def _place(file: BackedUpFile, parts: Mapping[str, _Part], folder: Path) -> Path:
    """Return the path that a file of a backup is restored to."""
    part = parts.get(file.part)
    if part is None:
        raise ConfigurationError(
            f"{folder} has a copy of the {file.part}, and the settings keep theirs elsewhere: restore with settings that "
            "name the embedded driver"
        )
    if part.format is not None and file.name == f"{part.name}.db":
        if file.format > part.format.version:
            raise ConfigurationError(
                f"{folder}/{file.name} has format {file.format}, this dimesh reads up to {part.format.version}: "
                "upgrade dimesh"
            )
        return part.path
    name = file.name.removeprefix(f"{part.name}/")
    if part.format is None and name == Path(name).name and name != file.name:
        return part.path / name
    raise ConfigurationError(f"{folder} is not a backup: {MANIFEST} names a file {file.name!r:.200}")


def _refuse_existing(part: _Part) -> None:
    """Refuse to restore a part over files, or beside a log that SQLite would apply to the restored file."""
    if part.format is None:
        found = sorted(part.path.glob("*.lineage"))
    else:
        found = [path for suffix in _SIDE_FILES if os.path.lexists(path := Path(f"{part.path}{suffix}"))]
    if found:
        raise ConfigurationError(
            f"{found[0]} exists, and a restore replaces nothing: stop every process of the mesh, and move its files away"
        )


def _restore_file(
    folder: Path, file: BackedUpFile, part: _Part, target: Path, on_bytes: Callable[[int], object]
) -> None:
    source = folder / file.name
    if copy_bytes(source, target, on_bytes) != file.sha256:
        raise StorageError(
            f"{source} is damaged: its checksum is not the one of the manifest. Restore another backup"
        )
    if part.format is not None:
        verify(target, part.format, source)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
