"""Compound documents: a schema together with the schemas that it refers to, in one text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dimesh.registry.jsonschema.documents import BASE
from dimesh.registry.jsonschema.drafts import Draft


def bundled(document: Any, addresses: Mapping[str, Any], draft: Draft) -> str:
    """Return the text of a schema in which others are embedded, each with its address, so that references stay as they are.

    Args:
        document: the schema.
        addresses: the schemas that it refers to, directly or through others, by their addresses.
        draft: the draft of the schema.
    """
    keyword = "definitions" if draft is Draft.DRAFT_7 else "$defs"
    schema = dict(document) if isinstance(document, Mapping) else {"not": {}} if document is False else {}
    parts = dict(schema.get(keyword, {}))
    for address, part in addresses.items():
        address = address.removeprefix(BASE)
        name = address
        while name in parts:
            name += "_"
        parts[name] = _embedded(address, part)
    return json.dumps({**schema, keyword: parts}, ensure_ascii=False, separators=(",", ":"))


def _embedded(address: str, part: Any) -> Any:
    if not isinstance(part, Mapping):
        return {"$id": address, **({"not": {}} if part is False else {})}
    return {**part, "$id": address}
