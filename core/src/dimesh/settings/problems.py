"""The origins of values, and messages about values that do not fit."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from dimesh.settings.model import PREFIX, MeshSettings
from dimesh.settings.toml import line_of

MAX_PROBLEMS: Final = 20
"""The number of problems that one message lists at most."""

Layers = list[tuple[str, Mapping[str, Any]]]


def origin_of(key: str, layers: Layers, references: Mapping[str, Sequence[str]]) -> str:
    """Return the origin of a dotted key's value; see :meth:`LoadedSettings.origin`."""
    for label, values in layers:
        held = _held(key.split("."), values)
        if held is None:
            continue
        if not held:
            break  # in a list of this layer, which replaces those below: the value is a default
        if label == "environment":
            return _variable(key)
        names = [
            f"${{{name}}}"
            for at, used in references.items()
            for name in used
            if f"{at}.".startswith(f"{key}.")
        ]
        return f"{label} ({', '.join(names)})" if names and label != "argument" else label
    return "default"


def _held(path: list[str], value: Any) -> bool | None:
    """Return whether a layer contains the path: False if a list on the way replaces it, None if nothing does."""
    in_list = False
    for n, part in enumerate(path):
        if isinstance(value, Mapping):
            # A name in a driver's options may contain dots.
            whole = ".".join(path[n:])
            if whole in value:
                return True
            if part not in value:
                return False if in_list else None
            value = value[part]
        elif isinstance(value, list):
            in_list = True
            if not part.isdigit() or int(part) >= len(value):
                return False
            value = value[int(part)]
        else:
            return True
    return True


def _variable(key: str) -> str:
    """Return the variable that sets a key: the key's own, or one for a level above (as JSON)."""
    set_ = {name.upper(): name for name in os.environ}
    parts = key.upper().split(".")
    for n in range(len(parts), 0, -1):
        name = PREFIX + "__".join(parts[:n])
        if name in set_:
            return set_[name]
    return "environment"


def explain(error: ValidationError, layers: Layers, file: Path | None, text: str) -> str:
    """Return the message about settings that do not fit, one line for each problem."""
    lines = []
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    # Finding the line of a problem scans the whole text, which would take too long for 50,000 problems.
    for problem in problems[:MAX_PROBLEMS]:
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)[:200]
        origin = origin_of(key, layers, {})
        if origin == "default":  # a missing value has no origin, but its table has one
            origin = origin_of(".".join(location[:-1]), layers, {})
        if origin in ("default", str(file)) and file is not None:
            number = line_of(text, location)
            where = f"{file}, line {number}: " if number else f"{file}: "
        else:
            where = "" if origin in ("default", "argument") else f"{origin}: "
        if problem["type"] == "extra_forbidden":
            known = _known(location[:-1])
            near = difflib.get_close_matches(location[-1][:100], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known settings: {', '.join(known)}"
            lines.append(f"{where}unknown setting {key!r}; {hint}")
        else:
            lines.append(f"{where}{key}: {problem['msg']}")
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_PROBLEMS} more")
    return "\n".join(lines)


def _known(path: list[str]) -> list[str]:
    """Return the names of the settings in a section."""
    model: Any = MeshSettings
    for part in path:
        if part.isdigit():
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
        arguments = getattr(model, "__args__", None)
        if arguments:
            model = arguments[0]
    return sorted(getattr(model, "model_fields", {}))


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is not a table or a list of tables, with its dotted key."""
    if isinstance(value, Mapping) and value:
        for k, v in value.items():
            yield from leaves(v, f"{key}.{k}" if key else str(k))
    elif isinstance(value, list) and any(isinstance(v, (Mapping, list)) for v in value):
        for n, v in enumerate(value):
            yield from leaves(v, f"{key}.{n}")
    else:
        yield key, value
