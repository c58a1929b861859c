"""Message classes of one schema, in a pool of descriptors that no other schema sees."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.message import Message as RuntimeMessage

from dimesh.errors import InvalidSchemaError
from dimesh_protobuf.nodes import File
from dimesh_protobuf.protos import FileDescriptorProto

_META: Final = type(FileDescriptorProto)
"""The type of message classes. It makes the classes of inner messages when they are needed; the runtime's factory makes all of
them at once, by as many nested calls as messages lead to each other."""


class Pool:
    """The message classes of a file and of everything that it imports.

    Args:
        file: the linked file.
        imported: the files that it imports, directly or through others, by their paths; each after those that it imports.

    Raises:
        InvalidSchemaError: the runtime of Protobuf refuses a file.
    """

    def __init__(self, file: File, imported: dict[str, File]) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        self._classes: dict[str, Any] = {}
        self.identity = tuple(sorted(f"{path} {one.canonical}" for path, one in imported.items()))
        """The paths of the imported files and what is in them."""
        name = "schema.proto"
        while name in imported:
            name = f"_{name}"
        for path, one in (*imported.items(), (name, file)):
            proto = FileDescriptorProto()
            proto.CopyFrom(one.proto)
            proto.name = path
            _name_for_json(proto.message_type)
            try:
                self._pool.AddSerializedFile(proto.SerializeToString())
            except (TypeError, ValueError) as error:
                raise InvalidSchemaError(
                    f"Protobuf's runtime refuses {'the schema' if one is file else path!r}: {error}"[:1_000]
                ) from None

    def has_message(self, full: str) -> bool:
        """Return whether a file of the pool defines a message."""
        try:
            return self._pool.FindMessageTypeByName(full) is not None
        except KeyError:
            return False

    def extends(self, full: str, message: str) -> bool:
        """Return whether a file of the pool defines an extension of a message."""
        try:
            return bool(self._pool.FindExtensionByName(full).containing_type.full_name == message)
        except KeyError:
            return False

    def message_class(self, full: str) -> Any:
        """Return the class of a message type by its full name."""
        known = self._classes.get(full)
        if known is None:
            parts = {"DESCRIPTOR": self._pool.FindMessageTypeByName(full), "__module__": None}
            known = self._classes[full] = _META(full.rpartition(".")[2], (RuntimeMessage,), parts)
        return known


def _name_for_json(messages: Any) -> None:
    """Give each field its own name in JSON, which nobody uses here: the runtime refuses conflicts that proto2 allows."""
    for message in messages:
        for field in message.field:
            field.json_name = field.name
        _name_for_json(message.nested_type)
