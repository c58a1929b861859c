"""The schema registry: schemas of payloads, and the rules by which they may change."""

from __future__ import annotations

from dimesh.registry.decorator import validate_event
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.evolution import SchemaEvolutionHelper
from dimesh.registry.local import LocalSchemaRegistry
from dimesh.registry.model import (
    Comparison,
    CompatibilityMode,
    CompatibilityResult,
    Problem,
    SchemaFormat,
    SchemaSubject,
    SchemaVersion,
)

__all__ = [
    "Comparison",
    "CompatibilityMode",
    "CompatibilityResult",
    "LocalSchemaRegistry",
    "Problem",
    "SchemaEvolutionHelper",
    "SchemaFormat",
    "SchemaRegistry",
    "SchemaSubject",
    "SchemaVersion",
    "validate_event",
]
