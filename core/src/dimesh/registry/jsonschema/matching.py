"""Matching regular expressions in a bounded time, for the engine that has no such matcher of its own."""

from __future__ import annotations

import re
from typing import Any, Final

from dimesh.errors import InvalidSchemaError

MAX_WORK: Final = 2_000_000
"""The greatest product of the lengths of a text and of a pattern in which each repetition is written out. A longer text does not
match."""
_MAX_PROGRAM: Final = 10_000

_parse: Any = re._parser.parse  # type: ignore[attr-defined]

_CHAR, _SPLIT, _JUMP, _START, _END, _LOOK, _MATCH = range(7)


class Matcher:
    """A compiled pattern. It explores each pair of a step and a position once, so the time is at most their product.

    Args:
        pattern: the pattern, in Python's syntax, without back-references.

    Raises:
        InvalidSchemaError: the pattern has something that this matcher does not know.
    """

    def __init__(self, pattern: str) -> None:
        self._program: list[tuple[int, Any, Any]] = []
        try:
            self._compile(_parse(pattern))
        except (re.error, RecursionError) as error:
            raise InvalidSchemaError(
                f"the pattern {pattern!r:.80} is not a regular expression: {error}"
            ) from None
        self._add(_MATCH)

    def search(self, text: str) -> bool:
        """Return whether the pattern matches somewhere in the text."""
        if len(self._program) * (len(text) + 1) > MAX_WORK:
            return False
        return self._run([(0, at) for at in range(len(text), -1, -1)], text, {})

    def _run(self, stack: list[tuple[int, int]], text: str, looked: dict[tuple[int, int], bool]) -> bool:
        program, size = self._program, len(text)
        seen: set[tuple[int, int]] = set()
        while stack:
            state = stack.pop()
            if state in seen:
                continue
            seen.add(state)
            step, at = state
            kind, one, two = program[step]
            if kind == _MATCH:
                return True
            if kind == _CHAR:
                if at < size and one(text[at]):
                    stack.append((step + 1, at + 1))
            elif kind == _SPLIT:
                stack += [(two, at), (one, at)]
            elif kind == _JUMP:
                stack.append((one, at))
            elif kind == _START:
                if at == 0:
                    stack.append((step + 1, at))
            elif kind == _END:
                if at == size:
                    stack.append((step + 1, at))
            else:
                found = looked.get(state)
                if found is None:
                    found = looked[state] = self._run([(step + 1, at)], text, looked)
                if found is two:
                    stack.append((one, at))
        return False

    def _add(self, kind: int, one: Any = None, two: Any = None) -> int:
        if len(self._program) >= _MAX_PROGRAM:
            raise InvalidSchemaError(f"a pattern stands for more than {_MAX_PROGRAM:,} elements")
        self._program.append((kind, one, two))
        return len(self._program) - 1

    def _compile(self, nodes: Any) -> None:
        for name, value in nodes:
            kind = str(name)
            if kind == "LITERAL":
                self._add(_CHAR, chr(value).__eq__)
            elif kind == "NOT_LITERAL":
                self._add(_CHAR, chr(value).__ne__)
            elif kind == "ANY":
                self._add(_CHAR, lambda char: char != "\n")
            elif kind == "IN":
                self._add(_CHAR, _one_of(value))
            elif kind == "BRANCH":
                self._alternatives(value[1])
            elif kind == "SUBPATTERN":
                self._compile(value[3])
            elif kind in ("MAX_REPEAT", "MIN_REPEAT"):
                self._repeat(*value)
            elif kind == "AT" and str(value) in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
                self._add(_START)
            elif kind == "AT" and str(value) == "AT_END_STRING":
                self._add(_END)
            elif kind in ("ASSERT", "ASSERT_NOT") and value[0] == 1:
                look = self._add(_LOOK)
                self._compile(value[1])
                self._add(_MATCH)
                self._program[look] = (_LOOK, len(self._program), kind == "ASSERT")
            else:
                raise InvalidSchemaError(f"the pattern uses {kind.lower()}, which this engine does not match")

    def _alternatives(self, branches: list[Any]) -> None:
        jumps = []
        for branch in branches[:-1]:
            split = self._add(_SPLIT)
            self._compile(branch)
            jumps.append(self._add(_JUMP))
            self._program[split] = (_SPLIT, split + 1, len(self._program))
        self._compile(branches[-1])
        for jump in jumps:
            self._program[jump] = (_JUMP, len(self._program), None)

    def _repeat(self, low: int, high: Any, nodes: Any) -> None:
        for _ in range(low):
            self._compile(nodes)
        if isinstance(high, int) and str(high) != "MAXREPEAT":
            splits = []
            for _ in range(high - low):
                splits.append(self._add(_SPLIT))
                self._compile(nodes)
            for split in splits:
                self._program[split] = (_SPLIT, split + 1, len(self._program))
        else:
            split = self._add(_SPLIT)
            self._compile(nodes)
            self._add(_JUMP, split)
            self._program[split] = (_SPLIT, split + 1, len(self._program))


def _one_of(items: list[Any]) -> Any:
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    ranges = []
    for name, value in items[negated:]:
        kind = str(name)
        if kind == "LITERAL":
            ranges.append((chr(value), chr(value)))
        elif kind == "RANGE":
            ranges.append((chr(value[0]), chr(value[1])))
        else:
            raise InvalidSchemaError(
                f"the pattern uses a {kind.lower()} in [ ], which this engine does not match"
            )
    return lambda char: any(low <= char <= high for low, high in ranges) != negated
