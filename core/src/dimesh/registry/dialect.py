"""The JSON Schema that the registry accepts: Draft 7, minus what cannot be checked safely or the same way everywhere.

Refused at registration, each with its place: another draft; a ``$ref`` that leaves the document or leads nowhere (no
schema may open a file or a socket); an ``$id`` below the root; a regular expression outside the subset that ECMA-262,
Rust and Python read alike. What is left is rewritten so that two validation engines cannot disagree: character classes are
spelled out, formats are the listed ones, content keywords are annotations.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from dimesh.errors import InvalidSchemaError

DRAFT_7: Final = frozenset(
    {"http://json-schema.org/draft-07/schema", "http://json-schema.org/draft-07/schema#"}
    | {"https://json-schema.org/draft-07/schema", "https://json-schema.org/draft-07/schema#"}
)
MAX_DEPTH: Final = 100

SUBSCHEMA: Final = frozenset(
    {"additionalItems", "additionalProperties", "contains", "else", "if", "not", "propertyNames", "then"}
)
SUBSCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf"})
NAMED_SUBSCHEMAS: Final = frozenset({"definitions", "patternProperties", "properties"})
ANNOTATIONS: Final = frozenset(
    {
        "$comment",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "default",
        "definitions",
        "deprecated",
    }
    | {"description", "examples", "readOnly", "title", "writeOnly"}
)


# -- formats -----------------------------------------------------------------------------------------

_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z"
)
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z"
)


def _is_date(text: str) -> bool:
    try:
        return bool(_DATE.match(text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _is_time(text: str) -> bool:
    try:
        return bool(_TIME.match(text)) and time.fromisoformat(_micro(text)) is not None
    except ValueError:
        return False


def _is_date_time(text: str) -> bool:
    if len(text) < 20 or text[10] not in "Tt" or not _DATE.match(text[:10]) or not _TIME.match(text[11:]):
        return False
    try:
        return bool(datetime.fromisoformat(_micro(text)))
    except ValueError:
        return False


def _micro(text: str) -> str:
    """Python's reader takes six digits of a second and an upper-case Z."""
    return re.sub(r"(\.\d{1,6})\d*", r"\1", text.upper())


def _is_ip(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            return bool(kind(text)) and "%" not in text
        except ValueError:
            return False

    return check


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_uri(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.scheme and (parts.netloc or parts.path)) and parts.port != -1
    except ValueError:
        return False


FORMATS: Final[Mapping[str, Callable[[str], bool]]] = {
    "date": _is_date,
    "date-time": _is_date_time,
    "email": lambda text: bool(_EMAIL.match(text)) and ".." not in text and not text.startswith("."),
    "hostname": lambda text: bool(_HOST.match(text)),
    "ipv4": _is_ip(ipaddress.IPv4Address),
    "ipv6": _is_ip(ipaddress.IPv6Address),
    "time": _is_time,
    "uri": _is_uri,
    "uuid": _is_uuid,
}
"""The formats that are checked, by the same function in both engines. Others are annotations."""


# -- regular expressions -----------------------------------------------------------------------------


class Pattern(NamedTuple):
    """One regular expression, spelled for each engine."""

    python: str
    rust: str


_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " \\t\\n\\r\\f\\v"}
_NOT_CLASSES = {"D": "[^0-9]", "W": "[^A-Za-z0-9_]", "S": "[^ \\t\\n\\r\\f\\v]"}
_PLAIN_ESCAPES = "tnrfv"
_PUNCTUATION = "^$\\.*+?()[]{}|/-\"'!#%&,:;<=>@_`~ "


def translate(pattern: str) -> Pattern:
    """A pattern in the common subset, spelled so that both engines read it as ECMA-262 does.

    Raises:
        InvalidSchemaError: it uses something outside the subset; says what.
    """
    python: list[str] = []
    rust: list[str] = []
    at = 0
    in_class = False

    def refuse(what: str) -> InvalidSchemaError:
        return InvalidSchemaError(
            f"the pattern {pattern!r:.80} uses {what}, which not every engine reads alike; write it another way"
        )

    def both(text: str) -> None:
        python.append(text)
        rust.append(text)

    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            escaped = pattern[at + 1 : at + 2]
            if escaped in _CLASSES and escaped:
                both(_CLASSES[escaped] if in_class else f"[{_CLASSES[escaped]}]")
                at += 2
            elif escaped in _NOT_CLASSES and escaped:
                if in_class:
                    raise refuse(f"\\{escaped} inside [ ]")
                both(_NOT_CLASSES[escaped])
                at += 2
            elif escaped and escaped in _PLAIN_ESCAPES:
                both({"f": "\\x0c", "v": "\\x0b"}.get(escaped, f"\\{escaped}"))
                at += 2
            elif escaped in ("u", "x"):
                length = 4 if escaped == "u" else 2
                digits = pattern[at + 2 : at + 2 + length]
                if len(digits) != length or not all(c in "0123456789abcdefABCDEF" for c in digits):
                    raise refuse(f"\\{escaped} without {length} hex digits")
                if 0xD800 <= int(digits, 16) <= 0xDFFF:
                    raise refuse("a surrogate")
                both(re.escape(chr(int(digits, 16))))
                at += 2 + length
            elif escaped and escaped in _PUNCTUATION:
                both(re.escape(escaped) if escaped != "/" else "/")
                at += 2
            else:
                raise refuse(f"\\{escaped}" if escaped else "a lone backslash at its end")
            continue
        if in_class:
            if char == "]":
                in_class = False
                both("]")
            elif char in "[&~|" or (char == "-" and pattern[at - 1 : at + 2] == "--"):
                both(f"\\{char}")
            else:
                both(char)
        elif char == "[":
            in_class = True
            negated = pattern[at + 1 : at + 2] == "^"
            if pattern[at + (2 if negated else 1) : at + (3 if negated else 2)] == "]":
                raise refuse("an empty [ ]")
            both("[^" if negated else "[")
            at += negated
        elif char == "$":
            python.append("\\Z")
            rust.append("$")
        elif char == ".":
            both("[^\\n\\r\\u2028\\u2029]")
        elif char == "(" and pattern[at + 1 : at + 2] == "?":
            opening = next((o for o in ("(?:", "(?=", "(?!") if pattern.startswith(o, at)), None)
            if opening is None:
                raise refuse(pattern[at : at + 4])
            both(opening)
            at += 2
        elif char in "*+?}" and pattern[at + 1 : at + 2] == "+":
            raise refuse("a possessive quantifier")
        elif char == "{" and not re.match(r"\{\d{1,4}(,\d{0,4})?\}", pattern[at:]):
            raise refuse("a { that is no quantifier")
        else:
            both(char)
        at += 1
    if in_class:
        raise refuse("a [ that is not closed")
    try:
        re.compile("".join(python))
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidSchemaError(f"the pattern {pattern!r:.80} is no regular expression: {error}") from None
    return Pattern("".join(python), "".join(rust))


# -- whole schemas -----------------------------------------------------------------------------------


def children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every subschema of a schema object, with its place below it."""
    for key, value in schema.items():
        if key in SUBSCHEMA:
            yield key, value
        elif key in SUBSCHEMAS and isinstance(value, list):
            for n, item in enumerate(value):
                yield f"{key}/{n}", item
        elif key in NAMED_SUBSCHEMAS and isinstance(value, Mapping):
            for name, item in value.items():
                yield f"{key}/{_escape(name)}", item
        elif key == "items":
            if isinstance(value, list):
                for n, item in enumerate(value):
                    yield f"items/{n}", item
            else:
                yield "items", value
        elif key == "dependencies" and isinstance(value, Mapping):
            for name, item in value.items():
                if not isinstance(item, list):
                    yield f"dependencies/{_escape(name)}", item


def check_dialect(schema: Any) -> None:
    """Return if the schema is acceptable.

    Raises:
        InvalidSchemaError: it is not; says what and where.
    """
    if not isinstance(schema, (Mapping, bool)):
        raise InvalidSchemaError(f"a JSON Schema is an object or a boolean, not {type(schema).__name__}")
    if isinstance(schema, Mapping) and "$schema" in schema and schema["$schema"] not in DRAFT_7:
        raise InvalidSchemaError(
            f"$schema is {schema['$schema']!r:.80}; this registry validates Draft 7 "
            '("http://json-schema.org/draft-07/schema#"), or leave $schema out'
        )
    _check(schema, schema, "#", 1)


def _check(schema: Any, root: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidSchemaError(f"{path[:80]}…: nested deeper than {MAX_DEPTH} levels")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise InvalidSchemaError(f"{path}: a schema is an object or a boolean, not {type(schema).__name__}")
    if "$id" in schema and path != "#":
        raise InvalidSchemaError(f"{path}: $id is accepted at the root only")
    reference = schema.get("$ref")
    if reference is not None:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise InvalidSchemaError(
                f"{path}: $ref {reference!r:.80} leaves the document; put what it means under definitions"
            )
        resolve(root, reference, path)
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        _translated(pattern, f"{path}/pattern")
    named = schema.get("patternProperties")
    if isinstance(named, Mapping):
        for name in named:
            _translated(name, f"{path}/patternProperties")
    for place, child in children(schema):
        _check(child, root, f"{path}/{place}", depth + 1)


def _translated(pattern: str, path: str) -> Pattern:
    try:
        return translate(pattern)
    except InvalidSchemaError as error:
        raise InvalidSchemaError(f"{path}: {error}") from None


def resolve(root: Any, reference: str, path: str = "#") -> Any:
    """What a local ``$ref`` points to.

    Raises:
        InvalidSchemaError: nothing, or no schema.
    """
    target = root
    parts = reference[1:].split("/")
    if parts[0]:
        raise InvalidSchemaError(
            f"{path}: $ref {reference!r:.80} names an anchor; use a path such as #/definitions/x"
        )
    from urllib.parse import unquote

    for part in parts[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        else:
            raise InvalidSchemaError(f"{path}: $ref {reference!r:.80} leads nowhere")
    if not isinstance(target, (Mapping, bool)):
        raise InvalidSchemaError(f"{path}: $ref {reference!r:.80} leads to something that is no schema")
    return target


def rewrite(schema: Any, spelling: Callable[[Pattern], str]) -> Any:
    """The schema for an engine: patterns spelled for it, unknown formats and content keywords left out."""
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        # Draft 7: what stands beside a $ref is ignored, except where a $ref may point to.
        kept = {k: v for k, v in schema.items() if k in ("$ref", "definitions")}
    else:
        kept = dict(schema)
    out: dict[str, Any] = {}
    for key, value in kept.items():
        if key in ("contentMediaType", "contentEncoding", "$id") or (
            key == "format" and value not in FORMATS
        ):
            continue
        if key == "pattern":
            out[key] = spelling(translate(value))
        elif key == "patternProperties":
            out[key] = {spelling(translate(name)): rewrite(sub, spelling) for name, sub in value.items()}
        elif key in SUBSCHEMA:
            out[key] = rewrite(value, spelling)
        elif key in SUBSCHEMAS:
            out[key] = [rewrite(item, spelling) for item in value]
        elif key in NAMED_SUBSCHEMAS:
            out[key] = {name: rewrite(sub, spelling) for name, sub in value.items()}
        elif key == "items":
            out[key] = (
                [rewrite(i, spelling) for i in value] if isinstance(value, list) else rewrite(value, spelling)
            )
        elif key == "dependencies":
            out[key] = {n: s if isinstance(s, list) else rewrite(s, spelling) for n, s in value.items()}
        else:
            out[key] = value
    return out


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
