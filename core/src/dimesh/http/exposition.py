"""Metrics as text, in the exposition format of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Sample: TypeAlias = tuple[Sequence[str], float]
"""The values of the labels, and the number."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: Sequence[str]
    """The names of the labels."""
    samples: Sequence[Sample]


def render(families: Iterable[Family]) -> bytes:
    """Return the text of metrics. A label's value may be any string."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {_escape(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for values, number in family.samples:
            pairs = zip(family.labels, values, strict=True)
            labels = ",".join([f'{name}="{_quoted(value)}"' for name, value in pairs])
            lines.append(f"{family.name}{{{labels}}} {number!r}" if labels else f"{family.name} {number!r}")
    return ("\n".join(lines) + "\n").encode()


def _quoted(value: str) -> str:
    if value.isalnum() and value.isascii():
        return value
    # A lone surrogate, which UTF-8 cannot hold, would break the scrape.
    return _escape(value.encode("utf-8", "backslashreplace").decode()).replace('"', '\\"')


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
