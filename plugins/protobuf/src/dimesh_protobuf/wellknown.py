"""The files that every schema may import without a reference: those that come with Protobuf's runtime."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Final

from google.protobuf import descriptor_pb2

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
PATHS: Final = frozenset(f"google/protobuf/{name}.proto" for name in _MODULES)
"""The paths of the files."""


@cache
def descriptor_of(path: str) -> Any:
    """Return the descriptor of a file; nobody may change it."""
    module = import_module(f"{path.removesuffix('.proto').replace('/', '.')}_pb2")
    return descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
