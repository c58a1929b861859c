"""Walks over the tokens of a text: the small steps that statements and options are read with."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from dimesh_protobuf.limits import MAX_NAME, MAX_PARTS
from dimesh_protobuf.tokens import Token, split, unquoted

_FULL: Final = re.compile(r"\.?[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*\Z")


class Cursor:
    """A position in the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens, self.places = split(text)
        self._at = 0
        self._parts = 0

    @property
    def here(self) -> Token:
        """The next token."""
        return self._tokens[self._at]

    def after(self, count: int) -> Token:
        """Return a token that follows the next one."""
        return self._tokens[min(self._at + count, len(self._tokens) - 1)]

    def refuse(self, message: str, token: Token | None = None) -> NoReturn:
        """Refuse the text because of a token, the next one by default."""
        self.places.refuse_at((token or self.here).offset, message)

    def count(self) -> None:
        """Count one part of the file.

        Raises:
            InvalidSchemaError: the file has too many.
        """
        self._parts += 1
        if self._parts > MAX_PARTS:
            self.refuse(f"the file has more than {MAX_PARTS:,} parts")

    def take(self) -> Token:
        """Return the next token, and go on."""
        token = self.here
        if token.kind != "end":
            self._at += 1
        return token

    def accept(self, text: str) -> bool:
        """Go on if the next token has a text; return whether it does."""
        if self.here.text != text or self.here.kind not in ("symbol", "name"):
            return False
        self._at += 1
        return True

    def expect(self, text: str) -> Token:
        """Return the next token, which must have a text."""
        token = self.here
        if not self.accept(text):
            self.refuse(f"{text!r} is expected, not {shown(token)}")
        return token

    def name(self, of: str) -> str:
        """Return the next token, which must be a name."""
        if self.here.kind != "name":
            self.refuse(f"the name of {of} is expected, not {shown(self.here)}")
        return self.take().text

    def full_name(self, of: str) -> str:
        """Return a name that may have dots, and begin with one."""
        start = self.here
        parts = ["."] if self.accept(".") else []
        parts.append(self.name(of))
        length = len(parts[-1])
        while self.accept("."):
            parts += [".", self.name(of)]
            length += len(parts[-1]) + 1
            if length > MAX_NAME:
                self.refuse(f"the name has more than {MAX_NAME:,} characters", start)
        return "".join(parts)

    def natural(self, of: str, largest: int) -> int:
        """Return a number that is not negative."""
        token = self.here
        if token.kind != "int":
            self.refuse(f"{of} is expected, not {shown(token)}")
        number = whole(token)
        if number is None or number > largest:
            self.refuse(f"{of} is a number up to {largest:,}")
        self._at += 1
        return number

    def string(self, of: str) -> bytes:
        """Return the bytes of one or more texts in quotes."""
        if self.here.kind != "string":
            self.refuse(f"{of} is text in quotes, not {shown(self.here)}")
        found = b""
        while self.here.kind == "string":
            found += unquoted(self.take(), self.places)
        return found

    def text(self, of: str) -> str:
        """Return one or more texts in quotes, which must be UTF-8."""
        token = self.here
        try:
            return self.string(of).decode()
        except UnicodeDecodeError:
            self.refuse(f"{of} is not valid UTF-8", token)


def whole(token: Token) -> int | None:
    """Return the number of a token of digits; None: it is not valid, or too long for any use."""
    text = token.text
    try:
        if len(text) > 30:
            return None
        if text[:2] in ("0x", "0X"):
            return int(text, 16)
        return int(text, 8) if len(text) > 1 and text[0] == "0" else int(text)
    except ValueError:
        return None


def shown(token: Token) -> str:
    """Return a token for a message."""
    return token.text if token.kind == "end" else f"{token.text!a:.60}"


def is_full_name(text: str) -> bool:
    """Return whether a text is a name that may have dots."""
    return len(text) <= MAX_NAME + 1 and _FULL.match(text) is not None
