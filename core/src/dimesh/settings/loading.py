"""Settings of a mesh: one ``dimesh.toml`` and the environment.

The arguments of :func:`load_settings` take precedence, then ``DIMESH_…`` variables (``__`` between levels), then the
file, then the defaults. Sections and options are merged, lists are replaced. A ``${NAME}`` in a string of the file is
replaced by the environment variable of that name, so that the file need not contain secrets; ``$${`` is a plain ``${``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from dimesh.errors import ConfigurationError
from dimesh.secrets import MASK, is_secret, mask_urls
from dimesh.settings.model import PREFIX, MeshSettings, file_values
from dimesh.settings.problems import Layers, explain, leaves, origin_of
from dimesh.settings.toml import check_limits, expand_variables, parse, read_text

FILE_NAME: Final = "dimesh.toml"
CONFIG_VARIABLE: Final = "DIMESH_CONFIG"


class LoadedSettings:
    """The settings and the origin of each value."""

    def __init__(
        self,
        settings: MeshSettings,
        path: Path | None,
        given: Mapping[str, Any],
        from_env: Mapping[str, Any],
        from_file: Mapping[str, Any],
        references: Mapping[str, Sequence[str]],
    ) -> None:
        self.settings = settings
        self.path = path
        """The file that was read; None if there is none."""
        self._layers = [("argument", given), ("environment", from_env), (str(path), from_file)]
        self._references = references

    def __repr__(self) -> str:
        return f"<LoadedSettings of {self.settings.mesh.name!r} from {self.path}>"

    def origin(self, key: str) -> str:
        """Return the origin of a dotted key's value: ``argument``, a variable's name, the file, or ``default``."""
        return origin_of(key, self._layers, self._references)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return every value as ``(dotted key, text with secrets masked, origin)``."""
        return [
            (key, self._shown(key, value), self.origin(key))
            for key, value in leaves(self.settings.model_dump(mode="json", fallback=str))
        ]

    def _shown(self, key: str, value: Any) -> str:
        if value is None:
            return ""
        if any(name not in os.environ for name in self._references.get(key, ())):
            return str(value)  # nothing to mask: the variable is not set
        parts = key.split(".")
        # Without the plugin's own name, since the word "auth" in [plugins.options.authz] would mask all its options.
        named = ".".join(parts[3:]) if parts[:2] == ["plugins", "options"] else key
        if is_secret(named) or any(k == key or k.startswith(f"{key}.") for k in self._references):
            return MASK
        return mask_urls(str(value))


def load_settings(path: str | os.PathLike[str] | None = None, **given: Any) -> LoadedSettings:
    """Read the settings.

    Args:
        path: the file; None: ``$DIMESH_CONFIG``, else ``dimesh.toml`` in the working folder, else no file.
        given: sections or parts of them, which take precedence over everything else.

    Raises:
        ConfigurationError: the file does not exist or is not TOML, a name is unknown, a value does not fit, or a variable
            is not set. A variable that only an option of a source, of the registry or of lineage refers to is missed when
            that part is used.
    """
    file = _find(path)
    text = read_text(file) if file is not None else ""
    references: dict[str, list[str]] = {}
    from_file = expand_variables(parse(text, file), "", references, f"{file}: ")
    _check_variables()
    given = check_limits(given)
    try:
        from_env = check_limits(EnvSettingsSource(MeshSettings)(), where="the environment: ")
    except (SettingsError, RecursionError) as error:
        raise ConfigurationError(f"the {PREFIX}… variables cannot be read: {error}") from None
    layers: Layers = [("argument", given), ("environment", from_env), (str(file), from_file)]
    token = file_values.set(from_file)
    try:
        settings = MeshSettings(**given)
    except ValidationError as error:
        # The text of pydantic's error, and its cause, would show the values.
        raise ConfigurationError(explain(error, layers, file, text)) from None
    finally:
        file_values.reset(token)
    return LoadedSettings(settings, file, given, from_env, from_file, references)


def _find(path: str | os.PathLike[str] | None) -> Path | None:
    named = os.fspath(path) if path is not None else os.environ.get(CONFIG_VARIABLE) or None
    if named is None:
        file = Path(FILE_NAME)
        return file if file.is_file() else None
    if "\0" in named:
        raise ConfigurationError("the path of the settings file contains a NUL character")
    file = Path(named)
    if not os.path.isfile(file):  # unlike Path.is_file, it accepts any name
        raise ConfigurationError(f"there is no settings file {str(file)[:200]!r}")
    return file


def _check_variables() -> None:
    """Refuse a misspelt variable, which pydantic would ignore silently."""
    known = set(MeshSettings.model_fields)
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE:
            section = variable[len(PREFIX) :].partition("__")[0].lower()
            if section not in known:
                near = difflib.get_close_matches(section, known, 1)
                hint = f"; did you mean {PREFIX}{near[0].upper()}__…?" if near else ""
                raise ConfigurationError(f"the environment variable {variable[:80]} is not a setting{hint}")
