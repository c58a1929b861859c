"""Reads an untrusted TOML file: limits on size and depth, references to variables, line numbers for messages."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dimesh.errors import ConfigurationError

MAX_FILE: Final = 1_000_000
"""The size of a settings file at most, in bytes."""
MAX_DEPTH: Final = 32
"""The number of levels of tables and lists at most."""

_OF_A_PART = re.compile(r"(?:sources\.\d+|registry|lineage)\.options\.|registry\.serve\.(?:users|tokens)\.")
"""The options of parts, and the credentials of servers, that not every command uses."""
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_PART}[ \t]*\.[ \t]*){{{MAX_DEPTH}}}")
_TABLE = re.compile(rf"\s*(\[\[?)\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]")
_KEY = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


class UnsetReference:
    """The value of an option that refers to an environment variable which is not set: an error once the option is used.

    Args:
        problem: the message of that error.
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def __str__(self) -> str:
        return "(not set)"


def check_references(options: Any) -> None:
    """Raise if one of these options refers to a variable that is not set.

    Raises:
        ConfigurationError: the message names the option and the variable.
    """
    for unset in _unset(options):
        raise ConfigurationError(unset.problem)


def _unset(value: Any) -> Iterator[UnsetReference]:
    if isinstance(value, UnsetReference):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _unset(item)
    elif isinstance(value, list):
        for item in value:
            yield from _unset(item)


def read_text(file: Path) -> str:
    """Return the text of a file.

    Raises:
        ConfigurationError: the file cannot be read, is too large or is not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ConfigurationError(f"{file} is larger than {MAX_FILE:,} bytes: it is not a settings file")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 (byte {error.start})") from None


def parse(text: str, file: Path | None) -> dict[str, Any]:
    """Return the tables of a TOML text; ``file`` is for messages.

    Raises:
        ConfigurationError: the text is not TOML; the message has the line.
    """
    if _DEEP_KEY.search(text):  # the parser takes hours for a key of 100,000 parts
        raise ConfigurationError(f"{file}: a key has more than {MAX_DEPTH} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{file} is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:  # an integer of more than 4,300 digits, an invalid date
        raise ConfigurationError(f"{file} contains a value that cannot be read: {error}") from None


def check_limits(
    value: Any,
    key: str = "",
    where: str = "",
    text: Callable[[str, str], Any] = lambda text, _: text,
    depth: int = 0,
) -> Any:
    """Return ``value`` with each of its strings passed through ``text(string, dotted key)``.

    Raises:
        ConfigurationError: the value is nested too deep, or contains a NUL character or an integer of more than 64 bits.
    """
    if depth > MAX_DEPTH:
        raise ConfigurationError(f"{where}{key[:60]}… is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for name in value:
            if "\0" in str(name):
                raise ConfigurationError(
                    f"{where}a name in {key or 'the settings'!r} contains a NUL character"
                )
        return {
            k: check_limits(v, f"{key}.{k}" if key else str(k), where, text, depth + 1)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [check_limits(v, f"{key}.{n}", where, text, depth + 1) for n, v in enumerate(value)]
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigurationError(f"{where}{key} contains a NUL character")
        return text(value, key)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigurationError(f"{where}{key} is an integer of more than 64 bits")
    return value


def expand_variables(value: Any, key: str, references: dict[str, list[str]], where: str) -> Any:
    """Return ``value`` with the references to variables replaced, and add their names to ``references`` by key.

    A command needs only the secrets that it uses, so an option of a source, of the registry or of lineage that refers to a
    variable which is not set becomes an :class:`UnsetReference`.

    Raises:
        ConfigurationError: a reference is malformed, the variable of any other one is not set, or :func:`check_limits`
            refuses the value.
    """

    def text(string: str, at: str) -> str | UnsetReference:
        unset: list[str] = []

        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name is None:
                return "${"
            if not _NAME.fullmatch(name) or not match[0].endswith("}"):
                # Without the text itself: it may be half of a password.
                raise ConfigurationError(
                    f"{where}{at}: a reference must have the form ${{NAME}}; write '$${{' for a plain '${{'"
                )
            references.setdefault(at, []).append(name)
            if name not in os.environ:
                unset.append(name[:100])
            return os.environ.get(name, "")

        replacement = _REFERENCE.sub(replaced, string)
        if not unset:
            return replacement
        problem = f"{where}{at} needs the environment variable {unset[0]}, which is not set"
        if not _OF_A_PART.match(at):
            raise ConfigurationError(problem)
        return UnsetReference(problem)

    return check_limits(value, key, where, text)


def line_of(text: str, location: Sequence[str]) -> int | None:
    """Return the most likely line of a setting in the file (the parser does not report lines); None if it is not there."""
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
