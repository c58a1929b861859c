"""Options of a driver: a typed struct that refuses what it does not know."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from dimesh.errors import ConfigurationError

_SECRET = re.compile(r"password|secret|token|credentials|api_key|private_key$")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a driver's options. Every field has a type and, where it can, a default. What a field's name says is a
    secret is not shown.
    """

    def __repr__(self) -> str:
        shown = (
            f"{name}={'***' if _SECRET.search(name) and value else repr(value)}"
            for name in self.__struct_fields__
            for value in (getattr(self, name),)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def is_path(text: str) -> bool:
    """Whether the operating system could take ``text`` as a path: neither empty nor with a NUL or lone surrogate."""
    try:
        return bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


T = TypeVar("T", bound=Options)


def parse_options(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """``given`` as ``kind``.

    Args:
        kind: the driver's options.
        given: as written in the configuration or passed to the factory.
        where: for the message, such as ``bus 'sqlite'``.

    Raises:
        ConfigurationError: an unknown name, a missing one or a wrong type; lists what there is.
    """
    known = ", ".join(sorted(kind.__struct_fields__)) or "none"
    for name in given:
        if name not in kind.__struct_fields__:
            raise ConfigurationError(f"{where} has no option {name!r:.60}; it has: {known}")
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}; options: {known}") from error
