"""The options of a driver: a typed struct that refuses unknown names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from dimesh.errors import ConfigurationError
from dimesh.secrets import MASK, Secret, is_secret, mask_urls, reveal_secrets

_WITH_NAME = re.compile(r"(?P<problem>.*) - at `\$\.(?P<name>.*)`", re.DOTALL)
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:,/\[\]]+):(\d{1,5})")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of a driver's options. Every field has a type and, if possible, a default.

    A password, key or token is a field of type :class:`~dimesh.secrets.Secret`. ``__post_init__`` may raise
    :class:`~dimesh.errors.ConfigurationError` with a message that begins with the option's name;
    :func:`parse_options` adds the name of the driver.
    """

    def __repr__(self) -> str:
        shown = (
            f"{name}={MASK if is_secret(name) and value else mask_urls(repr(value))}"
            for name in self.__struct_fields__
            for value in (getattr(self, name),)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def is_path(text: str) -> bool:
    """Return whether the operating system accepts ``text`` as a path: not empty, no NUL, no lone surrogate."""
    try:
        return bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def is_address(text: str) -> bool:
    """Return whether ``text`` is ``host:port``; an IPv6 address is written in brackets."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and 0 < int(found[1]) < 65_536


T = TypeVar("T", bound=Options)


def parse_options(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """Convert ``given`` to ``kind``.

    Args:
        kind: the driver's options.
        given: the options as written in the configuration or passed to a factory.
        where: the driver that the options are for, such as ``bus 'sqlite'``; the message begins with it.

    Raises:
        ConfigurationError: a name is unknown or missing (the message lists the options), or a value does not fit (the
            message begins with its name). The message never contains the value of a secret.
    """
    known = ", ".join(sorted(kind.__struct_fields__)) or "none"
    for name in given:
        if name not in kind.__struct_fields__:
            near = difflib.get_close_matches(str(name)[:100], kind.__struct_fields__, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ";"
            raise ConfigurationError(f"there is no option {name!r:.60}{hint} options: {known}", subject=where)
    try:
        return msgspec.convert(reveal_secrets(given), kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raised = error.__cause__  # by __post_init__
        problem = raised.problem if isinstance(raised, ConfigurationError) else _explain(str(error), known)
        text = _scrub(problem, given)
    # Outside of the handler: the original message, which may contain a value, does not stay attached.
    raise ConfigurationError(text, subject=where)


def _explain(text: str, known: str) -> str:
    """Return the message of a validation error with the name of the option, if there is one, in front."""
    found = _WITH_NAME.fullmatch(text)
    if found is None:
        return f"{text}; options: {known}"
    problem = found["problem"]
    return f"{found['name']}: {problem[:1].lower()}{problem[1:]}"


def _decode(kind: type, value: object) -> Any:
    if kind is not Secret:
        raise NotImplementedError(f"options cannot have the type {kind.__name__}")
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return Secret(value)


def _scrub(text: str, given: Mapping[str, Any]) -> str:
    for secret in _secrets(given, False):
        text = text.replace(secret, MASK)
    return mask_urls(text)


def _secrets(value: Any, secret: bool) -> Iterator[str]:
    """Yield the secret texts in a value. Very short ones are left out: they occur in every message by chance."""
    if isinstance(value, Secret):
        value, secret = value.reveal(), True
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _secrets(item, secret or is_secret(str(name)))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets(item, secret)
    elif secret and isinstance(value, str) and len(value) > 3:
        yield value
