"""The lines of the log: for people, or JSON for programs. Whatever is logged, each record is exactly one JSON line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.logs.foreign import OWN, redact
from dimesh.logs.values import clean, cut, fit, text_of
from dimesh.printable import printable
from dimesh.secrets import mask_urls

MAX_MESSAGE: Final = 10_000
"""The characters of a message."""
MAX_TRACEBACK: Final = 20_000
"""The characters of a traceback, of which the end matters most."""

_RECORD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
_STANDARD: Final = _RECORD | {"message", "asctime", "taskName"}
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False).encode


class JsonLines(logging.Formatter):
    """One JSON object in a line for each record: ``time``, ``level``, ``logger``, ``message``, and where there are such
    ``exception``, ``stack`` and, in ``fields``, what the code passed as ``extra``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII. It never fails."""
        try:
            return _encode(self._fields(record))
        except (Exception, SystemExit, GeneratorExit) as error:
            fields = {"level": str(record.levelname), "logger": str(record.name)}
            return json.dumps({**fields, "message": f"a record cannot be shown: {type(error).__name__}"})

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": f"{moment[:-6]}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": message_of(record),
        }
        if record.exc_info:
            fields["exception"] = traceback_of(self, record)
        if record.stack_info:
            fields["stack"] = _shown(record, cut(str(record.stack_info), MAX_TRACEBACK))
        if len(record.__dict__) > len(_RECORD):
            extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
            if extra:
                fields["fields"] = clean(extra)
        return fields


class HumanLines(logging.Formatter):
    """A line for each record: time, level, the logger if it is not one of dimesh, and the message. The lines of a traceback are
    indented, so that none of them looks like a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text. It never fails."""
        try:
            name = "" if _is_own(record) else f"{printable(record.name)}: "
            lines = [
                f"{self.formatTime(record)} {printable(record.levelname)} {name}{printable(message_of(record))}"
            ]
            if record.exc_info:
                lines += traceback_of(self, record).splitlines()
            if record.stack_info:
                lines += _shown(record, cut(str(record.stack_info), MAX_TRACEBACK)).splitlines()
            return "\n  ".join([lines[0], *map(printable, lines[1:])])
        except (Exception, SystemExit, GeneratorExit) as error:
            return f"{self.formatTime(record)} ERROR a record cannot be shown: {type(error).__name__}"


def message_of(record: logging.LogRecord) -> str:
    """Return the message of a record, without secrets of foreign code. A template that does not fit its values, and a value
    whose text cannot be read, do not matter.
    """
    args: Any = record.args
    try:
        if not args:
            message = str(fit(record.msg))
        elif type(args) is tuple:
            message = str(record.msg) % tuple([value if type(value) is str else fit(value) for value in args])
        else:
            message = str(record.msg) % fit(args)
    except (Exception, SystemExit, GeneratorExit):
        message = f"{text_of(fit(record.msg))} {text_of(fit(args))}"
    return _shown(record, cut(message, MAX_MESSAGE))


def traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the traceback of a record, without secrets of foreign code."""
    assert record.exc_info
    try:
        text = formatter.formatException(record.exc_info)
    except (Exception, SystemExit, GeneratorExit):
        text = "a traceback that cannot be shown"
    if len(text) > MAX_TRACEBACK:
        text = f"({len(text) - MAX_TRACEBACK:,} characters)…{text[-MAX_TRACEBACK:]}"
    return _shown(record, text)


def _is_own(record: logging.LogRecord) -> bool:
    name = record.name
    return name.startswith(OWN) and (len(name) == len(OWN) or name[len(OWN)] == ".")


def _shown(record: logging.LogRecord, text: str) -> str:
    return mask_urls(text) if _is_own(record) else redact(text)
