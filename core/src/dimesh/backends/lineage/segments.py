"""The lineage log on disk: a folder of segment files that are only appended to, or dropped.

A segment begins with 16 bytes: ``dimeshLG``, the format version and the CRC32 of both (big-endian). Each record is a
12-byte head (length of the body, CRC32 of the body, CRC32 of these eight bytes) and a msgpack body. Since the head has its
own checksum, a length that points past the end of the newest segment can only be a write that a crash cut short: that tail
is removed and counted. Any other mismatch is damage: it is skipped up to the next record whose checksums hold, counted, and left
where it is.
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
        self.damage: dict[tuple[str, int], int] = {}
        """The sizes in bytes of what was skipped, by the name of the segment and the offset."""
        self._mutex = threading.Lock()
        self._lock = FileLock(folder / "lock")
        self._file: FileIO | None = None
        self._end = 0
        self._unsynced = False

    def open(self) -> None:
        """Take the lock and remove an unfinished write.

        Raises:
            StorageError: not a folder, not writable, in use by another process, or of a newer format.
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
        """Yield all records, oldest first, in batches. What is damaged is skipped and noted in :attr:`damage`.

        Raises:
            StorageError: the log cannot be read or has a newer format.
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
            for start, end, record in _parts(segment, data, tail=segment == segments[-1]):
                if record is None:
                    self.damage[segment.name, start] = end - start
                    continue
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
                ends = []
                for start, end, record in _parts(segment, data, tail=segment == segments[-1]):
                    if record is None:
                        raise StorageError(
                            f"the lineage log is damaged: segment {segment}, offset {start}: {end - start} bytes. Move that "
                            "file away to back up the others"
                        )
                    ends.append(end)
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
                records = [record for *_, record in _parts(segment, data, tail=False) if record is not None]
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
            end, last_is_damaged = _HEADER.size, False
            for _, after, record in _parts(segment, data, tail=True):
                end, last_is_damaged = after, record is None
            if last_is_damaged:  # not a write that a crash cut short: it stays for whoever wants to repair it
                self._begin(int(segment.stem) + 1)
                return
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


def _parts(segment: Path, data: bytes, tail: bool) -> Iterator[tuple[int, int, LineageRecord | None]]:
    """Yield each record with the offsets of its begin and end, and None for what is damaged. With ``tail``, stop at an unfinished
    write at the end.

    Raises:
        StorageError: the segment has a newer format.
    """
    offset, size = _HEADER.size, len(data)
    if not _has_header(segment, data, tail):
        yield 0, min(offset, size), None
    # Storage that lost power fills whole sectors with zeros: from there on, a write may be unfinished.
    zeros = -(-len(data.rstrip(b"\0")) // _SECTOR) * _SECTOR
    while offset < size:
        record, end, unfinished = _frame_at(data, offset, zeros)
        if record is None:
            if tail and unfinished:
                return
            end = end or _next_frame(data, offset + 1)
        yield offset, end, record
        offset = end


def _frame_at(data: bytes, offset: int, zeros: int) -> tuple[LineageRecord | None, int, bool]:
    """Return a record with the offset after it; or None, where the next one begins (0: that is not known), and whether a write
    may have been cut short here.

    Args:
        data: the segment.
        offset: the begin of the record.
        zeros: the offset from which on there are only zeros.
    """
    body, size = offset + _HEAD.size, len(data)
    if body > size:
        return None, 0, True
    length, body_crc, head_crc = _HEAD.unpack_from(data, offset)
    if crc32(data[offset : offset + _TWO.size]) != head_crc:
        return None, 0, zeros < body
    end = body + length
    if end > size:
        return None, 0, True
    payload = data[body:end]
    if crc32(payload) != body_crc:
        return None, end, zeros < end
    return _record(payload), end, False


def _next_frame(data: bytes, start: int) -> int:
    """Return the offset of the next record whose checksums hold; the end of the data, if there is none."""
    size = len(data)
    for offset in range(start, size - _HEAD.size + 1):
        length, body_crc, head_crc = _HEAD.unpack_from(data, offset)
        body = offset + _HEAD.size
        if (
            body + length <= size
            and crc32(data[offset : offset + _TWO.size]) == head_crc
            and crc32(data[body : body + length]) == body_crc
        ):
            return offset
    return size


def _has_header(segment: Path, data: bytes, tail: bool) -> bool:
    """Return whether a segment has a sound header, or none yet.

    Raises:
        StorageError: the segment has a newer format.
    """
    if tail and len(data) < _HEADER.size and _header().startswith(data):
        return True
    if len(data) < _HEADER.size:
        return False
    magic, version, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC or crc32(data[: _HEADER.size - 4]) != checksum:
        return False
    if version != FORMAT:
        raise StorageError(
            f"segment {segment} has format {version}, this dimesh reads {FORMAT}: update dimesh to open it"
        )
    return True


def _record(body: bytes) -> LineageRecord | None:
    """Return the record of a body; None if the body is none, although its checksum holds."""
    try:
        edge, id_, type_, at, name, pillar, source, target, trace, metadata = _decode(body)
    except (msgspec.MsgspecError, ValueError):
        return None
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
