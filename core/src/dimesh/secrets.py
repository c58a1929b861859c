"""Secrets: a type that does not show its value, and one rule that decides which names hold a secret.

Settings, driver options, lineage and logs use this module, so that a value that one of them hides is hidden by all.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn

MASK: Final = "********"
"""The text that is shown in place of a secret."""


class Secret:
    """A text that is shown only on request.

    Its ``repr``, ``str`` and ``format`` are a mask. Pickling it is an error, and neither :mod:`json` nor msgspec can
    encode it. Pydantic models accept a plain string for it and dump the mask in JSON mode.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a secret is made from a string, not from {type(value).__name__}")
        self._value = value

    def reveal(self) -> str:
        """Return the text itself. Pass it on at once; do not keep it in an attribute."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # Encoded, because compare_digest refuses strings that are not ASCII.
        mine, theirs = (text.encode("utf-8", "surrogatepass") for text in (self._value, other._value))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: its value would be written as plain text")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def masked(secret: object) -> str:
            return str(secret) if secret else ""

        def made(value: object) -> Secret:
            if isinstance(value, cls):
                return value
            if isinstance(value, str):
                return cls(value)
            raise PydanticCustomError("string_type", "Input should be a valid string")

        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(cls, core_schema.str_schema()),
            python_schema=core_schema.no_info_plain_validator_function(made),
            serialization=core_schema.plain_serializer_function_ser_schema(masked, when_used="json"),
        )


# -- names -----------------------------------------------------------------------------------------

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATOR = re.compile(r"[^a-z0-9]+")
_SECRET = re.compile(
    r"secret|passw|passphrase|pwd|credential|assertion|bearer|cookie|jwt|dsn|signature|private|connection_?string"
    r"|auth(?!or(?!i[sz]))"  # neither "author" nor "co_authors", but "authorization"
    r"|token|session_id|card_(?:number|no$)|(?:api|access|signing|encryption)_?key|keys?$"
    r"|(?:^|_)(?:pins?|otp|ssn|cvv2?)(?:_|$)"
)
_HARMLESS = re.compile(
    # Keys that identify or order something, and counts of a language model's tokens.
    r"(?:primary|foreign|ordering|partition|sort|routing|row|message|idempotency|dedup|cache|group|public)_keys?$"
    r"|(?:max|min|total|prompt|completion|input|output|cached|reasoning|num|used)_(?:\w+_)?tokens$"
)


@lru_cache(maxsize=4_096)
def is_secret(name: str) -> bool:
    """Return whether a value under this (dotted) name must not be shown. A name in doubt counts as secret."""
    return any(
        _SECRET.search(part) is not None and _HARMLESS.search(part) is None
        for part in map(_words, name.split("."))
    )


def _words(name: str) -> str:
    """Return ``apiKey``, ``API-Key`` and ``api_key`` as ``api_key``."""
    return _SEPARATOR.sub("_", _CAMEL.sub("_", name).lower())


def wrap_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``values`` in which every string under a secret name, however deep, is a :class:`Secret`."""
    return {name: _wrap(value, is_secret(name)) for name, value in values.items()}


def _wrap(value: Any, secret: bool) -> Any:
    if isinstance(value, str):
        return Secret(value) if secret else value
    if isinstance(value, Mapping):
        return {name: _wrap(item, secret or is_secret(str(name))) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_wrap(item, secret) for item in value]
    return value


def reveal_secrets(value: Any) -> Any:
    """Return ``value`` with every :class:`Secret` in its tables and lists replaced by its text."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {name: reveal_secrets(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [reveal_secrets(item) for item in value]
    return value


# -- addresses -------------------------------------------------------------------------------------

_LOGIN = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
_PARAMETER = re.compile(r"(?<=[?&;])([^=&;?#\s]{1,200})=([^&;#\s]+)")


def mask_urls(text: str) -> str:
    """Return ``text`` with the logins of its URLs, and URL parameters with secret names, masked."""
    if "://" not in text:
        return text
    text = _LOGIN.sub(MASK, text)
    return _PARAMETER.sub(lambda found: f"{found[1]}={MASK}" if is_secret(found[1]) else found[0], text)
