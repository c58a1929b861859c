"""The fields of the objects in the API version of snapshots: the names and JSON types of the top level.

They are in ``objects.json``, and the paths, parameters and event types of the API in ``declared.json``. The command
``python -m dimesh_stripe.descriptions`` writes both files from Stripe's own SDK of that version.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

FILE = "objects.json"
DECLARED = "declared.json"


@functools.cache
def described() -> Mapping[str, Any]:
    """Return the content of the file: ``api_version``, and ``objects`` with the types of their fields."""
    found: Mapping[str, Any] = json.loads(resources.files(__name__).joinpath(FILE).read_text("utf-8"))
    return found


@functools.cache
def api() -> Mapping[str, Any]:
    """Return what Stripe's SDK declares: ``lists``, ``reads`` and ``deletes`` by path below ``/v1/``, and ``events``."""
    found: Mapping[str, Any] = json.loads(resources.files(__name__).joinpath(DECLARED).read_text("utf-8"))
    return found


@functools.cache
def list_params(path: str) -> frozenset[str]:
    """Return the parameters that a list accepts; empty for a path that is no list.

    Args:
        path: the path below ``/v1/``, with ``{}`` for the id of a parent.
    """
    for known, declared in api()["lists"].items():
        if re.sub(r"{\w+}", "{}", known) == path:
            return frozenset(declared["params"])
    return frozenset()


def fields(name: str) -> Mapping[str, str | list[str]]:
    """Return the JSON types of an object's fields; empty if there is no description."""
    found: Mapping[str, str | list[str]] = described()["objects"].get(name, {})
    return found


def schema(name: str) -> dict[str, Any] | None:
    """Return a JSON Schema of an object's rows; None if there is no description."""
    found = fields(name)
    if not found:
        return None
    # The schema means the same in every draft and names none: a registry may accept one only.
    return {
        "title": name,
        "type": "object",
        "properties": {field: {"type": types} if types else {} for field, types in found.items()},
        "required": ["id"] if "id" in found else [],
    }
