"""Settings of a mesh: one ``dimesh.toml`` and the environment.

What is given to :func:`load_settings` directly comes first, then ``DIMESH_…`` variables (``__`` between levels), then
the file, then the defaults. A ``${NAME}`` in a string of the file stands for the environment variable of that name, so
that no secret has to stand in the file.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from dimesh.errors import ConfigurationError

FILE_NAME: Final = "dimesh.toml"
MAX_FILE: Final = 1_000_000
MASK: Final = "********"
PREFIX: Final = "DIMESH_"
CONFIG_VARIABLE: Final = "DIMESH_CONFIG"

_SECRET = re.compile(r"secret|token|passw|api_?key|private|credential|assertion|(^|_)key$", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MeshSection(_Section):
    """The mesh itself."""

    name: str = "mesh"
    data_dir: Path = Path("mesh-data")
    """Where the embedded backends keep their files."""


class DriverSection(_Section):
    """A driver and its options; the driver checks them."""

    driver: str = "sqlite"
    options: dict[str, Any] = Field(default_factory=dict, repr=False)


class BusSection(DriverSection):
    """The event bus."""

    drain_timeout: float = Field(default=10.0, ge=0)
    """Seconds that stopping waits for handlers."""
    publish_timeout: float = Field(default=30.0, ge=0)
    """Seconds that a publish waits for room."""
    validate_schemas: bool = False
    """Check payloads against the registry at publish and before each handler."""


class RegistrySection(DriverSection):
    """The schema registry."""


class LineageSection(DriverSection):
    """The lineage service."""

    driver: str = "file"
    enabled: bool = False
    """Record every event that the bus handles."""


class HandlerSection(_Section):
    """A handler that ``dimesh run`` subscribes."""

    topic: str
    call: str
    """``package.module:function``."""
    group: str | None = None
    """By default the handler's own path, so that it goes on where it was."""
    event_types: list[str] = Field(default_factory=list)
    pillars: list[str] = Field(default_factory=list)
    priorities: list[Literal["low", "normal", "high", "critical"]] = Field(default_factory=list)
    start: Literal["earliest", "latest"] = "latest"
    concurrency: int = Field(default=16, ge=1)
    max_in_flight: int = Field(default=1_000, ge=1)
    attempts: int = Field(default=5, ge=1)
    timeout: float | None = Field(default=300.0, gt=0)
    batch_size: int | None = Field(default=None, ge=1)


class SourceSection(_Section):
    """A change source that ``dimesh run`` follows."""

    driver: str
    name: str
    objects: list[str]
    pillar: str = ""
    options: dict[str, Any] = Field(default_factory=dict, repr=False)


class PluginsSection(_Section):
    """Which plugins may be used."""

    allow: list[str] | None = None
    """Names of drivers or distributions; left out: all."""
    block: list[str] = Field(default_factory=list)


class MeshSettings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    mesh: MeshSection = MeshSection()
    bus: BusSection = BusSection()
    registry: RegistrySection = RegistrySection()
    lineage: LineageSection = LineageSection()
    plugins: PluginsSection = PluginsSection()
    handlers: list[HandlerSection] = Field(default_factory=list)
    sources: list[SourceSection] = Field(default_factory=list)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FileSource(settings_cls)


class _FileSource(PydanticBaseSettingsSource):
    """What :func:`load_settings` read from the file (put here for the one construction it makes)."""

    values: Mapping[str, Any] = {}

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self.values)


class Loaded:
    """Settings, and where each value comes from."""

    def __init__(
        self,
        settings: MeshSettings,
        path: Path | None,
        given: Mapping[str, Any],
        from_env: Mapping[str, Any],
        from_file: Mapping[str, Any],
        references: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.path = path
        """The file that was read; None: there is none."""
        self._layers = [
            ("argument", dict(_leaves(given))),
            ("environment", dict(_leaves(from_env))),
            (str(path), dict(_leaves(from_file))),
        ]
        self._references = references

    def origin(self, key: str) -> str:
        """Where the value of a dotted key comes from: ``argument``, a variable's name, the file, or ``default``."""
        for label, leaves in self._layers:
            if key in leaves or any(k.startswith(f"{key}.") or key.startswith(f"{k}.") for k in leaves):
                if label == "environment":
                    return PREFIX + key.upper().replace(".", "__")
                if key in self._references:
                    return f"{label} (${{{self._references[key]}}})"
                return label
        return "default"

    def rows(self) -> list[tuple[str, str, str]]:
        """Every value as ``(dotted key, text with secrets masked, origin)``."""
        values = self.settings.model_dump(mode="json")
        rows = []
        for key, value in _leaves(values):
            masked = MASK if is_secret(key) or key in self._references else value
            rows.append((key, "" if masked is None else str(masked), self.origin(key)))
        return rows


def is_secret(key: str) -> bool:
    """Whether a value of that name is not to be shown. The name decides; what is not sure is hidden."""
    return bool(_SECRET.search(key.rpartition(".")[2]))


def load_settings(path: str | os.PathLike[str] | None = None, **given: Any) -> Loaded:
    """Read the settings.

    Args:
        path: the file; None: ``$DIMESH_CONFIG``, else ``dimesh.toml`` in the working folder, else none.
        given: sections or parts of them, before everything else.

    Raises:
        ConfigurationError: no such file, not TOML, an unknown name, a value that does not fit, a missing variable.
    """
    file = _find(path)
    raw = _read(file) if file is not None else {}
    references: dict[str, str] = {}
    from_file = _resolve(raw, "", references, file)
    _check_variables()
    try:
        _FileSource.values = from_file
        settings = MeshSettings(**given)
        from_env = EnvSettingsSource(MeshSettings)()
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file)) from None  # its own text would show the values
    except Exception as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"the settings cannot be read: {type(error).__name__}: {error}") from None
    finally:
        _FileSource.values = {}
    return Loaded(settings, file, given, from_env, from_file, references)


def _find(path: str | os.PathLike[str] | None) -> Path | None:
    named = os.fspath(path) if path is not None else os.environ.get(CONFIG_VARIABLE)
    if named is not None:
        if "\0" in named:
            raise ConfigurationError("the path of the settings file holds a NUL character")
        file = Path(named)
        if not file.is_file():
            raise ConfigurationError(f"there is no settings file {str(file)[:200]!r}")
        return file
    file = Path(FILE_NAME)
    return file if file.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_FILE:
            raise ConfigurationError(f"{file} is larger than {MAX_FILE:,} bytes: that is no settings file")
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 (byte {error.start})") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None


def _resolve(value: Any, key: str, references: dict[str, str], file: Path | None) -> Any:
    if isinstance(value, dict):
        return {k: _resolve(v, f"{key}.{k}" if key else k, references, file) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, f"{key}.{n}", references, file) for n, v in enumerate(value)]
    if isinstance(value, str) and "${" in value:

        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name not in os.environ:
                raise ConfigurationError(
                    f"{file}: {key} needs the environment variable {name}, which is not set"
                )
            references[key] = name
            return os.environ[name]

        return _REFERENCE.sub(replaced, value)
    return value


def _check_variables() -> None:
    """A misspelt variable would be ignored in silence."""
    known = set(MeshSettings.model_fields)
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE:
            section = variable[len(PREFIX) :].partition("__")[0].lower()
            if section not in known:
                near = difflib.get_close_matches(section, known, 1)
                hint = f"; did you mean {PREFIX}{near[0].upper()}__…?" if near else ""
                raise ConfigurationError(f"the environment variable {variable[:80]} is no setting{hint}")


def _explain(error: ValidationError, file: Path | None) -> str:
    where = f"{file}: " if file is not None else ""
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)[:200]
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(location[-1], _known(location[:-1]), 1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(_known(location[:-1]))}"
            )
            lines.append(f"{where}unknown setting {key!r}{hint}")
        else:
            lines.append(f"{where}{key}: {problem['msg']}")
    return "\n".join(lines)


def _known(path: list[str]) -> list[str]:
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


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping) and value:
        for k, v in value.items():
            yield from _leaves(v, f"{key}.{k}" if key else str(k))
    elif isinstance(value, list) and value and isinstance(value[0], (Mapping, BaseModel)):
        for n, v in enumerate(value):
            yield from _leaves(v, f"{key}.{n}")
    else:
        yield key, value
