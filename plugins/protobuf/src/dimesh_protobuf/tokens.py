"""Splits the text of a ``.proto`` file into tokens: names, numbers, text and symbols, without white space and comments."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dimesh.errors import InvalidSchemaError
from dimesh_protobuf.limits import MAX_NAME, MAX_TEXT
from dimesh_protobuf.places import Places

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r\n\f\v]+|//[^\n]*|/\*.*?\*/)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<float>(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)
    |(?P<int>0[xX][0-9a-fA-F]+|[0-9]+)
    |(?P<string>"(?:[^"\\\n\0]|\\[^\n])*"|'(?:[^'\\\n\0]|\\[^\n])*')
    |(?P<symbol>[{}()\[\]<>=;,.:+/-])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(
    rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", re.DOTALL
)
_SIMPLE: Final = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
    b"?": b"?", b"\\": b"\\", b"'": b"'", b'"': b'"',
}  # fmt: skip


class Token(NamedTuple):
    """One token."""

    kind: str
    """``name``, ``int``, ``float``, ``string``, ``symbol``, or ``end``."""
    text: str
    offset: int


def split(text: str) -> tuple[list[Token], Places]:
    """Return the tokens of a text, the last of which is the end, and the places for messages about it.

    Raises:
        InvalidSchemaError: the text is too long, or a character or a literal is not allowed.
    """
    if len(text) > MAX_TEXT:
        raise InvalidSchemaError(f"the schema has {len(text):,} characters; at most {MAX_TEXT:,} are allowed")
    places = Places(text)
    found: list[Token] = []
    at = 1 if text.startswith("\ufeff") else 0
    numeral = False
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.group() == "/" == text[at : at + 2].rstrip("*"):
            places.refuse_at(at, _complaint(text, at))
        kind = str(match.lastgroup)
        if kind != "space":
            if numeral and kind == "name" and found[-1].offset + len(found[-1].text) == at:
                places.refuse_at(at, "a number and a name need a space between them")
            if kind == "name" and match.end() - at > MAX_NAME:
                places.refuse_at(at, f"the name has more than {MAX_NAME:,} characters")
            found.append(Token(kind, match.group(), at))
            numeral = kind in ("int", "float")
        at = match.end()
    found.append(Token("end", "the end of the text", len(text)))
    return found, places


def _complaint(text: str, at: int) -> str:
    if text.startswith("/*", at):
        return "the comment does not end"
    if text[at] in "\"'":
        return "the text in quotes does not end in its line"
    return f"the character {text[at]!a} is not allowed here"


def unescaped(text: str) -> bytes:
    """Return the bytes that a default of a descriptor means; escapes that are not known stay as they are."""

    def meaning(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, _, _, simple = match.groups()
        if octal or hexadecimal:
            return bytes([int(octal or hexadecimal, 8 if octal else 16) & 255])
        return _SIMPLE.get(simple, match.group())

    return _ESCAPE.sub(meaning, text.encode())


def unquoted(token: Token, places: Places) -> bytes:
    """Return the bytes that a token in quotes means.

    Raises:
        InvalidSchemaError: an escape is not valid.
    """

    def meaning(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, short, long, simple = match.groups()
        if octal or hexadecimal:
            number = int(octal, 8) if octal else int(hexadecimal, 16)
            if number > 255:
                places.refuse_at(token.offset, "an octal escape stands for at most 255")
            return bytes([number])
        if short or long:
            number = int(short or long, 16)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                places.refuse_at(token.offset, "an escape stands for no character of Unicode")
            return chr(number).encode()
        if simple not in _SIMPLE:
            places.refuse_at(token.offset, "an escape in the text is not known")
        return _SIMPLE[simple]

    try:
        raw = token.text[1:-1].encode()
    except UnicodeEncodeError:
        places.refuse_at(token.offset, "the text is not valid Unicode: it has a lone surrogate")
    return _ESCAPE.sub(meaning, raw) if b"\\" in raw else raw
