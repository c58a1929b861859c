"""The schema language Protobuf."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.spi.schema import (
    POLICIES,
    PROVED,
    Difference,
    Outcome,
    ParsedSchema,
    Problem,
    Verdict,
    Witness,
)
from dimesh_protobuf.canonical import canonical
from dimesh_protobuf.checking import Check
from dimesh_protobuf.codec import Codec
from dimesh_protobuf.comparing import MOST_DIFFERENCES, Comparison, Found, sample
from dimesh_protobuf.confluent import ServerComparison
from dimesh_protobuf.descriptors import is_descriptor, read_descriptor
from dimesh_protobuf.interpreting import normalized
from dimesh_protobuf.limits import MAX_IMPORTS
from dimesh_protobuf.linking import Linker
from dimesh_protobuf.matching import names_differ
from dimesh_protobuf.nodes import File, Message
from dimesh_protobuf.parsing import read_file
from dimesh_protobuf.places import Places
from dimesh_protobuf.pool import Pool
from dimesh_protobuf.resolving import misreading
from dimesh_protobuf.wellknown import is_wellknown, wellknown_file

_MOST_WITNESSES: Final = 10


class ProtobufSchema:
    """A parsed ``.proto`` file, read and written as one of its messages: the first one, unless :meth:`message` chose another one.

    Values are dictionaries with the names of fields.
    """

    language = "PROTOBUF"

    def __init__(self, text: str, file: File, pool: Pool, root: Message | None, chosen: bool = False) -> None:
        self.text = text
        self.file = file
        self.root = root
        self.chosen = chosen
        """Whether :meth:`message` chose the message."""
        self._pool = pool
        self._views: dict[str, ProtobufSchema] = {}
        self._safe: WeakKeyDictionary[ProtobufSchema, bool] = WeakKeyDictionary()
        """Whether no value of a writer is misread, so that its payloads need no look."""

    @property
    def document(self) -> str:
        """The text."""
        return self.text

    @property
    def canonical(self) -> str:
        """The file as text, always written in the same way; comments and the order of fields do not count."""
        return self.file.canonical

    @property
    def record_name(self) -> str | None:
        """The full name of the message; None if the file has none."""
        return None if self.root is None else self.root.name

    # -- messages of the file --------------------------------------------------------------------

    @property
    def messages(self) -> tuple[str, ...]:
        """The full names of all messages of the file, those in messages, too; the first one is the schema's."""
        return tuple(self.file.messages)

    def message(self, name: str) -> ProtobufSchema:
        """Return the schema with another message of the file.

        Args:
            name: the full name, or the name within the package.

        Raises:
            InvalidSchemaError: the file has no such message.
        """
        node = self._named(name)
        if node.name not in self._views:
            view = ProtobufSchema(self.text, self.file, self._pool, node, chosen=True)
            self._views.setdefault(node.name, view)
        return self._views[node.name]

    def _named(self, name: str) -> Message:
        package = self.file.package
        node = self.file.messages.get(name) or self.file.messages.get(
            f"{package}.{name}" if package else name
        )
        if node is None:
            known = ", ".join(self.messages[:10]) or "none"
            raise InvalidSchemaError(f"the schema has no message {name!r:.200}; it has: {known:.500}")
        return node

    def message_indexes(self, name: str | None = None) -> tuple[int, ...]:
        """Return the positions that lead to a message, as Confluent's frames write them: among the messages of the file, then
        among those of the message around it. The hidden message of each ``map`` has a position, too.

        Args:
            name: the message; None: that of the schema.

        Raises:
            InvalidSchemaError: the file has no such message.
        """
        if name is None:
            if self.root is None:
                raise InvalidSchemaError(_NO_MESSAGE)
            return self.root.indexes
        return self._named(name).indexes

    def message_at(self, indexes: Sequence[int]) -> ProtobufSchema:
        """Return the schema with the message to which positions lead.

        Raises:
            InvalidSchemaError: they lead to no message.
        """
        wanted = tuple(indexes)
        for name, node in self.file.messages.items():
            if node.indexes == wanted:
                return self.message(name)
        raise InvalidSchemaError(f"the schema has no message at the position {list(wanted)!r:.200}")

    @cached_property
    def fingerprint(self) -> tuple[str | None, ...]:
        """The identity of the message with all files: schemas that have the same one are equal."""
        return (self.record_name, str(self.chosen), self.canonical, *self._pool.identity)

    @cached_property
    def serialized(self) -> str:
        """The file descriptor in base64, as Confluent's API has it with ``format=serialized``; :meth:`ProtobufLanguage.parse`
        accepts it, too.
        """
        return b64encode(self.file.proto.SerializeToString(deterministic=True)).decode("ascii")

    def formatted(self, form: str) -> str | None:
        """Return the schema in another form: ``serialized`` is :attr:`serialized`."""
        return self.serialized if form == "serialized" else None

    # -- values ----------------------------------------------------------------------------------

    @cached_property
    def _codec(self) -> Codec | None:
        return None if self.root is None else Codec(self.root, self._pool)

    def is_valid(self, value: Any) -> bool:
        """Return whether the message allows a value."""
        return self._codec is not None and self._codec.is_valid(value)

    def problems(self, value: Any) -> Sequence[Problem]:
        """Return the locations at which a value does not satisfy the message."""
        return [Problem("", _NO_MESSAGE)] if self.root is None else Check().run(self.root, value)

    def encode(self, value: Any) -> bytes:
        """Return the payload for a value.

        Raises:
            SchemaValidationError: the message does not allow the value.
        """
        payload = None if self._codec is None else self._codec.encode(value)
        if payload is None:
            lines = tuple(map(str, self.problems(value)))
            raise SchemaValidationError(f"the value does not satisfy the Protobuf schema: {lines[0]}", lines)
        return payload

    def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
        """Return the value of a payload. Fields that the message does not have are left out.

        Raises:
            SchemaValidationError: the payload is damaged, lacks a required field, or has a value that would be misread.
        """
        source = self if writer is None else _own(writer)
        data = bytes(payload)
        try:
            if self._codec is None:
                raise ValueError(_NO_MESSAGE)
            if source is not self:
                self._resolve(source, data)
            return self._codec.decode(data)
        except ValueError as error:
            raise SchemaValidationError(
                f"the payload cannot be read by the Protobuf schema: {error}", (str(error),)
            ) from error

    def _resolve(self, writer: ProtobufSchema, payload: bytes) -> None:
        """Check that a payload of another schema keeps its meaning.

        Raises:
            ValueError: it does not.
        """
        safe = self._safe.get(writer)
        if safe:
            return
        if writer._codec is None or writer.root is None or self.root is None:
            raise ValueError(_NO_MESSAGE)
        if not self.chosen and names_differ(writer.root, self.root):
            raise ValueError(
                f"it has the message {writer.root.name}, not {self.root.name}: choose the message of the reader"
            )
        if safe is None:
            comparison = Comparison()
            safe = not comparison.run(writer.root, self.root) and not comparison.unfinished
            self._safe[writer] = safe
            if safe:
                return
        reason = misreading(writer.root, self.root, writer._codec.parse(payload))
        if reason:
            raise ValueError(reason)

    def __repr__(self) -> str:
        return f"ProtobufSchema({self.record_name!r}, {self.canonical!r:.200})"


_NO_MESSAGE: Final = "the schema defines no message"


def _own(schema: ParsedSchema) -> ProtobufSchema:
    if not isinstance(schema, ProtobufSchema):
        raise SchemaValidationError(f"a schema of the language {schema.language} is not a Protobuf schema")
    return schema


class ProtobufLanguage:
    """The schema language Protobuf: proto2 and proto3. One object serves any number of threads."""

    name = "PROTOBUF"
    content_type = "application/x-protobuf"
    self_describing = False

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> ProtobufSchema:
        """Return a schema.

        Args:
            text: the text of a ``.proto`` file, or a file descriptor in base64.
            references: the files that the text may import, by their paths. The files of Protobuf itself need no reference.

        Raises:
            InvalidSchemaError: the text is no Protobuf schema, exceeds a limit, or imports a file that is not known.
        """
        proto, places = (read_descriptor(text), Places()) if is_descriptor(text) else read_file(text)
        imported: dict[str, File] = {}
        for number, path in enumerate(proto.dependency):
            known = (references or {}).get(path)
            if is_wellknown(path, known is not None):
                _collect(path, wellknown_file(path), imported)
                continue
            if known is None:
                places.refuse((3, number), f"the import {path!a:.200} is not among the references")
            if not isinstance(known, ProtobufSchema):
                places.refuse((3, number), f"the reference {path!a:.200} is not a Protobuf schema")
            _collect(path, known.file, imported)
        file = Linker(proto, imported, places).run()
        pool = Pool(file, imported)
        file.canonical = canonical(normalized(proto, pool))
        return ProtobufSchema(text, file, pool, next(iter(file.messages.values()), None))

    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        """Return whether the reader can read everything that the writer may write.

        The policies ``strict``, ``defaults`` and ``tolerant`` give the same verdict: each value of the writer's message keeps its
        meaning. A refutation was tried. The other messages of the file may be written, too, but a value does not say of which
        message it is: if only they differ, the verdict is undecided.
        """
        if policy not in POLICIES:
            raise ValueError(f"{policy!r:.100} is no policy; there are: {', '.join(POLICIES)}")
        before, after = _own(writer), _own(reader)
        if before is after or before.fingerprint == after.fingerprint:
            return PROVED
        if policy.startswith("confluent"):
            differences = ServerComparison(before.file, after.file).run()
            return Verdict(Outcome.REFUTED, differences) if differences else PROVED
        return _compare(before, after)


def _compare(writer: ProtobufSchema, reader: ProtobufSchema) -> Verdict:
    if writer.root is None:
        return PROVED
    comparison = Comparison()
    found = _roots(comparison, writer.root, reader)
    differences = [one.difference for one in found]
    for one in found[:_MOST_WITNESSES]:
        value = one.make()
        problem = _refusal(writer, reader, value)
        if problem:
            return Verdict(Outcome.REFUTED, tuple(differences), Witness(value, problem))
    if found:
        differences.append(Difference("undecided", "#", "the reader refuses no value that was tried"))
    if not (writer.chosen or reader.chosen):
        differences += _others(comparison, writer, reader)
    if comparison.unfinished:
        differences.append(Difference("undecided", "#", comparison.unfinished))
    return Verdict(Outcome.UNDECIDED, tuple(differences[:MOST_DIFFERENCES])) if differences else PROVED


def _roots(comparison: Comparison, writer: Message, reader: ProtobufSchema) -> list[Found]:
    """Return the differences of the messages of two schemas."""
    root = reader.root
    if root is None or (names_differ(writer, root) and not reader.chosen):
        code, message = (
            ("message-removed", "the reader has no such message")
            if root is None or writer.relative not in {one.relative for one in reader.file.messages.values()}
            else ("message-moved", f"the message of the reader is {root.name}, which comes first in its file")
        )
        return [Found(Difference(code, writer.relative, message), lambda: sample(writer))]
    return comparison.run(writer, root)


def _others(comparison: Comparison, writer: ProtobufSchema, reader: ProtobufSchema) -> list[Difference]:
    """Return the differences of the other messages that do not stand in a message."""
    known = {node.relative: node for node in reader.file.messages.values()}
    differences = []
    for node in writer.file.messages.values():
        if node is writer.root or len(node.indexes) > 1:
            continue
        if node.relative not in known:
            differences.append(Difference("message-removed", node.relative, "the reader has no such message"))
        else:
            differences += [one.difference for one in comparison.run(node, known[node.relative])]
    return differences


def _refusal(writer: ProtobufSchema, reader: ProtobufSchema, value: Any) -> str:
    """Return what the reader says about a value; empty if it reads it, or if the writer cannot write it."""
    try:
        payload = writer.encode(value)
    except SchemaValidationError:
        return ""
    try:
        reader.decode(payload, writer)
    except SchemaValidationError as error:
        return str(error)
    return ""


def _collect(path: str, file: File, found: dict[str, File]) -> None:
    """Add a file after those that it imports.

    Raises:
        InvalidSchemaError: two files have the same path, or there are too many.
    """
    known = found.get(path)
    if known is not None:
        if known is not file and known.canonical != file.canonical:
            raise InvalidSchemaError(f"two references have different files at the path {path!a:.200}")
        return
    for inner, imported in file.imports:
        _collect(inner, imported, found)
    found[path] = file
    if len(found) > MAX_IMPORTS:
        raise InvalidSchemaError(f"the schema imports more than {MAX_IMPORTS} files")


language: Final = ProtobufLanguage()
