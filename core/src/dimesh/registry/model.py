"""The values of the registry: formats, compatibility modes, versions and subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from dimesh.errors import SubjectNotFoundError
from dimesh.spi.registry import Reference
from dimesh.spi.schema import Problem, Verdict

__all__ = [
    "Comparison",
    "CompatibilityMode",
    "CompatibilityResult",
    "Problem",
    "SchemaFormat",
    "SchemaSubject",
    "SchemaVersion",
]


class SchemaFormat(Enum):
    """The languages of schemas."""

    JSON_SCHEMA = "JSON_SCHEMA"
    AVRO = "AVRO"
    PROTOBUF = "PROTOBUF"


class CompatibilityMode(Enum):
    """The rule for new versions. A version "reads" another one if it accepts every document that is valid under that one."""

    NONE = "NONE"
    """Nothing is checked."""
    BACKWARD = "BACKWARD"
    """The new version reads documents of the latest one: upgrade consumers first."""
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    """The new version reads documents of all earlier versions."""
    FORWARD = "FORWARD"
    """The latest version reads documents of the new one: upgrade producers first."""
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    """All earlier versions read documents of the new one."""
    FULL = "FULL"
    """The new version and the latest one read each other's documents."""
    FULL_TRANSITIVE = "FULL_TRANSITIVE"
    """The new version and all earlier ones read each other's documents."""

    @property
    def transitive(self) -> bool:
        """Whether a new version is compared with all earlier versions and not only with the latest."""
        return self.value.endswith("_TRANSITIVE")

    @property
    def backward(self) -> bool:
        """Whether the new version must read documents of old versions."""
        return self.value.startswith(("BACKWARD", "FULL"))

    @property
    def forward(self) -> bool:
        """Whether old versions must read documents of the new version."""
        return self.value.startswith(("FORWARD", "FULL"))


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One version of a subject."""

    version: int
    schema: Any
    """The schema: JSON values in a language that is written in JSON, else the text."""
    format: SchemaFormat | str
    """The language; a name for a language of a third party."""
    created_at: datetime
    deprecated: bool = False
    deprecation_date: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the author states about the schema; it belongs to the schema's identity."""
    schema_id: int = 0
    """The id of the schema's content within its context of the registry."""
    guid: str = ""
    """The globally unique id of the schema's content."""
    references: tuple[Reference, ...] = ()
    """The registered schemas that the schema refers to."""
    text: str = ""
    """The schema as it was registered, byte for byte."""


@dataclass(frozen=True, slots=True)
class SchemaSubject:
    """A subject with its versions, without deleted ones."""

    name: str
    versions: Mapping[int, SchemaVersion]
    latest_version: int
    compatibility_mode: CompatibilityMode
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def get_version(self, version: int | None = None) -> SchemaVersion:
        """Return a version of the subject; None: the latest one.

        Raises:
            SubjectNotFoundError: there is no such version.
        """
        number = self.latest_version if version is None else version
        found = self.versions.get(number)
        if found is None:
            have = ", ".join(str(n) for n in sorted(self.versions)) or "none"
            raise SubjectNotFoundError(
                f"subject {self.name!r} has no version {number}; its versions are: {have}"
            )
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """One schema read by another one."""

    version: int
    """The registered version that the new schema was compared with."""
    reads: bool
    """True: the new schema reads data of the version; False: the version reads data of the new schema."""
    verdict: Verdict

    def __str__(self) -> str:
        return f"{'reading' if self.reads else 'read by'} version {self.version}"


@dataclass(frozen=True, slots=True)
class CompatibilityResult:
    """The answer to whether a schema may follow, with the reasons if not."""

    compatible: bool
    reasons: tuple[str, ...] = ()
    """The reasons in words, each with the location in the schema, and an example where there is one."""
    comparisons: tuple[Comparison, ...] = ()
    """The comparisons that were made, with their verdicts: proved, refuted with a witness, or undecided."""

    def __bool__(self) -> bool:
        return self.compatible
