"""The sections of the settings and their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapValidator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dimesh.errors import ConfigurationError
from dimesh.secrets import Secret, wrap_secrets
from dimesh.settings.toml import UnsetReference, check_references

PREFIX: Final = "DIMESH_"


DriverOptions = Annotated[
    dict[str, Any],
    AfterValidator(wrap_secrets),
]
"""The options of a driver. Strings under secret names are of type :class:`~dimesh.secrets.Secret`."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MeshSection(_Section):
    """The mesh itself."""

    name: str = "mesh"
    data_dir: Path = Path("mesh-data")
    """The folder for the files of the embedded backends."""
    principal: str = Field(default="local", min_length=1, max_length=255)
    """The name under which this process publishes, reads and administers."""
    interceptors: list[str] = Field(default_factory=list)
    """The objects that wrap every publish and every handling of the bus, as `package.module:object`, the outermost first.
    The interceptors of plugins come after them."""


class DriverSection(_Section):
    """A driver and its options; the driver checks them."""

    driver: str = "sqlite"
    options: DriverOptions = Field(default_factory=dict, repr=False)


class BusSection(DriverSection):
    """The event bus."""

    consumer_group: str | None = None
    """The group of subscriptions that have neither a group nor a name."""
    create_topics: bool = True
    """Whether a topic that does not exist is created at its first use. Otherwise a name with a typo is an error."""
    drain_timeout: float = Field(default=10.0, ge=0)
    """The number of seconds that stopping waits for handlers."""
    publish_timeout: float = Field(default=30.0, ge=0)
    """The number of seconds that a publish waits for space in the backend's buffer."""
    validate_schemas: bool = False
    """Whether payloads of topics that no `[[schemas]]` names are checked against the registry, too: at publish (rejected) and
    before each handler (dead-lettered), with the subjects `event.<type>`."""


def _check_address(listen: str | None) -> str | None:
    if listen is not None:
        parse_address(listen)
    return listen


def parse_address(listen: str) -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``.

    Raises:
        ValueError: it is something else.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError("it must be HOST:PORT, such as '127.0.0.1:8080', or ':8080' for every interface")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address must be in brackets, such as '[::1]:8080'")
    return host, int(port)


def _or_unset(value: Any, check: Callable[[Any], Secret]) -> Any:
    return value if isinstance(value, UnsetReference) else check(value)


Credential = Annotated[Secret, WrapValidator(_or_unset)]
"""A password or a token, or the reference to a variable that is not set: only a command that serves needs it."""


class RegistryServeSection(_Section):
    """The REST API of the registry, which `dimesh registry serve` serves. Needs the extra `dimesh[http]`."""

    listen: Annotated[str, AfterValidator(_check_address)] = "127.0.0.1:8081"
    """The address, such as `127.0.0.1:8081`; `:8081` is port 8081 of every interface."""
    users: dict[str, Credential] = Field(default_factory=dict, repr=False)
    """The passwords of users, by name, for basic authentication: `{ billing = "${BILLING_PASSWORD}" }`. Without users and tokens,
    everybody who reaches the address may read and write."""
    tokens: list[Credential] = Field(default_factory=list, repr=False)
    """The tokens for bearer authentication."""
    mount: bool = False
    """Whether `dimesh run` serves the registry, too: below `/registry` at the address of `[http] listen`."""

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port of ``listen``."""
        return parse_address(self.listen)

    def credentials(self) -> tuple[dict[str, Secret], list[Secret]]:
        """Return the passwords by user, and the tokens.

        Raises:
            ConfigurationError: one refers to a variable that is not set, or is empty.
        """
        check_references([self.users, self.tokens])
        named = [*((f"users.{name}", password) for name, password in self.users.items())]
        for name, value in [*named, *(("tokens", token) for token in self.tokens)]:
            if not value:
                raise ConfigurationError(
                    f"registry.serve.{name} is empty, so that everybody could log in: set it, or the variable that it refers to"
                )
        return self.users, self.tokens


class RegistrySection(DriverSection):
    """The schema registry."""

    policy: Literal["strict", "defaults", "tolerant", "confluent", "confluent-lenient"] = "tolerant"
    """The meaning of "compatible" for subjects without a policy of their own. A registry that decides by itself, such as a remote
    one, has its own."""
    undecided: Literal["block", "allow"] = "block"
    """Whether a schema may be registered whose compatibility can neither be proved nor refuted."""
    serve: RegistryServeSection = RegistryServeSection()
    """The REST API of the registry."""


SchemaAction = Literal["reject", "dead-letter", "warn", "off"]


class SchemaSection(_Section):
    """The check of the payloads of some topics against the registry. The first section that names a topic counts."""

    topic: str | list[str]
    """The topic, or several, or patterns such as `orders.*`. Dead letters are checked only where a pattern ends with `.dlq`."""
    publish: SchemaAction = "reject"
    """What happens at publish to an event that does not satisfy its schema. `reject`: the publish fails. `dead-letter`: the event
    becomes a dead letter of the topic, and the publish succeeds. `warn`: the event is published, and the log and the metrics
    report it. `off`: nothing is checked."""
    consume: SchemaAction = "dead-letter"
    """The same before a handler is called. `reject` means `dead-letter` there."""
    subject: Literal["event-type", "topic", "topic-and-type"] = "event-type"
    """The name of an event's subject: `event.<type>`, `<topic>-value` or `<topic>-<type>`."""
    unknown: Literal["pass", "warn", "fail"] = "pass"
    """What happens to events whose subject has no schema: they are passed on, passed on and reported, or treated like those
    that do not satisfy their schema."""
    unavailable: Literal["fail", "warn"] = "fail"
    """What happens to events while the registry cannot be asked and their schema is not known yet. `fail`: the publish fails, and
    a handling is tried again later. `warn`: they are passed on unchecked, and that is reported."""


class LineageSection(DriverSection):
    """The lineage service."""

    driver: str = "file"
    enabled: bool = False
    """Whether every event that the bus handles is recorded."""


class ForeignSection(_Section):
    """How records that are not events are read. `{field}` or `{outer.inner}` stands for a field of the record's JSON."""

    event_type: str
    pillar: str = ""
    agent: str = ""
    event_id: str | None = None
    """The id of the event; by default `topic/partition/offset`."""
    tombstone_type: str = "record.deleted"
    """The type of the event for a record without a value."""


class HandlerSection(_Section):
    """A handler that ``dimesh run`` subscribes."""

    topic: str | list[str]
    """The topic, or several, or patterns such as `orders.*`."""
    call: str
    """The function, as ``package.module:function``."""
    group: str | None = None
    """The consumer group; by default the handler's own path, so that a restarted handler continues at its position."""
    event_types: list[str] = Field(default_factory=list)
    pillars: list[str] = Field(default_factory=list)
    priorities: list[Literal["low", "normal", "high", "critical"]] = Field(default_factory=list)
    start: Literal["earliest", "latest"] = "latest"
    produce_to: str | None = None
    """The topic for the events that the handler returns: one, several, or None. Not possible with ``batch_size``."""
    concurrency: int = Field(default=16, ge=1)
    max_in_flight: int = Field(default=1_000, ge=1)
    attempts: int | None = Field(default=None, ge=1)
    """The number of calls before an event is dead-lettered. If it is left out: 5, and transient errors (of the network, of
    services, time-outs) are retried for ``retry_patience`` seconds, however often that is."""
    retry_base: float = Field(default=0.1, ge=0)
    """The longest wait in seconds before the second call; it doubles with each call."""
    retry_maximum: float = Field(default=30.0, ge=0)
    """The longest wait in seconds between two calls."""
    retry_patience: float | None = Field(default=None, ge=0)
    """The seconds after its first failure in which a transient error does not dead-letter an event; by default 600, or 0 if
    ``attempts`` is set."""
    fatal: list[str] = Field(default_factory=list)
    """The exceptions after which an event is dead-lettered at once: `ValueError`, `package.module:Class`."""
    redeliver: list[float] = Field(default_factory=list)
    """Delays in seconds: an event whose calls are used up is handed to the group again after the first, then after the
    second, and so on, and is dead-lettered after the last. The next events of its key do not wait for it."""
    foreign: ForeignSection | None = None
    """How records that are not events are read: `foreign = { event_type = "order.{kind}" }`. Without it they are
    dead-lettered."""
    rate: float | None = Field(default=None, gt=0)
    """The largest number of events per second that are handed to the handler; no limit if it is left out."""
    breaker: bool = True
    """Whether the handler is not called for a while when most of its calls fail by transient errors."""
    breaker_failures: int = Field(default=20, ge=1)
    """The smallest number of such failures within ten seconds that stops the calls."""
    breaker_pause: float = Field(default=5.0, gt=0, le=30)
    """The seconds until one event is let through; they double, up to 30, each time that it fails, too."""
    timeout: float | None = Field(default=300.0, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    """The largest number of events that the handler gets at once, as a list; without it, the handler gets single events."""
    batch_wait: float = Field(default=0.0, ge=0)
    """The seconds to wait for a batch to fill. Closing hands a batch over as it is."""


class SourceSection(_Section):
    """A change source that ``dimesh run`` follows."""

    driver: str
    name: str
    objects: list[str]
    pillar: str = ""
    topic: str | None = None
    """The topic of the changes. By default all sources of a system share `cdc.<system>`, and their changes are told apart by
    `connector_id`."""
    status_events: bool = False
    """Whether changes of phase are published on the topic, too, as events of type `cdc.status`. Handlers of the topic that expect
    rows only need `event_types`, then."""
    repair: Literal["auto", "manual"] = "auto"
    """The repair of a gap that requires reading all rows again: automatic, or only by `dimesh cdc snapshot`."""
    repair_pause: float = Field(1.0, ge=0.0, le=1_000.0)
    """The pause before the next such repair, as a multiple of the time that the last one took; an hour at most."""
    verify: float = Field(0.0, ge=0.0, le=1.0)
    """The largest part of the account's requests with which `dimesh run` compares rows with what was published: `0.01` is one
    percent. 0 turns that off."""
    options: DriverOptions = Field(default_factory=dict, repr=False)


class HttpSection(_Section):
    """The HTTP server of ``dimesh run`` and ``dimesh cdc run``. Needs the extra `dimesh[http]`."""

    listen: Annotated[str | None, AfterValidator(_check_address)] = None
    """The address for `/healthz`, `/readyz`, `/metrics`, webhooks of sources and pages of plugins, such as `127.0.0.1:8080`;
    `:8080` is port 8080 of every interface. Without it nothing is served. There is no authentication: let only your own network
    reach it. `dimesh webhooks serve` then serves health and metrics, too, at its own address."""

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and the port of ``listen``; None without it."""
        return None if self.listen is None else parse_address(self.listen)


LogLevel = Literal["debug", "info", "warning", "error"]


class LogSection(_Section):
    """The log of commands that run until they are stopped. The options `--log-level` and `--log-format` override it."""

    level: LogLevel = "info"
    """The level from which records of dimesh and of the packages of the handlers are shown. Those of other libraries are shown
    from `warning` on."""
    format: Literal["human", "json"] | None = None
    """The format of the lines; by default that of `--output`."""
    loggers: dict[str, LogLevel] = Field(default_factory=dict)
    """The levels of single loggers and of those below them: `{ "acme.pricing" = "debug", httpx = "info" }`. Secrets are masked in
    the records of libraries, and records that contain nothing else are never shown."""


class CDCSection(_Section):
    """Change data capture."""

    state: str = "dimesh-cdc.db"
    """The file for the state of capture that is not on the bus: the keys and the last states of rows, and positions if the
    bus cannot store them."""
    last_state: bool = True
    """Whether the last state of each row is stored, for the ``before`` of changes whose source does not report it, and to
    complete changes that contain only the changed fields. The file is then somewhat larger than the rows."""


def _wrap_each(options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: wrap_secrets(given) for name, given in options.items()}


class PluginsSection(_Section):
    """The plugins that may be used, and the options of observers."""

    allow: list[str] | None = None
    """The plugins that may be used beside the built-in ones: `acme-kafka:bus.kafka`, or `acme-kafka` for a whole
    distribution. `bus.kafka` or `kafka` works for official plugins, and for a driver that only one distribution offers.
    Without this setting, all may be used."""
    block: list[str] = Field(default_factory=list)
    """The plugins that may not be used, in the same form. A short name blocks every plugin that it could mean."""
    options: Annotated[dict[str, dict[str, Any]], AfterValidator(_wrap_each)] = Field(
        default_factory=dict, repr=False
    )
    """The options of each plugin of the group `dimesh.hooks`, by its name: `[plugins.options.watch]`. A plugin that has
    options here must work; otherwise the mesh does not start."""


class MeshSettings(BaseSettings):
    """All settings of a mesh."""

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
    http: HttpSection = HttpSection()
    log: LogSection = LogSection()
    schemas: list[SchemaSection] = Field(default_factory=list)
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


file_values: ContextVar[Mapping[str, Any]] = ContextVar("dimesh_settings_file", default={})  # noqa: B039  (never changed)


class _FileSource(PydanticBaseSettingsSource):
    """The values that :func:`load_settings` read from the file, for the one instance that it creates."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(file_values.get())
