"""The files that every schema may import without a reference."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Final

from dimesh_protobuf.canonical import canonical
from dimesh_protobuf.linking import Linker
from dimesh_protobuf.nodes import File
from dimesh_protobuf.parsing import read_file
from dimesh_protobuf.places import Places
from dimesh_protobuf.protos import FileDescriptorProto
from dimesh_protobuf.shared_types import SHARED_TYPES

_MODULES: Final = (
    "any",
    "api",
    "descriptor",
    "duration",
    "empty",
    "field_mask",
    "source_context",
    "struct",
    "timestamp",
    "type",
    "wrappers",
)
_OF_RUNTIME: Final = frozenset(f"google/protobuf/{name}.proto" for name in _MODULES)


def is_wellknown(path: str, referenced: bool) -> bool:
    """Return whether an import means one of the files: those of Protobuf's runtime always, shared types unless there is a
    reference to a file of that path.
    """
    return path in _OF_RUNTIME or (path in SHARED_TYPES and not referenced)


@cache
def wellknown_file(path: str) -> File:
    """Return one of the files."""
    if path in _OF_RUNTIME:
        module = import_module(f"{path.removesuffix('.proto').replace('/', '.')}_pb2")
        proto = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        proto.ClearField("name")
    else:
        proto, _ = read_file(f'syntax = "proto3"; {SHARED_TYPES[path]}')
    imports = {name: wellknown_file(name) for name in proto.dependency}
    file = Linker(proto, imports, Places(), builtin=True).run()
    file.canonical = canonical(proto)
    return file
