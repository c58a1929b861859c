"""The descriptor that Google's compiler makes of a schema: the reference for the parser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from grpc_tools import protoc


def compiled(folder: Path, text: str, imports: Mapping[str, str] | None = None) -> Any | None:
    """Return the file descriptor of a text; None: the compiler refuses it."""
    for path, other in {**(imports or {}), "schema.proto": text}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(other, encoding="utf-8")
    out = folder / "out.binpb"
    include = Path(protoc.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"-I{folder}",
        f"-I{include}",
        f"--descriptor_set_out={out}",
        str(folder / "schema.proto"),
    ]
    if protoc.main(arguments) != 0:
        return None
    (found,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return found


def without_names(proto: Any) -> Any:
    """Return a descriptor without what states the default: the file's name, names for JSON, and options that protoc interprets."""
    found = descriptor_pb2.FileDescriptorProto.FromString(proto.SerializeToString())
    found.ClearField("name")
    if found.syntax == "proto2":
        found.ClearField("syntax")

    def clean(messages: Any) -> None:
        for message in messages:
            for field in (*message.field, *message.extension):
                field.ClearField("json_name")
            clean(message.nested_type)

    clean(found.message_type)
    for field in found.extension:
        field.ClearField("json_name")
    return found
