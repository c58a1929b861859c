"""The definition of a mutant, and the list of all mutants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dimesh_contracts.contract import Guarantee


class Mutant(NamedTuple):
    """A plugin with one fault."""

    name: str
    breaks: Guarantee
    """The guarantee that the kit must name."""
    fault: str
    """The description of the fault."""
    make: Callable[[Path], Any]
    """The function that creates an instance over the storage in a folder."""


def catalogue() -> dict[str, Mutant]:
    """Return all mutants by their full names, ``kind.name``."""
    import appending
    import bus
    import cdc
    import crashing
    import distant
    import languages
    import lineage
    import membership
    import queues

    import registry

    kinds = {
        "bus": (bus, appending, membership, crashing, distant),
        "queues": (queues,),
        "registry": (registry,),
        "schema": (languages,),
        "cdc": (cdc,),
        "lineage": (lineage,),
    }
    return {
        f"{kind}.{mutant.name}": mutant
        for kind, modules in kinds.items()
        for module in modules
        for mutant in module.MUTANTS
    }


def make(name: str, folder: str) -> Any:
    """Make the mutant with this full name, in another process."""
    return catalogue()[name].make(Path(folder))
