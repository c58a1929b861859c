"""The schema registry: what a payload must look like, and how that may change."""

from __future__ import annotations

from dimesh.registry.decorator import validate_event
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.evolution import SchemaEvolutionHelper
from dimesh.registry.local import LocalSchemaRegistry
from dimesh.registry.model import (
    CompatibilityMode,
    CompatibilityResult,
    Problem,
    SchemaFormat,
    SchemaSubject,
    SchemaVersion,
)
from dimesh.registry.validation import Validator

__all__ = [
    "CompatibilityMode",
    "CompatibilityResult",
    "LocalSchemaRegistry",
    "Problem",
    "SchemaEvolutionHelper",
    "SchemaFormat",
    "SchemaRegistry",
    "SchemaSubject",
    "SchemaVersion",
    "Validator",
    "validate_event",
]
