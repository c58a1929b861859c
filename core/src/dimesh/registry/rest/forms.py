"""Other forms of a schema's text, which the parameter ``format`` asks for."""

from __future__ import annotations

from dimesh.errors import SchemaError
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.rest.requests import Request
from dimesh.spi.registry import StoredSchema
from dimesh.spi.schema import FormattedSchema


async def form_of(registry: SchemaRegistry, request: Request, stored: StoredSchema) -> str | None:
    """Return the text of a schema in the form that a request asks for; None: as it was registered, also if its language has no
    such form.
    """
    form = request.text("format")
    if not form:
        return None
    try:
        parsed = await registry.parser.parse(stored.content)
    except SchemaError:  # its language is not installed, and the text can be read all the same
        return None
    return parsed.formatted(form) if isinstance(parsed, FormattedSchema) else None
