"""Reads a schema that was given as a file descriptor in base64, as clients of Confluent's registry send it."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any, Final

from google.protobuf.message import DecodeError

from dimesh.errors import InvalidSchemaError
from dimesh_protobuf.limits import MAX_TEXT
from dimesh_protobuf.protos import FileDescriptorProto

_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z")


def is_descriptor(text: str) -> bool:
    """Return whether a text looks like base64. No ``.proto`` file does, except for a single word."""
    return len(text) <= 2 * MAX_TEXT and _BASE64.match(text.strip()) is not None


def read_descriptor(text: str) -> Any:
    """Return the file descriptor of a text in base64, without what does not count: the file's name, and where its parts stood.

    Raises:
        InvalidSchemaError: the text is no file descriptor.
    """
    try:
        proto = FileDescriptorProto.FromString(b64decode(text.strip(), validate=True))
    except (ValueError, DecodeError):
        raise InvalidSchemaError(
            "the schema is neither the text of a .proto file nor a file descriptor in base64"
        ) from None
    proto.ClearField("source_code_info")
    proto.ClearField("name")
    if proto.syntax == "proto2":
        proto.ClearField("syntax")
    if not proto.ListFields():
        raise InvalidSchemaError("the descriptor is empty")
    if not _is_text(proto):
        raise InvalidSchemaError("the descriptor has a text that is not valid UTF-8")
    if len(set(proto.dependency)) < len(proto.dependency):
        raise InvalidSchemaError("the descriptor imports a file twice")
    if any(not 0 <= n < len(proto.dependency) for n in (*proto.public_dependency, *proto.weak_dependency)):
        raise InvalidSchemaError("the descriptor marks an import that does not exist")
    return proto


def _is_text(message: Any) -> bool:
    """Return whether all text is UTF-8: for what is not, the runtime gives bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if any(isinstance(item, bytes) for item in (value if field.default_value == [] else [value])):
                return False
        elif field.message_type is not None:
            if not all(map(_is_text, value if field.default_value == [] else [value])):
                return False
    return True
