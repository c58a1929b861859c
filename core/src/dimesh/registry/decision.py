"""The decision about a new version: which versions it is compared with, in which direction, and what follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Final

from dimesh.registry.model import Comparison, CompatibilityMode, CompatibilityResult
from dimesh.registry.rules import OnUndecided, SubjectSettings
from dimesh.spi.schema import Difference, Outcome, ParsedSchema, SchemaLanguage, Verdict, Witness

MAX_REASONS: Final = 20
MAX_EXAMPLE: Final = 200
"""The greatest number of characters of an example in a reason."""


def versions_to_compare(mode: CompatibilityMode, live: Sequence[int]) -> Sequence[int]:
    """Return the versions that a new one is compared with: none, the latest one, or all."""
    if mode is CompatibilityMode.NONE:
        return ()
    return live if mode.transitive else live[-1:]


async def decide(
    language: SchemaLanguage,
    new: ParsedSchema,
    old: Sequence[tuple[int, ParsedSchema]],
    settings: SubjectSettings,
) -> CompatibilityResult:
    """Return whether a schema may follow others.

    Args:
        language: the language of the new schema.
        new: the schema.
        old: the versions to compare with, each with its number.
        settings: the settings of the subject.
    """
    # In a thread, since a comparison may take tens of milliseconds, and a transitive mode needs one for each version.
    comparisons = await asyncio.to_thread(_compare, language, new, old, settings)
    reasons: list[str] = []
    for comparison in comparisons:
        verdict = comparison.verdict
        allowed = verdict.outcome is Outcome.UNDECIDED and settings.undecided is OnUndecided.ALLOW
        if not verdict and not allowed:
            reasons += [f"{comparison}: {reason}" for reason in _reasons(verdict)]
    return CompatibilityResult(not reasons, tuple(reasons[:MAX_REASONS]), tuple(comparisons))


def _compare(
    language: SchemaLanguage,
    new: ParsedSchema,
    old: Sequence[tuple[int, ParsedSchema]],
    settings: SubjectSettings,
) -> list[Comparison]:
    found: list[Comparison] = []
    mode, policy = settings.compatibility, settings.policy
    for number, version in old:
        if version.language != new.language:
            found.append(Comparison(number, True, _other_language(version.language, new.language)))
            continue
        if mode.backward:
            found.append(Comparison(number, True, language.compare(version, new, policy)))
        if mode.forward:
            found.append(Comparison(number, False, language.compare(new, version, policy)))
    return found


def _other_language(old: str, new: str) -> Verdict:
    message = f"the language changed from {old} to {new}: a payload of one cannot be read as the other"
    return Verdict(Outcome.REFUTED, (Difference("language-changed", "#", message),))


def _reasons(verdict: Verdict) -> list[str]:
    example = "" if verdict.witness is None else f" (for example {_text(verdict.witness)})"
    undecided = "cannot be decided: " if verdict.outcome is Outcome.UNDECIDED else ""
    return [
        f"{d.path}: {undecided}{d.message}{example if n == 0 else ''}"
        for n, d in enumerate(verdict.differences)
    ]


def _text(witness: Witness) -> str:
    try:
        text = json.dumps(witness.value, ensure_ascii=True)
    except (TypeError, ValueError):
        text = ascii(witness.value)
    return text if len(text) <= MAX_EXAMPLE else f"{text[:MAX_EXAMPLE]}…"
