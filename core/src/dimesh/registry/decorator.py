"""A decorator that checks events against a schema before a handler is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from dimesh.events.event import Event
from dimesh.registry.engine import SchemaRegistry


def validate_event(
    subject: str, registry: SchemaRegistry
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a handler: it is called only with events whose payload satisfies the latest schema of ``subject``.

    The first argument that is an Event is checked. Plain and ``async`` functions can be decorated; the result is ``async``.

    Raises (when called):
        SchemaValidationError: the payload does not satisfy the schema. The bus dead-letters the event at once.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def checked(*args: Any, **kwargs: Any) -> Any:
            event = next((a for a in (*args, *kwargs.values()) if isinstance(a, Event)), None)
            if event is None:
                raise TypeError(f"{function.__qualname__} was called without an Event to validate")
            (await registry.registered(subject)).check(event.payload)
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return checked

    return decorate
