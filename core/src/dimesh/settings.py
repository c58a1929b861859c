"""Settings of a mesh: one ``dimesh.toml`` and the environment.

What is given to :func:`load_settings` directly comes first, then ``DIMESH_…`` variables (``__`` between levels), then
the file, then the defaults. Sections and options are merged, lists are replaced. A ``${NAME}`` in a string of the file
stands for the environment variable of that name, so that no secret has to stand in the file; ``$${`` is a plain ``${``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from dimesh.errors import ConfigurationError
from dimesh.tomlfile import checked, line_of, parse, read_text, resolved

FILE_NAME: Final = "dimesh.toml"
MASK: Final = "********"
PREFIX: Final = "DIMESH_"
CONFIG_VARIABLE: Final = "DIMESH_CONFIG"
MAX_PROBLEMS: Final = 20
"""Most that one message lists."""

_SECRET = re.compile(
    r"secret|token|passw|passphrase|pwd|keys?$|private|credential|assertion|auth|bearer|cookie|jwt|dsn|signature"
    r"|connection_?string",
    re.IGNORECASE,
)
_URL_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")


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

    consumer_group: str | None = None
    """Of subscriptions that name neither a group nor themselves."""
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
    produce_to: str | None = None
    """A topic for what the handler returns: an event, several, or None. Not with ``batch_size``."""
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
    repair: Literal["auto", "manual"] = "auto"
    """What becomes of a gap that only reading all rows anew repairs: that, or a wait for `dimesh cdc snapshot`."""
    repair_pause: float = Field(1.0, ge=0.0, le=1_000.0)
    """How long such a repair waits after the last one, in times of what that took; an hour at most."""
    options: dict[str, Any] = Field(default_factory=dict, repr=False)


class CDCSection(_Section):
    """Change data capture."""

    state: str = "dimesh-cdc.db"
    """A file for what is remembered beside the bus: which rows there are, what they look like, and positions if the bus
    cannot keep them."""
    last_state: bool = True
    """Remember what rows look like: for the ``before`` of changes whose source does not say, and to complete changes that
    hold only what changed. The file then is somewhat larger than the rows."""


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
    cdc: CDCSection = CDCSection()
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


_from_file: ContextVar[Mapping[str, Any]] = ContextVar("dimesh_settings_file", default={})  # noqa: B039  (never changed)


class _FileSource(PydanticBaseSettingsSource):
    """What :func:`load_settings` read from the file, for the one construction it makes."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(_from_file.get())


class Loaded:
    """Settings, and where each value comes from."""

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
        """The file that was read; None: there is none."""
        self._layers = [("argument", given), ("environment", from_env), (str(path), from_file)]
        self._references = references

    def __repr__(self) -> str:
        return f"<Loaded settings of {self.settings.mesh.name!r} from {self.path}>"

    def origin(self, key: str) -> str:
        """Where the value of a dotted key comes from: ``argument``, a variable's name, the file, or ``default``."""
        return _origin(key, self._layers, self._references)

    def rows(self) -> list[tuple[str, str, str]]:
        """Every value as ``(dotted key, text with secrets masked, origin)``."""
        return [
            (key, self._shown(key, value), self.origin(key))
            for key, value in _leaves(self.settings.model_dump(mode="json"))
        ]

    def _shown(self, key: str, value: Any) -> str:
        if value is None:
            return ""
        if is_secret(key) or any(k == key or k.startswith(f"{key}.") for k in self._references):
            return MASK
        return _URL_LOGIN.sub(MASK, str(value))


def is_secret(key: str) -> bool:
    """Whether a value under that dotted key is not to be shown. The names decide; what is not sure is hidden."""
    return any(_SECRET.search(part) for part in key.split("."))


def load_settings(path: str | os.PathLike[str] | None = None, **given: Any) -> Loaded:
    """Read the settings.

    Args:
        path: the file; None: ``$DIMESH_CONFIG``, else ``dimesh.toml`` in the working folder, else none.
        given: sections or parts of them, before everything else.

    Raises:
        ConfigurationError: no such file, not TOML, an unknown name, a value that does not fit, a missing variable.
    """
    file = _find(path)
    text = read_text(file) if file is not None else ""
    references: dict[str, list[str]] = {}
    from_file = resolved(parse(text, file), "", references, f"{file}: ")
    _check_variables()
    given = checked(given)
    try:
        from_env = checked(EnvSettingsSource(MeshSettings)(), where="the environment: ")
    except (SettingsError, RecursionError) as error:
        raise ConfigurationError(f"the {PREFIX}… variables cannot be read: {error}") from None
    layers: _Layers = [("argument", given), ("environment", from_env), (str(file), from_file)]
    token = _from_file.set(from_file)
    try:
        settings = MeshSettings(**given)
    except ValidationError as error:
        # Its own text, and its cause, would show the values.
        raise ConfigurationError(_explain(error, layers, file, text)) from None
    finally:
        _from_file.reset(token)
    return Loaded(settings, file, given, from_env, from_file, references)


def _find(path: str | os.PathLike[str] | None) -> Path | None:
    named = os.fspath(path) if path is not None else os.environ.get(CONFIG_VARIABLE) or None
    if named is None:
        file = Path(FILE_NAME)
        return file if file.is_file() else None
    if "\0" in named:
        raise ConfigurationError("the path of the settings file holds a NUL character")
    file = Path(named)
    if not os.path.isfile(file):  # unlike Path.is_file, it takes any name
        raise ConfigurationError(f"there is no settings file {str(file)[:200]!r}")
    return file


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


_Layers = list[tuple[str, Mapping[str, Any]]]


def _origin(key: str, layers: _Layers, references: Mapping[str, Sequence[str]]) -> str:
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
    """Whether a layer holds the path; False: not, but it holds a list on the way there."""
    in_list = False
    for n, part in enumerate(path):
        if isinstance(value, Mapping):
            # A name in a driver's options may have dots of its own.
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
    """The variable that sets a key: its own, or that of a level above (as JSON)."""
    set_ = {name.upper(): name for name in os.environ}
    parts = key.upper().split(".")
    for n in range(len(parts), 0, -1):
        name = PREFIX + "__".join(parts[:n])
        if name in set_:
            return set_[name]
    return "environment"


def _explain(error: ValidationError, layers: _Layers, file: Path | None, text: str) -> str:
    lines = []
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    # Each one's line is looked for in the whole text: with 50,000 of them nobody would see the end.
    for problem in problems[:MAX_PROBLEMS]:
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)[:200]
        origin = _origin(key, layers, {})
        if origin == "default":  # what is missing stands nowhere, its table does
            origin = _origin(".".join(location[:-1]), layers, {})
        if origin in ("default", str(file)) and file is not None:
            number = line_of(text, location)
            where = f"{file}, line {number}: " if number else f"{file}: "
        else:
            where = "" if origin in ("default", "argument") else f"{origin}: "
        if problem["type"] == "extra_forbidden":
            known = _known(location[:-1])
            near = difflib.get_close_matches(location[-1][:100], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
            lines.append(f"{where}unknown setting {key!r}; {hint}")
        else:
            lines.append(f"{where}{key}: {problem['msg']}")
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_PROBLEMS} more")
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
    """Every value that is not a table or a list with tables in it, by dotted key."""
    if isinstance(value, Mapping) and value:
        for k, v in value.items():
            yield from _leaves(v, f"{key}.{k}" if key else str(k))
    elif isinstance(value, list) and any(isinstance(v, (Mapping, list)) for v in value):
        for n, v in enumerate(value):
            yield from _leaves(v, f"{key}.{n}")
    else:
        yield key, value
