"""The one rule for text that a terminal or a log shows: no value can move the cursor, or forge a line."""

from __future__ import annotations

import json

from dimesh.errors import describe


def printable(text: str) -> str:
    """Return ``text`` as one line: line breaks, control characters, characters that change the direction of the text, lone
    surrogates and all others that :meth:`str.isprintable` rejects are escaped as in Python.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_error(error: BaseException, limit: int = 500) -> str:
    """Return the type and the text of an exception for a log, in one line of about ``limit`` characters at most.

    The engine escapes what it logs itself: a program has handlers of its own, which may not.
    """
    return printable(describe(error, limit))


def printable_lines(text: str) -> str:
    """Return ``text`` with each of its lines made printable. The lines after the first are indented, so that none of them looks
    like a line of its own.
    """
    first, *more = text.split("\n")
    return "\n".join([printable(first), *(f"  {printable(line.removeprefix('  '))}" for line in more)])


def printable_json(text: str) -> str:
    """Return a JSON text with every character that is not printable escaped as in JSON, except for line breaks between values.
    The values stay the same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
