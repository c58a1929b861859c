"""The classes of file descriptors, in a pool of their own.

In the pool that a process shares, other packages register options of their own, such as those of Google's APIs. Descriptors would
then have other fields, and schemas another identity, depending on what else was imported.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation

if api_implementation.Type() != "upb":
    raise ImportError(
        "dimesh-protobuf needs the compiled runtime of Protobuf (upb), because the one in Python accepts damaged payloads: "
        "install protobuf from a wheel, and unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
    )

_pool: Final = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(descriptor_pb2.DESCRIPTOR.serialized_pb)


def _class_of(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"google.protobuf.{name}"))


FileDescriptorProto: Final = _class_of("FileDescriptorProto")
"""The class of file descriptors."""
FileOptions: Final = _class_of("FileOptions")
"""The class of the options of a file."""
Type: Final = descriptor_pb2.FieldDescriptorProto
"""The numbers of types and labels of fields, such as ``Type.TYPE_INT32`` and ``Type.LABEL_OPTIONAL``."""
