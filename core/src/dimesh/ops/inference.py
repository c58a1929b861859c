"""JSON Schemas that are made from something else: samples, the events of a topic, or a class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Final, is_typeddict

from dimesh.bus.engine import EventBus
from dimesh.errors import CodecError, ConfigurationError, InvalidSchemaError, PayloadError, describe
from dimesh.events.names import show
from dimesh.ops.newest import newest_records
from dimesh.ops.search import Search
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.spi.bus import Filter

_DRAFT_2020: Final = "https://json-schema.org/draft/2020-12/schema"


def infer(samples: Sequence[Any], title: str = "") -> dict[str, Any]:
    """Return a JSON Schema that allows the samples: types, nested objects and arrays, and what is required because all samples
    have it.

    Raises:
        ConfigurationError: there are no samples.
    """
    if not samples:
        raise ConfigurationError("there are no samples to infer a schema from")
    made: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#"}
    if title:
        made["title"] = title
    return {**made, **_inferred(list(samples))}


def _inferred(values: list[Any]) -> dict[str, Any]:
    kinds = sorted({_kind(value) for value in values})
    if "number" in kinds and "integer" in kinds:
        kinds.remove("integer")
    made: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    objects = [value for value in values if isinstance(value, Mapping)]
    if objects:
        names = {name: None for value in objects for name in value}
        made["properties"] = {
            name: _inferred([value[name] for value in objects if name in value]) for name in names
        }
        required = [name for name in names if all(name in value for value in objects)]
        if required:
            made["required"] = required
    items = [item for value in values if isinstance(value, list) for item in value]
    if items:
        made["items"] = _inferred(items)
    return made


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


async def samples_of_topic(bus: EventBus, topic: str, event_type: str | None, limit: int) -> list[Any]:
    """Return the payloads of the newest events of a topic, oldest first.

    Args:
        bus: an open bus.
        topic: the topic.
        event_type: only events of this type; None: the events must all be of one type.
        limit: the largest number of events to read.

    Raises:
        TopicNotFoundError: there is no such topic.
        NotOfferedError: the backend cannot read records again.
        ConfigurationError: there are no events, events of several types, or a payload is not JSON.
    """
    wanted = Filter() if event_type is None else Filter(frozenset({event_type}))
    found = await newest_records(bus, topic, limit, Search(wanted))
    samples: list[Any] = []
    types: set[str] = set()
    for delivery in found.records:
        try:
            event = delivery.record.event
            samples.append(event.payload)
        except CodecError:
            continue  # bytes of another program
        except PayloadError as error:
            raise ConfigurationError(
                f"an event of topic {topic} has no JSON to infer from: {error}"
            ) from None
        types.add(event.event_type.value)
    if not samples:
        of = "" if event_type is None else f" of type {event_type}"
        raise ConfigurationError(f"topic {topic} has no events{of} to infer a schema from")
    if len(types) > 1:
        raise ConfigurationError(
            f"topic {topic} has events of several types: choose one with --type, such as {min(types)} (there are "
            f"{', '.join(sorted(types)[:10])})"
        )
    return samples


def schema_of_class(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a pydantic model, a msgspec Struct, a dataclass or a TypedDict.

    Raises:
        ConfigurationError: it is something else, or one of its fields has no JSON Schema.
    """
    try:
        made = _made(kind)
    except ConfigurationError:
        raise
    except Exception as error:  # of the libraries, about a type of a field
        raise ConfigurationError(f"{show(kind)} has no JSON Schema: {describe(error)}") from error
    schema = {"$schema": _DRAFT_2020, **made}
    try:
        JsonSchema().parse(json.dumps(schema))
    except (InvalidSchemaError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{show(kind)} gives no valid JSON Schema: {error}") from None
    return schema


def _made(kind: Any) -> dict[str, Any]:
    import msgspec

    of_pydantic = getattr(kind, "model_json_schema", None)
    if isinstance(kind, type) and callable(of_pydantic):
        return dict(of_pydantic())
    if isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct) or is_dataclass(kind) or is_typeddict(kind)
    ):
        (root,), parts = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
        return _inlined(root, parts)
    raise ConfigurationError(
        f"{show(kind)} is not a pydantic model, a msgspec Struct, a dataclass or a TypedDict"
    )


def _inlined(root: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a class at the top, where a person looks for it, and not behind a reference."""
    name = str(root.get("$ref", "")).rpartition("/")[2]
    if name not in parts:
        return {**root, **({"$defs": dict(parts)} if parts else {})}
    needed = json.dumps(parts)
    others = {key: part for key, part in parts.items() if key != name or f'"#/$defs/{name}"' in needed}
    return {**parts[name], **({"$defs": others} if others else {})}
