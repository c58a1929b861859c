"""The fields of the main objects: their names and JSON types (reference, *Tickets*, *Users*, *Organizations*, and recorded rows).

Custom fields of users and organizations are within one field, and those of tickets are a list, so an account's own fields do not
change the schema.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any


@functools.cache
def described() -> Mapping[str, Mapping[str, list[str]]]:
    """Return the JSON types of the fields, by object."""
    found: Mapping[str, Mapping[str, list[str]]] = json.loads(
        resources.files(__name__).joinpath("objects.json").read_text("utf-8")
    )
    return found


def schema(name: str) -> dict[str, Any] | None:
    """Return a JSON Schema of an object's rows; None if there is no description."""
    fields = described().get(name)
    if fields is None:
        return None
    # The schema means the same in every draft and names none: a registry may accept one only.
    properties = {field: {"type": types} if types else {} for field, types in fields.items()}
    return {"title": name, "type": "object", "properties": properties, "required": ["id"]}
