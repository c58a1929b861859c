"""What the registry hands out: formats, modes, versions, subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from dimesh.errors import SubjectNotFoundError


class SchemaFormat(Enum):
    """Languages that schemas are written in."""

    JSON_SCHEMA = "JSON_SCHEMA"
    AVRO = "AVRO"
    PROTOBUF = "PROTOBUF"


class CompatibilityMode(Enum):
    """What a new version must keep. "Reads" means: every document that is valid under the one is valid under the other."""

    NONE = "NONE"
    """Nothing is checked."""
    BACKWARD = "BACKWARD"
    """The new version reads what was written under the latest one: upgrade consumers first."""
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    """The same, for all earlier versions."""
    FORWARD = "FORWARD"
    """The latest version reads what is written under the new one: upgrade producers first."""
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    """The same, for all earlier versions."""
    FULL = "FULL"
    """Both ways."""
    FULL_TRANSITIVE = "FULL_TRANSITIVE"
    """Both ways, for all earlier versions."""

    @property
    def transitive(self) -> bool:
        """Whether all earlier versions count, and not only the latest."""
        return self.value.endswith("_TRANSITIVE")

    @property
    def backward(self) -> bool:
        """Whether the new version must read old documents."""
        return self.value.startswith(("BACKWARD", "FULL"))

    @property
    def forward(self) -> bool:
        """Whether old versions must read new documents."""
        return self.value.startswith(("FORWARD", "FULL"))


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One version of a subject."""

    version: int
    schema: Mapping[str, Any] | bool
    format: SchemaFormat
    created_at: datetime
    deprecated: bool = False
    deprecation_date: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    schema_id: int = 0
    """Identifies the content in the whole registry."""


@dataclass(frozen=True, slots=True)
class SchemaSubject:
    """A subject with its live versions."""

    name: str
    versions: Mapping[int, SchemaVersion]
    latest_version: int
    compatibility_mode: CompatibilityMode
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def get_version(self, version: int | None = None) -> SchemaVersion:
        """A version; None: the latest.

        Raises:
            SubjectNotFoundError: there is no such version.
        """
        number = self.latest_version if version is None else version
        found = self.versions.get(number)
        if found is None:
            have = ", ".join(str(n) for n in sorted(self.versions)) or "none"
            raise SubjectNotFoundError(f"subject {self.name!r} has no version {number}; it has {have}")
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """A place where data does not satisfy a schema."""

    path: str
    """JSON Pointer into the data; empty for the whole."""
    message: str

    def __str__(self) -> str:
        return f"{self.path or '(the whole)'}: {self.message}"


@dataclass(frozen=True, slots=True)
class CompatibilityResult:
    """Whether a schema may follow, and why not."""

    compatible: bool
    reasons: tuple[str, ...] = ()
    """Each with the place in the schema. "cannot be decided" counts as incompatible: better a question than a broken
    consumer."""

    def __bool__(self) -> bool:
        return self.compatible
