"""Protocol Buffers as a schema language of dimesh: ``pip install "dimesh[protobuf]"``."""

from dimesh_protobuf.language import ProtobufLanguage, ProtobufSchema, language

__all__ = ["ProtobufLanguage", "ProtobufSchema", "language"]
