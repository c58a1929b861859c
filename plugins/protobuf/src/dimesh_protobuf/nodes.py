"""The parts of a linked schema: messages, fields and enums that refer to each other, since messages may contain themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

RANGES: Final = {
    "int32": (-(2**31), 2**31 - 1),
    "sint32": (-(2**31), 2**31 - 1),
    "sfixed32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "sint64": (-(2**63), 2**63 - 1),
    "sfixed64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "fixed32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "fixed64": (0, 2**64 - 1),
}
"""The least and the greatest value of each type of whole numbers."""

SPECIAL: Final = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.protobuf.Struct": "struct",
    "google.protobuf.Value": "value",
    "google.protobuf.ListValue": "list",
    **{
        f"google.protobuf.{name}Value": "wrapper"
        for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
    },
}
"""The well-known types whose values are not dictionaries of fields."""


@dataclass(slots=True, eq=False)
class Enum:
    """An enum."""

    name: str
    """The full name."""
    closed: bool
    """Whether a reader treats numbers that the enum does not have as unknown fields: enums of proto2."""
    numbers: dict[str, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """The first name of each number."""


@dataclass(slots=True, eq=False)
class Field:
    """A field of a message, or the key or the value of a map."""

    name: str
    number: int
    kind: str
    """A scalar type, ``enum``, ``message``, or ``map``."""
    repeated: bool = False
    required: bool = False
    presence: bool = False
    """Whether a reader can see that the field is not set."""
    packed: bool = False
    oneof: str = ""
    """The name of the oneof that was written; those of optional fields do not count."""
    lenient: bool = False
    """Whether the runtime reads text that is no UTF-8: in proto2."""
    message: Message | None = None
    enum: Enum | None = None
    key: Field | None = None
    value: Field | None = None

    @property
    def target(self) -> Message:
        """The message of a field that holds messages."""
        assert self.message is not None
        return self.message

    @property
    def of(self) -> Enum:
        """The enum of a field that holds values of one."""
        assert self.enum is not None
        return self.enum

    @property
    def entry(self) -> tuple[Field, Field]:
        """The key and the value of a map."""
        assert self.key is not None
        assert self.value is not None
        return self.key, self.value

    @property
    def inner(self) -> Message | None:
        """The message in the values of the field, in a map, too."""
        return self.value.message if self.value is not None else self.message

    def __str__(self) -> str:
        if self.kind == "map":
            key, value = self.entry
            return f"map<{key}, {value}>"
        named = self.message or self.enum
        kind = self.kind if named is None else f"{self.kind} {named.name}"
        return f"repeated {kind}" if self.repeated else kind


@dataclass(slots=True, eq=False)
class Message:
    """A message type. Only linking changes it."""

    name: str
    """The full name."""
    relative: str
    """The name within its package."""
    indexes: tuple[int, ...]
    """The positions that lead to the message: among those of the file, then among those of the message around it."""
    special: str = ""
    """One of the values of :data:`SPECIAL`; empty: values are dictionaries."""
    fields: tuple[Field, ...] = ()
    """The fields, by number."""
    by_name: dict[str, Field] = field(default_factory=dict)
    by_number: dict[int, Field] = field(default_factory=dict)
    oneofs: dict[str, tuple[Field, ...]] = field(default_factory=dict)
    required: tuple[Field, ...] = ()
    cost: float = float("inf")
    """The number of parts of the smallest value; infinite until linking has computed it."""
    nesting: int = 0
    """The nesting of the messages in the smallest value."""
    demanding: bool = False
    """Whether a required field is in the message, or in one that it contains."""

    def __str__(self) -> str:
        return f"message {self.name}"


@dataclass(slots=True, eq=False)
class File:
    """A linked file."""

    proto: Any
    """The file descriptor, with full names; nobody changes it."""
    imports: tuple[tuple[str, File], ...]
    """The files that are imported, by their paths."""
    symbols: Mapping[str, str]
    """The kind of each name that the file defines, by full name."""
    messages: Mapping[str, Message]
    enums: Mapping[str, Enum]
    canonical: str = ""

    @property
    def package(self) -> str:
        """The package; empty if there is none."""
        return str(self.proto.package)

    def exported(self) -> Iterator[File]:
        """Return the file, and those that it imports publicly, directly or through others."""
        seen: set[int] = set()
        waiting: list[File] = [self]
        while waiting:
            file = waiting.pop()
            if id(file) not in seen:
                seen.add(id(file))
                yield file
                waiting += [file.imports[n][1] for n in file.proto.public_dependency]
