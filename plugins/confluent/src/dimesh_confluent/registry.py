"""The registry of an application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dimesh import SchemaRegistry
from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh.spi.registry import StoredSchema
from dimesh.spi.schema import SchemaLanguage
from dimesh_confluent.options import DEFAULT_URL, WHERE, ConfluentOptions


class ConfluentSchemaRegistry(SchemaRegistry):
    """A schema registry with Confluent's REST API. It connects at first use.

    Args:
        url: the address, or several addresses of one registry, separated by commas.
        languages: returns a schema language by its name, such as ``AVRO``; None: the installed plugins.
        on_registered: called with each version that is registered.
        options: the options of :class:`dimesh_confluent.options.ConfluentOptions`, such as ``username`` and ``password``.

    Raises:
        ConfigurationError: there is no such option, or a value does not fit.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        languages: Callable[[str], SchemaLanguage] | None = None,
        on_registered: Callable[[StoredSchema], None] | None = None,
        **options: Any,
    ) -> None:
        from dimesh_confluent.store import ConfluentStore

        parsed = parse_options(ConfluentOptions, {"url": url, **options}, WHERE)
        super().__init__(
            ConfluentStore(parsed, SystemClock()), languages=languages, on_registered=on_registered
        )
