"""Reads a TOML file that may be anything: limits on size and depth, references to variables, lines for messages."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dimesh.errors import ConfigurationError

MAX_FILE: Final = 1_000_000
"""Bytes."""
MAX_DEPTH: Final = 32
"""Levels of tables and lists."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_PART}[ \t]*\.[ \t]*){{{MAX_DEPTH}}}")
_TABLE = re.compile(rf"\s*(\[\[?)\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]")
_KEY = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


def read_text(file: Path) -> str:
    """The file's text.

    Raises:
        ConfigurationError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ConfigurationError(f"{file} is larger than {MAX_FILE:,} bytes: that is no settings file")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 (byte {error.start})") from None


def parse(text: str, file: Path | None) -> dict[str, Any]:
    """The tables of a TOML text; ``file`` is for messages.

    Raises:
        ConfigurationError: it is not TOML; says in which line.
    """
    if _DEEP_KEY.search(text):  # the parser takes hours for a key of 100,000 parts
        raise ConfigurationError(f"{file}: a key has more than {MAX_DEPTH} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{file} is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:  # an integer of more than 4,300 digits, a date that is none
        raise ConfigurationError(f"{file} holds a value that cannot be read: {error}") from None


def checked(
    value: Any,
    key: str = "",
    where: str = "",
    text: Callable[[str, str], str] = lambda text, _: text,
    depth: int = 0,
) -> Any:
    """``value`` with each of its strings passed through ``text(string, dotted key)``.

    Raises:
        ConfigurationError: it is nested too deep, holds a NUL character or an integer of more than 64 bits.
    """
    if depth > MAX_DEPTH:
        raise ConfigurationError(f"{where}{key[:60]}… is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for name in value:
            if "\0" in str(name):
                raise ConfigurationError(f"{where}a name in {key or 'the settings'!r} holds a NUL character")
        return {
            k: checked(v, f"{key}.{k}" if key else str(k), where, text, depth + 1) for k, v in value.items()
        }
    if isinstance(value, list):
        return [checked(v, f"{key}.{n}", where, text, depth + 1) for n, v in enumerate(value)]
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigurationError(f"{where}{key} holds a NUL character")
        return text(value, key)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigurationError(f"{where}{key} is an integer of more than 64 bits")
    return value


def resolved(value: Any, key: str, references: dict[str, list[str]], where: str) -> Any:
    """``value`` with the references to variables replaced; ``references`` gets their names by key.

    Raises:
        ConfigurationError: like :func:`checked`; a reference is malformed or its variable is not set.
    """

    def text(string: str, at: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name is None:
                return "${"
            if not _NAME.fullmatch(name) or not match[0].endswith("}"):
                # Not what stands there: it may be half of a password.
                raise ConfigurationError(
                    f"{where}{at}: what follows '${{' is not of the form ${{NAME}}; a plain '${{' is written '$${{'"
                )
            if name not in os.environ:
                raise ConfigurationError(
                    f"{where}{at} needs the environment variable {name[:100]}, which is not set"
                )
            references.setdefault(at, []).append(name)
            return os.environ[name]

        return _REFERENCE.sub(replaced, string)

    return checked(value, key, where, text)


def line_of(text: str, location: Sequence[str]) -> int | None:
    """The line of the file where a setting most likely stands (the parser does not say)."""
    table: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], int] = {}
    best, best_line = 0, None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = tuple(_unquoted(header[2]))
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table += (str(counts[table]),)
            path = table
        elif key := _KEY.match(line):
            path = (*table, *_unquoted(key[1]))
        else:
            continue
        if best < len(path) <= len(location) and path == tuple(location[: len(path)]):
            best, best_line = len(path), number
    return best_line


def _unquoted(key: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, key)]
