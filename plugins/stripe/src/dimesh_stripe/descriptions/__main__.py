"""``python -m dimesh_stripe.descriptions`` generates the descriptions from the type annotations of Stripe's SDK.

The SDK must have the API version :data:`dimesh_stripe.options.API_VERSION`. It is needed for this only, and never when changes
are captured.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Union, get_args, get_origin

import stripe
from stripe._object_classes import get_object_class

from dimesh_stripe.descriptions import DECLARED, FILE, declared
from dimesh_stripe.options import API_VERSION
from dimesh_stripe.resources import RESOURCES
from dimesh_stripe.v2 import V2

_PLAIN: Final[dict[Any, str]] = {
    bool: "boolean", int: "integer", float: "number", str: "string", Decimal: "string", type(None): "null",
}  # fmt: skip
_ORDER: Final = ("string", "integer", "number", "boolean", "array", "object", "null")


def generate() -> dict[str, Any]:
    """Return the content of the file."""
    found = {name: _fields(name) for name in sorted([*RESOURCES, *V2])}
    return {
        "api_version": stripe.api_version,
        "objects": {name: fields for name, fields in found.items() if fields},
    }


def text(content: dict[str, Any]) -> str:
    """Return the content as JSON with one field per line."""
    return (
        json.dumps(content, indent=1).replace("[\n    ", "[").replace(",\n    ", ", ").replace("\n   ]", "]")
        + "\n"
    )


def _fields(name: str) -> dict[str, str | list[str]]:
    # For an object that it does not know, the SDK returns a class without annotations.
    kind = get_object_class("V2" if name in V2 else "V1", name)
    if kind is stripe.StripeObject:
        return {}
    renamed = kind._field_remappings
    encoded = kind._field_encodings
    found: dict[str, str | list[str]] = {}
    for field, annotation in inspect.get_annotations(kind).items():
        if field.startswith("_") or _is_class_variable(annotation):
            continue
        given = _types(annotation)
        if field in encoded:  # a number that is sent as text
            given = {"string" if one in ("integer", "number") else one for one in given}
        listed = sorted(given, key=_ORDER.index)
        found[renamed.get(field, field)] = listed[0] if len(listed) == 1 else listed
    return dict(sorted(found.items()))


def _is_class_variable(annotation: Any) -> bool:
    origin: Any = get_origin(annotation)
    return origin is ClassVar


def _types(annotation: Any) -> set[str]:
    """Return the JSON types of an annotation; empty for any type. A class of the SDK, or its name, is an object."""
    origin = get_origin(annotation)
    if annotation is Any:
        return set()
    if origin is Union or origin is types.UnionType:
        return {one for arg in get_args(annotation) for one in _types(arg)}
    if origin is Literal:
        return {_PLAIN[type(value)] for value in get_args(annotation)}
    if origin is list:
        return {"array"}
    return {_PLAIN.get(annotation, "object")}


def main() -> int:
    """Write the file."""
    if stripe.api_version != API_VERSION:
        sys.stderr.write(
            f"the SDK has the API version {stripe.api_version}; install the SDK with {API_VERSION}\n"
        )
        return 1
    Path(__file__).with_name(FILE).write_text(text(generate()), "utf-8")
    Path(__file__).with_name(DECLARED).write_text(text(declared.generate()), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
