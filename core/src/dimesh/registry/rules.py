"""The settings of a subject, and what they permit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self, TypeVar

from dimesh.errors import ConfigurationError, NotPermittedError
from dimesh.events.names import show
from dimesh.registry.model import CompatibilityMode
from dimesh.spi.registry import COMPATIBILITY, MODE, POLICY
from dimesh.spi.schema import POLICIES

E = TypeVar("E", bound=Enum)

UNDECIDED: Final = "undecided"
UNDECIDED_WHAT: Final = "treatment of undecided comparisons"
DEFAULT_MODE: Final = CompatibilityMode.BACKWARD


class SubjectMode(Enum):
    """What may be written to a subject, in the words of Confluent's API."""

    READWRITE = "READWRITE"
    READONLY = "READONLY"
    IMPORT = "IMPORT"
    """Versions and ids are given by the writer, and compatibility is not checked."""


class OnUndecided(Enum):
    """The treatment of a comparison that cannot be decided."""

    BLOCK = "block"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class SubjectSettings:
    """The settings that apply to a subject."""

    compatibility: CompatibilityMode = DEFAULT_MODE
    policy: str = "tolerant"
    undecided: OnUndecided = OnUndecided.BLOCK
    mode: SubjectMode = SubjectMode.READWRITE

    @classmethod
    def of(cls, settings: Mapping[str, Any], policy: str, undecided: OnUndecided = OnUndecided.BLOCK) -> Self:
        """Return the settings as a store keeps them, completed with defaults.

        Args:
            settings: the stored settings.
            policy: the policy of the registry, for subjects that have none of their own.
            undecided: the same for comparisons that cannot be decided.

        Raises:
            ConfigurationError: a stored value is unknown; the message names it.
        """
        return cls(
            value_of(
                CompatibilityMode, settings.get(COMPATIBILITY, DEFAULT_MODE.value), "compatibility mode"
            ),
            policy_of(settings.get(POLICY, policy)),
            value_of(OnUndecided, settings.get(UNDECIDED, undecided.value), UNDECIDED_WHAT),
            value_of(SubjectMode, settings.get(MODE, "READWRITE"), "mode of a subject"),
        )

    def permit(self, subject: str, *, given: bool) -> None:
        """Check that a version may be registered.

        Args:
            subject: the subject.
            given: whether the writer gives the number or the id of the version.

        Raises:
            NotPermittedError: the mode of the subject forbids it.
        """
        if self.mode is SubjectMode.READONLY:
            raise NotPermittedError(f"subject {show(subject)} is read-only: set its mode to READWRITE first")
        if given and self.mode is not SubjectMode.IMPORT:
            raise NotPermittedError(
                f"subject {show(subject)} is not in import mode, so its versions and ids cannot be given: "
                "set its mode to IMPORT first"
            )


def value_of(kind: type[E], value: object, what: str) -> E:
    """Return the member of an enumeration.

    Raises:
        ConfigurationError: there is no such member; the message lists the members.
    """
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(str(member.value) for member in kind)
        raise ConfigurationError(f"{show(value)} is not a {what}: use one of {names}") from None


def policy_of(value: object) -> str:
    """Return the name of a policy. Confluent's ``STRICT`` and ``LENIENT`` mean its own two.

    Raises:
        ConfigurationError: there is no such policy.
    """
    known = {"STRICT": "confluent", "LENIENT": "confluent-lenient"}
    name = known.get(value, value) if isinstance(value, str) else value
    if name not in POLICIES:
        raise ConfigurationError(
            f"{show(value)} is not a compatibility policy: use one of {', '.join(POLICIES)}"
        )
    return str(name)
