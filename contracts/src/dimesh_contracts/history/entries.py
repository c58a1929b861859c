"""The entries of a history: JSON lines, in the order in which they happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A process started."""

    process: str


class Crashed(msgspec.Struct, frozen=True, tag="crashed"):
    """A process died: what it had handled and not committed is delivered again. The process that notices this writes the
    entry.
    """

    process: str


class PublishBegun(msgspec.Struct, frozen=True, tag="publish"):
    """An append was called. Without one of the next two entries its outcome is unknown."""

    process: str
    topic: str
    ids: list[str]
    keys: list[str]
    digests: list[str]
    """The digests of the payloads."""


class Acknowledged(msgspec.Struct, frozen=True, tag="acknowledged"):
    """The append returned."""

    process: str
    topic: str
    ids: list[str]
    positions: list[tuple[int, int] | None]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The append raised an error that says that nothing was accepted."""

    process: str
    topic: str
    ids: list[str]


class Subscribed(msgspec.Struct, frozen=True, tag="subscribed"):
    """``subscribe`` returned."""

    process: str
    topic: str
    group: str


class Assigned(msgspec.Struct, frozen=True, tag="assigned"):
    """A member got partitions, each with the offset to read from."""

    process: str
    topic: str
    group: str
    offsets: dict[int, int]


class Left(msgspec.Struct, frozen=True, tag="left"):
    """A member gave partitions up (all of them, if none is named), or noticed that it had lost them."""

    process: str
    topic: str
    group: str
    partitions: list[int]


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """A stream handed a record out."""

    process: str
    topic: str
    group: str
    id: str
    key: str
    digest: str
    partition: int
    offset: int


class Handled(msgspec.Struct, frozen=True, tag="handled"):
    """A handler returned."""

    process: str
    topic: str
    group: str
    id: str


class DeadLettered(msgspec.Struct, frozen=True, tag="dead-lettered"):
    """A dead letter was acknowledged."""

    process: str
    topic: str
    group: str
    id: str


class CommitBegun(msgspec.Struct, frozen=True, tag="commit"):
    """A commit was called."""

    process: str
    topic: str
    group: str
    offsets: dict[int, int]


Entry = (
    Started
    | Crashed
    | PublishBegun
    | Acknowledged
    | Refused
    | Subscribed
    | Assigned
    | Left
    | Delivered
    | Handled
    | DeadLettered
    | CommitBegun
)

_decoder = msgspec.json.Decoder(Entry)
encode = msgspec.json.Encoder().encode


def parse(lines: Iterable[bytes]) -> Iterator[Entry]:
    """Parse lines. A last line that was cut by a crash is left out; any other damage is an error.

    Raises:
        ValueError: a line is not an entry; the message names it.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number} is no entry of a history: {error}") from error


def read(path: str | Path) -> list[Entry]:
    """Return the history in a file."""
    with open(path, "rb") as file:
        return list(parse(file))
