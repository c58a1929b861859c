"""Messages and methods of Salesforce's Pub/Sub API.

They are created from descriptors at import, in a pool of their own: code that protoc generates works with one major version
of protobuf only, and would clash with an application's own copy of the same messages.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE: Final = "eventbus.v1.PubSub"
_POOL: Final = DescriptorPool()
for _file in FileDescriptorSet.FromString(files(__name__).joinpath("descriptors.binpb").read_bytes()).file:
    _POOL.Add(_file)


def _message(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"eventbus.v1.{name}"))


LATEST, EARLIEST, CUSTOM = range(3)
"""The values of ``ReplayPreset``."""

TopicInfo: Any = _message("TopicInfo")
TopicRequest: Any = _message("TopicRequest")
ProducerEvent: Any = _message("ProducerEvent")
ConsumerEvent: Any = _message("ConsumerEvent")
FetchRequest: Any = _message("FetchRequest")
FetchResponse: Any = _message("FetchResponse")
SchemaRequest: Any = _message("SchemaRequest")
SchemaInfo: Any = _message("SchemaInfo")
PublishRequest: Any = _message("PublishRequest")
PublishResponse: Any = _message("PublishResponse")
ManagedFetchRequest: Any = _message("ManagedFetchRequest")
ManagedFetchResponse: Any = _message("ManagedFetchResponse")
