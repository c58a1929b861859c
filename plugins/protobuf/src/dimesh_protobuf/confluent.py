"""The verdicts of Confluent's server, whose rules differ from those of reading.

The server compares messages by name and fields by number. It accepts numbers that are cut, values that are left out and lists
that become single values, and it refuses another package, another name of a message, and the removal of a member of a oneof.
Facts: ``SchemaDiff``, ``MessageSchemaDiff`` and ``FieldSchemaDiff`` of confluentinc/schema-registry. Both of its policies give
the same verdict.
"""

from __future__ import annotations

from typing import Final

from dimesh.spi.schema import Difference
from dimesh_protobuf.nodes import Field, File, Message

_GROUPS: Final = {
    **dict.fromkeys(("int32", "int64", "uint32", "uint64", "bool", "enum"), "whole number"),
    **dict.fromkeys(("sint32", "sint64"), "signed number"),
    **dict.fromkeys(("string", "bytes"), "text or bytes"),
    **dict.fromkeys(("fixed32", "sfixed32"), "number of 32 bits"),
    **dict.fromkeys(("fixed64", "sfixed64"), "number of 64 bits"),
}


class ServerComparison:
    """Compares one pair of files."""

    def __init__(self, writer: File, reader: File) -> None:
        self.differences: list[Difference] = []
        self._writer = writer
        self._reader = reader
        self._seen: set[tuple[int, int]] = set()

    def run(self) -> tuple[Difference, ...]:
        """Return the incompatible differences."""
        if self._writer.package != self._reader.package:
            message = f"the package was {self._writer.package!r:.200} and is {self._reader.package!r:.200}"
            self._report("package-changed", "#", message)
        readers = {message.relative: message for message in self._reader.messages.values()}
        gone: list[str] = []
        for writer in sorted(self._writer.messages.values(), key=lambda one: one.relative):
            name = writer.relative
            if name.rpartition(".")[0] in gone:
                gone.append(name)  # what a message contained is gone with it
            elif name not in readers:
                gone.append(name)
                self._report("message-removed", name, "the message was removed")
            else:
                self._message(writer, readers[name])
        return tuple(self.differences)

    def _report(self, code: str, path: str, message: str) -> None:
        difference = Difference(code, path, message)
        if len(self.differences) < 50 and difference not in self.differences:
            self.differences.append(difference)

    def _message(self, writer: Message, reader: Message) -> None:
        pair = (id(writer), id(reader))
        if pair in self._seen:
            return
        self._seen.add(pair)
        path = reader.relative
        for oneof, members in reader.oneofs.items():
            known = [writer.by_number[field.number] for field in members if field.number in writer.by_number]
            groups = {field.oneof or field.number for field in known}
            if len(groups) > 1:
                alone = sum(not field.oneof for field in known)
                code = "fields-moved-to-oneof" if alone > 1 else "field-moved-to-existing-oneof"
                self._report(code, f"{path}.{oneof}", "fields that could be set together are in one oneof")
        for name, members in writer.oneofs.items():
            left = [field for field in members if field.number in reader.by_number]
            if left or name in reader.oneofs:  # a oneof may go as a whole
                for field in members:
                    if field.number not in reader.by_number:
                        self._report(
                            "oneof-field-removed",
                            f"{path}.{name}.{field.name}",
                            "a member of a oneof was removed",
                        )
        for field in writer.fields:
            target = reader.by_number.get(field.number)
            if target is not None:
                self._field(field, target, f"{path}.{target.name}")
            elif field.required:
                self._report("required-removed", f"{path}.{field.name}", "a required field was removed")
        for added in reader.required:
            if added.number not in writer.by_number:
                self._report("required-added", f"{path}.{added.name}", "a required field was added")

    def _field(self, writer: Field, reader: Field, path: str) -> None:
        if _kind(writer) != _kind(reader):
            self._report("type-changed", path, f"the type was {writer} and is {reader}")
        elif writer.kind == "map":
            for one, other in zip(writer.entry, reader.entry, strict=True):
                self._field(one, other, path)
        elif writer.message is not None and reader.message is not None:
            self._named(writer.message, reader.message, path)
        elif _GROUPS.get(writer.kind, writer.kind) != _GROUPS.get(reader.kind, reader.kind):
            self._report("type-changed", path, f"the type was {writer} and is {reader}")

    def _named(self, writer: Message, reader: Message, path: str) -> None:
        if writer.relative != reader.relative:
            self._report("named-type-changed", path, f"the type was {writer.name} and is {reader.name}")
        elif writer.name not in self._writer.messages or reader.name not in self._reader.messages:
            before = len(self.differences)
            self._message(writer, reader)  # of another file: nobody else compares them
            if len(self.differences) > before:
                self._report("named-type-changed", path, f"the type {reader.name} changed incompatibly")


def _kind(field: Field) -> str:
    if field.kind == "map":
        return "map"
    return "message" if field.message is not None else "scalar"
