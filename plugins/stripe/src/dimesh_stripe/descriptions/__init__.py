"""What fields the objects have in the API version that snapshots are read in: names and JSON types of the top level.

``objects.json`` has them. ``python -m dimesh_stripe.descriptions`` writes it, from Stripe's own SDK of that version.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

FILE = "objects.json"


@functools.cache
def described() -> Mapping[str, Any]:
    """The file: ``api_version``, and of each of ``objects`` the fields with their types."""
    found: Mapping[str, Any] = json.loads(resources.files(__name__).joinpath(FILE).read_text("utf-8"))
    return found


def fields(name: str) -> Mapping[str, str | list[str]]:
    """The JSON types of an object's fields; empty: it is not described."""
    found: Mapping[str, str | list[str]] = described()["objects"].get(name, {})
    return found


def schema(name: str) -> dict[str, Any] | None:
    """A JSON Schema of an object's rows; None: it is not described."""
    found = fields(name)
    if not found:
        return None
    # It means the same in every draft, and names none: a registry may take one only.
    return {
        "title": name,
        "type": "object",
        "properties": {field: {"type": types} if types else {} for field, types in found.items()},
        "required": ["id"],
    }
