"""The handlers of the settings: imported, checked and subscribed."""

from __future__ import annotations

import asyncio
import builtins
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from dimesh.bus.engine import EventBus
from dimesh.bus.foreign import ForeignRecords
from dimesh.bus.handler import EventHandler
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.patterns import is_pattern
from dimesh.bus.retry import CircuitBreaker, RetryPolicy
from dimesh.errors import ConfigurationError, describe
from dimesh.settings import HandlerSection
from dimesh.spi.bus import StartAt

Prepared = tuple[HandlerSection, EventHandler, SubscriptionOptions]
"""A handler of the settings, imported."""


def prepare(sections: Sequence[HandlerSection]) -> list[Prepared]:
    """Import the handlers of the settings, and check their options.

    Raises:
        ConfigurationError: a handler cannot be imported, or an option is out of range.
    """
    return [(section, handler_of(section), subscription_options(section)) for section in sections]


async def subscribe_all(bus: EventBus, handlers: Sequence[Prepared]) -> list[str]:
    """Subscribe the handlers, and return a line about each for the log, in their order.

    They wait for the disk or the broker at the same time. Only those of one group and topic keep their order, and so do all
    of a group that names several topics or a pattern, since such a subscription starts where the group already is.

    Raises:
        DimeshError: that of the first handler that cannot be subscribed. The others are subscribed then.
    """
    several = {_group(section) for section, *_ in handlers if not _one_topic(section)}
    chains: dict[tuple[str, ...], list[Prepared]] = {}
    for one in handlers:
        group, topic = _group(one[0]), one[0].topic
        key = (group,) if group in several else (group, str(topic))
        chains.setdefault(key, []).append(one)
    outcomes = await asyncio.gather(
        *(_subscribe_in_turn(bus, chain) for chain in chains.values()), return_exceptions=True
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [_line(section) for section, *_ in handlers]


async def _subscribe_in_turn(bus: EventBus, handlers: Sequence[Prepared]) -> None:
    for section, handler, options in handlers:
        await bus.subscribe(
            section.topic,
            handler,
            group=_group(section),
            start=StartAt(section.start),
            produce_to=section.produce_to,
            options=options,
        )


def _group(section: HandlerSection) -> str:
    return section.group or section.call


def _one_topic(section: HandlerSection) -> bool:
    return isinstance(section.topic, str) and not is_pattern(section.topic)


def _line(section: HandlerSection) -> str:
    topics = section.topic if isinstance(section.topic, str) else ", ".join(section.topic)
    return f"handler {section.call}: {topics} as group {_group(section)}"


def handler_of(section: HandlerSection) -> EventHandler:
    """Return the handler that a section of the settings describes.

    Raises:
        ConfigurationError: the function cannot be imported, or cannot be a handler; the message names it.
    """
    return EventHandler(
        import_handler(section.call),
        section.event_types or None,
        section.pillars or None,
        section.priorities or None,
        batch_size=section.batch_size,
        batch_wait=section.batch_wait,
        name=section.call,
    )


def subscription_options(section: HandlerSection) -> SubscriptionOptions:
    """Return the options of a handler's subscription.

    Raises:
        ConfigurationError: a fatal error cannot be imported, or a value is out of range.
    """
    return SubscriptionOptions(
        concurrency=section.concurrency,
        max_in_flight=section.max_in_flight,
        retry=RetryPolicy(
            attempts=section.attempts,
            base=section.retry_base,
            maximum=section.retry_maximum,
            fatal=tuple(import_error(name) for name in section.fatal),
            patience=section.retry_patience,
            redeliver=tuple(section.redeliver),
        ),
        handler_timeout=section.timeout,
        rate=section.rate,
        foreign=None if section.foreign is None else ForeignRecords(**section.foreign.model_dump()),
        breaker=CircuitBreaker(section.breaker_failures, pause=section.breaker_pause)
        if section.breaker
        else None,
    )


def import_handler(path: str) -> Callable[..., Any]:
    """Import the function that ``package.module:function`` names.

    Raises:
        ConfigurationError: the module or the function does not exist, or importing it failed; the message names it.
    """
    target = import_object(path, "handler")
    if not callable(target):
        raise ConfigurationError(f"handler {path!r} is {type(target).__name__}, not a function")
    return target  # type: ignore[no-any-return]


def import_error(name: str) -> type[BaseException]:
    """Return the exception that ``ValueError`` or ``package.module:Class`` names.

    Raises:
        ConfigurationError: there is no such class, or it is not an exception.
    """
    target = import_object(name, "fatal error") if ":" in name else getattr(builtins, name, None)
    if not (isinstance(target, type) and issubclass(target, BaseException)):
        raise ConfigurationError(
            f"fatal error {name[:200]!r} is not an exception: name a built-in one, such as 'ValueError', or "
            "'package.module:Class'"
        )
    return target


def import_object(path: str, role: str) -> Any:
    """Import the object that ``package.module:attribute`` names; ``role`` is for messages.

    Raises:
        ConfigurationError: the module or the attribute does not exist, or importing it failed; the message names it.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        what = "function" if role == "handler" else "object"
        raise ConfigurationError(f"{role} {path[:200]!r} is not of the form package.module:{what}")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{role} {path!r}: there is no module {error.name!r} (also not in the working folder)"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the module may call sys.exit
        raise ConfigurationError(
            f"{role} {path!r}: importing {module_name} failed: {describe(error)}"
        ) from error
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise ConfigurationError(f"{role} {path!r}: {module_name} has no {attribute!r}") from None
        except Exception as error:  # of the module's own __getattr__
            raise ConfigurationError(
                f"{role} {path!r}: reading {attribute!r} of {module_name} failed: {describe(error)}"
            ) from error
    return target
