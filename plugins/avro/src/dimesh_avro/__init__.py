"""Apache Avro as a schema language of dimesh: ``pip install "dimesh[avro]"``."""

from dimesh_avro.language import AvroLanguage, AvroSchema, language

__all__ = ["AvroLanguage", "AvroSchema", "language"]
