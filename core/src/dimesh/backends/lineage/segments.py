"""The lineage log on disk: a folder of segment files that are only appended to, or dropped.

A segment begins with 16 bytes: ``dimeshLG``, the format version and the CRC32 of both (big-endian). Each record is a
12-byte head (length of the body, CRC32 of the body, CRC32 of these eight bytes) and a msgpack body. Since the head has its
own checksum, a length that points past the end of the newest segment can only be a write that a crash cut short: that tail
is removed and counted. Any other mismatch is damage, and an error that names the place.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec

from dimesh.errors import LineageError, StorageError
from dimesh.spi.lineage import LineageRecord
from dimesh.storage.filelock import FileLock
from dimesh.storage.private import make_folder, narrow, opener, sync_folder

FORMAT: Final = 1
_MAGIC: Final = b"dimeshLG"
_HEADER: Final = struct.Struct(">8sII")
_HEAD: Final = struct.Struct(">III")
_TWO: Final = struct.Struct(">II")
_SECTOR: Final = 512
_BATCH: Final = 1_000
_SUFFIX: Final = ".lineage"

_encode: Final = msgspec.msgpack.Encoder().encode
_Body = tuple[bool, str, str, float, str, str | None, str, str, str, dict[str, Any]]
_decode: Final = msgspec.msgpack.Decoder(_Body).decode


class SegmentLog:
    """The segments of one folder. The methods block, and may be called from any thread; one runs at a time.

    Args:
        folder: the folder; it is created if it does not exist.
        segment_bytes: the size at which a segment is closed and a new one begun.
        read_only: take no lock and change nothing, to read a log that another process writes.
    """

    def __init__(self, folder: Path, segment_bytes: int, read_only: bool = False) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.read_only = read_only
        self.torn_bytes = 0
        """The bytes of an unfinished write that the last ``open`` removed."""
        self._mutex = threading.Lock()
        self._lock = FileLock(folder / "lock")
        self._file: FileIO | None = None
        self._end = 0
        self._unsynced = False

    def open(self) -> None:
        """Take the lock and remove an unfinished write.

        Raises:
            StorageError: not a folder, not writable, in use by another process, damaged or of a newer format.
        """
        with self._mutex, _as_storage_error(self.folder):
            if self.read_only:
                if not self.folder.is_dir():
                    raise StorageError(f"there is no lineage log in {self.folder}: check the path")
                return
            make_folder(self.folder)
            if not self._lock.try_acquire():
                raise StorageError(
                    f"the lineage log {self.folder} is in use by another process or service: stop that one, "
                    "choose another folder, or open this one with read_only=True"
                )
            try:
                for leftover in self.folder.glob("*.tmp"):
                    leftover.unlink()
                segments = self._segments()
                for segment in segments:
                    narrow(segment)
                if segments:
                    self._resume(segments[-1])
                else:
                    self._begin(1)
            except BaseException:
                self._release()
                raise

    def append(self, records: Sequence[LineageRecord], sync: bool) -> None:
        """Write all of the records or none; with ``sync``, they survive a power cut when this returns.

        Raises:
            StorageError: nothing was written: the disk is full, or the log is closed or read-only.
        """
        if not records:
            return
        frames = b"".join(map(_frame, records))
        with self._mutex, _as_storage_error(self.folder):
            file = self._writable()
            if self._end >= self.segment_bytes:
                file = self._roll()
            try:
                # A failed attempt may have left bytes.
                file.seek(self._end)
                file.truncate()
                _write(file, frames)
                self._unsynced = True
                if sync:
                    self._fsync(file)
            except OSError:
                with contextlib.suppress(OSError):
                    file.seek(self._end)
                    file.truncate()
                raise
            self._end += len(frames)

    def sync(self) -> None:
        """Make the written records survive a power cut.

        Raises:
            StorageError: the disk refused.
        """
        with self._mutex, _as_storage_error(self.folder):
            if self._file is not None and self._unsynced:
                self._fsync(self._file)

    def read(self) -> Iterator[list[LineageRecord]]:
        """Yield all records, oldest first, in batches.

        Raises:
            StorageError: the log is damaged or has a newer format; names the segment and the offset.
        """
        segments = self._segments()
        for segment in segments:
            try:
                data = segment.read_bytes()
            except FileNotFoundError:
                continue  # retention has dropped it meanwhile
            except OSError as error:
                raise StorageError(f"cannot read {segment}: {error.strerror or error}") from error
            batch: list[LineageRecord] = []
            for _, record in _records(segment, data, tail=segment == segments[-1]):
                batch.append(record)
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
            if batch:
                yield batch

    def copy(self, target: Path, on_bytes: Callable[[int], object]) -> dict[str, int]:
        """Copy the records that are written so far to new segments in ``target``, also while another process writes.

        Segments are only appended to, so the copy ends at the last record that is complete.

        Args:
            target: an empty folder.
            on_bytes: called with the number of bytes of each segment that was copied.

        Returns:
            The number of records by the name of the segment.

        Raises:
            StorageError: the log is damaged, or the copy cannot be written.
        """
        copied: dict[str, int] = {}
        segments = self._segments()
        with _as_storage_error(self.folder):
            for segment in segments:
                try:
                    data = segment.read_bytes()
                except FileNotFoundError:
                    continue  # retention has dropped it meanwhile
                ends = [end for end, _ in _records(segment, data, tail=segment == segments[-1])]
                if len(data) < _HEADER.size:
                    continue  # it was just created
                with open(target / segment.name, "xb", opener=opener) as file:
                    file.write(memoryview(data)[: ends[-1] if ends else _HEADER.size])
                    file.flush()
                    os.fsync(file.fileno())
                copied[segment.name] = len(ends)
                on_bytes(len(data))
            sync_folder(target)
        return copied

    def forget(self, before: float) -> int:
        """Remove the records that are older than ``before`` (epoch seconds), and return their number.

        A segment with only such records is dropped, one with some of them is rewritten.

        Raises:
            StorageError: as for ``append`` and ``read``.
        """
        with self._mutex, _as_storage_error(self.folder):
            self._writable()
            self._roll()
            removed = 0
            for segment in self._segments()[:-1]:
                data = segment.read_bytes()
                records = [record for _, record in _records(segment, data, tail=False)]
                kept = [record for record in records if record.timestamp >= before]
                if len(kept) == len(records):
                    continue
                removed += len(records) - len(kept)
                if kept:
                    _replace(segment, _header() + b"".join(map(_frame, kept)))
                else:
                    segment.unlink()
            sync_folder(self.folder)
            return removed

    def close(self) -> None:
        """Sync, and release the lock; may be called twice.

        Raises:
            StorageError: the records that were written last may not survive a power cut.
        """
        with self._mutex, _as_storage_error(self.folder):
            try:
                if self._file is not None and self._unsynced:
                    self._fsync(self._file)
            finally:
                self._release()

    # -- inside the mutex ------------------------------------------------------------------------

    def _segments(self) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())

    def _writable(self) -> FileIO:
        if self.read_only:
            raise LineageError(
                "this lineage log was opened with read_only=True: nothing can be recorded in it"
            )
        if self._file is None:
            raise StorageError(f"the lineage log {self.folder} is not open")
        return self._file

    def _begin(self, number: int) -> FileIO:
        path = self.folder / f"{number:012d}{_SUFFIX}"
        file = FileIO(path, "xb", opener=opener)
        try:
            _write(file, _header())
            os.fsync(file.fileno())
            sync_folder(self.folder)
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        self._file, self._end, self._unsynced = file, _HEADER.size, False
        return file

    def _resume(self, segment: Path) -> None:
        data = segment.read_bytes()
        end = 0
        # A crash right after a segment was created leaves a part of its header, or zeros.
        if data.strip(b"\0") and not (len(data) < _HEADER.size and _header().startswith(data)):
            ends = (end for end, _ in _records(segment, data, tail=True))
            end = max(ends, default=_HEADER.size)
        self.torn_bytes = len(data) - end
        file = FileIO(segment, "r+b", opener=opener)
        try:
            if self.torn_bytes:
                file.truncate(end)
            if end == 0:
                _write(file, _header())
                end = _HEADER.size
            os.fsync(file.fileno())
        except OSError:
            file.close()
            raise
        self._file, self._end, self._unsynced = file, end, False

    def _roll(self) -> FileIO:
        old = self._writable()
        if self._end == _HEADER.size:
            return old
        self._fsync(old)
        new = self._begin(int(self._segments()[-1].stem) + 1)
        old.close()
        return new

    def _fsync(self, file: FileIO) -> None:
        os.fsync(file.fileno())
        self._unsynced = False

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()


def _header() -> bytes:
    start = _MAGIC + struct.pack(">I", FORMAT)
    return start + struct.pack(">I", crc32(start))


def _frame(record: LineageRecord) -> bytes:
    body = _encode(
        (
            record.kind == "edge",
            record.id,
            record.type,
            record.timestamp,
            record.name,
            record.pillar,
            record.source,
            record.target,
            record.trace_id,
            record.metadata,
        )
    )
    sizes = _TWO.pack(len(body), crc32(body))
    return sizes + struct.pack(">I", crc32(sizes)) + body


def _records(segment: Path, data: bytes, tail: bool) -> Iterator[tuple[int, LineageRecord]]:
    """Yield each record with the offset after it. With ``tail``, stop at an unfinished write at the end."""
    _check_header(segment, data, tail)
    offset, size = _HEADER.size, len(data)
    # Storage that lost power fills whole sectors with zeros: from there on, a write may be unfinished.
    zeros = -(-len(data.rstrip(b"\0")) // _SECTOR) * _SECTOR
    while offset < size:
        body = offset + _HEAD.size
        problem = "the record's head is cut short"
        unfinished = body > size
        if not unfinished:
            length, body_crc, head_crc = _HEAD.unpack_from(data, offset)
            end = body + length
            if crc32(data[offset : offset + _TWO.size]) != head_crc:
                problem = "the record's head does not match its checksum"
                unfinished = zeros < body
            elif end > size:
                problem, unfinished = "the record is cut short", True
            elif crc32(payload := data[body:end]) != body_crc:
                problem = "the record does not match its checksum"
                unfinished = zeros < end
            else:
                yield end, _record(segment, offset, payload)
                offset = end
                continue
        if tail and unfinished:
            return
        raise StorageError(
            f"the lineage log is damaged: segment {segment}, offset {offset}: {problem}. Restore that file "
            "from a copy, or move it away to continue without its records"
        )


def _check_header(segment: Path, data: bytes, tail: bool) -> None:
    if tail and len(data) < _HEADER.size and _header().startswith(data):
        return
    if len(data) >= _HEADER.size:
        magic, version, checksum = _HEADER.unpack_from(data)
        if magic == _MAGIC and crc32(data[: _HEADER.size - 4]) == checksum:
            if version == FORMAT:
                return
            raise StorageError(
                f"segment {segment} has format {version}, this dimesh reads {FORMAT}: "
                "update dimesh to open it"
            )
    raise StorageError(f"the lineage log is damaged: segment {segment}, offset 0: no segment header")


def _record(segment: Path, offset: int, body: bytes) -> LineageRecord:
    try:
        edge, id_, type_, at, name, pillar, source, target, trace, metadata = _decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StorageError(
            f"segment {segment}, offset {offset}: this is not a lineage record ({error})"
        ) from error
    kind = "edge" if edge else "node"
    return LineageRecord(kind, id_, type_, at, name, pillar, source, target, trace, metadata)  # type: ignore[arg-type]


def _write(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:  # a raw file may write only a part
        view = view[file.write(view) :]


def _replace(segment: Path, data: bytes) -> None:
    temporary = segment.with_suffix(".tmp")
    with open(temporary, "wb", opener=opener) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(segment)


@contextlib.contextmanager
def _as_storage_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"lineage log {folder}: {error.strerror or error}") from error
