"""Which functions can be handlers. It is decided when the handler is made, so that no event counts as handled without running."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final

from dimesh.errors import ConfigurationError, RejectError

MOST_LAYERS: Final = 100
"""The number of wrappers that are looked through: an object may claim to wrap ever new ones."""
NOT_RUN: Final = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType})
"""The types of results whose code has not run, and which nothing runs any more."""


def check_handler(function: Any, batch: bool) -> None:
    """Refuse what cannot handle an event, or would seem to handle it without running.

    Args:
        function: the handler: a function, method, partial or callable object, with or without decorators.
        batch: whether the handler is called with a list of events.

    Raises:
        ConfigurationError: it is not callable, is a class or a generator function, or cannot be called with one argument.
    """
    if not callable(function):
        raise ConfigurationError(f"a handler must be callable, {type(function).__name__} is not")
    name = name_of(function)
    if isinstance(function, type):
        raise ConfigurationError(
            f"the handler {name} is a class, and calling it only makes an object: give an object of it, such as {name}()"
        )
    for layer in _layers(function):
        if inspect.isgeneratorfunction(layer) or inspect.isasyncgenfunction(layer):
            raise ConfigurationError(
                f"the handler {name} is a generator function ({name_of(layer)} contains 'yield'), and calling it runs nothing: "
                "remove the 'yield', and return what the handler produces (with produce_to an event, or a list of them)"
            )
    given = "a list of events" if batch else "the event"
    try:
        inspect.signature(function, follow_wrapped=False).bind(None)
    except ValueError:
        return  # a builtin that does not state its signature
    except TypeError as error:
        raise ConfigurationError(
            f"the handler {name} cannot be called with one argument, {given}: {error}. Give it exactly one parameter without a "
            "default, and bind all others with functools.partial"
        ) from None


def not_run(name: str, result: object) -> RejectError:
    """Return the error for a result of one of the types in :data:`NOT_RUN`."""
    kind = type(result).__name__.replace("_", " ")
    remedy = "run it, and return what it yields as a list"
    if isinstance(result, CoroutineType):
        result.close()
        remedy = "await it"
    return RejectError(
        f"the handler {name} returned a {kind}, whose code has not run: {remedy} inside the handler"
    )


def is_async(function: Any) -> bool:
    """Return whether a handler is a coroutine function, also behind decorators, partials and callable objects."""
    return any(inspect.iscoroutinefunction(layer) for layer in _layers(function))


def name_of(function: Any) -> str:
    """Return a name for listings: the qualified name of the function, behind partials, or the class of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", "") or type(function).__name__


def _layers(function: Any) -> Iterator[Callable[..., Any]]:
    """Yield the function and everything that it wraps: decorated functions, partials, and the methods of callable objects."""
    seen: set[int] = set()
    while function is not None and id(function) not in seen and len(seen) < MOST_LAYERS:
        seen.add(id(function))
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.isroutine(function):
            return
        else:
            function = getattr(type(function), "__call__", None)  # noqa: B004 - the method itself is needed
