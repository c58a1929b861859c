"""Confluent's schema registry as a registry of dimesh: ``pip install "dimesh[confluent]"``."""

from dimesh_confluent.registry import ConfluentSchemaRegistry

__all__ = ["ConfluentSchemaRegistry"]
