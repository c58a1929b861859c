"""Whether a reader's schema allows everything that a writer's schema allows: proved, refuted with a witness, or undecided."""

from __future__ import annotations

from dimesh.registry.jsonschema.compatibility.verdict import compare

__all__ = ["compare"]
