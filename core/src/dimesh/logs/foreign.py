"""The logs of libraries: which of their records are shown, and what is masked in them.

At DEBUG, aiokafka logs the password, stripe the bodies of requests, and Google's clients payloads; httpx logs whole URLs at INFO.
Both rules belong on the handler: a filter on a logger does not see the records of the loggers below it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

from dimesh.secrets import MASK, is_secret, mask_urls

OWN: Final = "dimesh"
"""The logger of dimesh and its plugins."""
LIBRARIES: Final = logging.WARNING
"""The level from which the records of a library are shown, unless its logger is named in the settings."""
SECRETIVE: Final[Mapping[str, int]] = {
    "aiokafka.conn": logging.INFO,
    "google": logging.WARNING,
    "httpcore": logging.INFO,
    "stripe": logging.INFO,
}
"""The loggers that write secrets or payloads below a level: such records are never shown, whatever the settings name."""
_MOST_NAMES: Final = 2_000


class Levels(logging.Filter):
    """Drop the records that are below the level of their logger.

    Args:
        levels: the level of each logger that has one; it holds for the loggers below it, too.
        libraries: the level of all others.
    """

    def __init__(self, levels: Mapping[str, int], libraries: int = LIBRARIES) -> None:
        super().__init__()
        self._levels = {name: max(level, _floor(name)) for name, level in levels.items()}
        self._levels |= {
            name: max(level, libraries) for name, level in SECRETIVE.items() if name not in levels
        }
        self._libraries = libraries
        self._known: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show the record."""
        level = self._known.get(record.name)
        if level is None:
            if len(self._known) >= _MOST_NAMES:
                self._known.clear()
            level = self._known[record.name] = max(self.level_of(record.name), _floor(record.name))
        return record.levelno >= level

    def level_of(self, name: str) -> int:
        """Return the level of a logger: its own, or that of the nearest one above it."""
        while name:
            if (level := self._levels.get(name)) is not None:
                return level
            name = name.rpartition(".")[0]
        return self._libraries

    def apply(self) -> None:
        """Set the levels of the loggers themselves, so that a muted record costs nothing.

        Google's clients stop the propagation of their records if their logger has no level.
        """
        logging.getLogger().setLevel(self._libraries)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)


def _floor(name: str) -> int:
    while name:
        if (level := SECRETIVE.get(name)) is not None:
            return level
        name = name.rpartition(".")[0]
    return 0


# -- redaction -------------------------------------------------------------------------------------

_QUERY = re.compile(r"(?<=[\w/.~%-])\?[^\s'\"<>)]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_NAME = re.compile(
    r"""(?<![\w.-])([\w.-]{2,80}+)['"]?\s*[=:,]\s*"""
)  # name=value, 'name': 'value', (b'name', b'value')
_QUOTED = re.compile(r"""b?'(?:[^'\\]|\\.)*+'?|b?"(?:[^"\\]|\\.)*+"?""")
_PLAIN = re.compile(r"""[^\s,;)}\]'"]+""")


def redact(text: str) -> str:
    """Return a text of foreign code without the queries and logins of URLs, and without the values of names of secrets."""
    text = _QUERY.sub(f"?{MASK}", mask_urls(text))
    text = _BEARER.sub(lambda found: f"{found[1]} {MASK}", text)
    parts: list[str] = []
    done = at = 0
    while (found := _NAME.search(text, at)) is not None:
        at = found.end()  # and not after the value, in which the next name may be
        if not is_secret(found[1]):
            continue
        value = _QUOTED.match(text, at) or ("," not in found[0] and _PLAIN.match(text, at))
        if value:
            parts += (text[done:at], MASK)
            done = at = value.end()
    return "".join((*parts, text[done:]))
