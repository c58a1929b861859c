"""The rules of resolution: which of a reader's types a writer's type becomes. Reading and comparing both ask here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dimesh_avro.nodes import NAMED, Node

_PROMOTIONS: Final = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The reason for which no value of one type is a value of the other."""

    code: str
    message: str


def match(writer: Node, reader: Node) -> Mismatch | None:
    """Return why a type that is no union never becomes another one; None: the types match, whatever their parts do."""
    if writer.kind != reader.kind and reader.kind not in _PROMOTIONS.get(writer.kind, ()):
        return Mismatch("type-changed", f"{writer} does not become {reader}")
    if writer.kind in NAMED and not same_name(writer, reader):
        return Mismatch(
            "name-changed",
            f"the {writer.kind} {writer.name} has another name than {reader.name}, and is not among its aliases",
        )
    if writer.size != reader.size:
        return Mismatch(
            "size-changed", f"{writer} has {writer.size:,} bytes, and {reader} has {reader.size:,}"
        )
    before, after = writer.logical, reader.logical
    if before and after and (before.name, before.scale) != (after.name, after.scale):
        return Mismatch("logical-type-changed", f"{before} would be read as {after}, which is another value")
    return None


def same_name(writer: Node, reader: Node) -> bool:
    """Return whether a reader's named type stands for a writer's: namespaces do not count, as in Java."""
    return writer.short == reader.short or writer.name in reader.aliases


def pick(writer: Node, reader: Node) -> Node | None:
    """Return the branch of the reader's union that a writer's type becomes: the same type, else one of the same kind, else the
    first one that it is promoted to.
    """
    possible = [branch for branch in reader.branches if match(writer, branch) is None]
    same = [branch for branch in possible if branch.kind == writer.kind]
    full = [branch for branch in same if branch.name == writer.name]
    return next(iter(full or same or possible), None)


def reading_names(writer: Node, reader: Node) -> dict[str, str]:
    """Return the reader's field for each field of the writer that it reads: by its name, else by an alias."""
    names = {field.name: field.name for field in writer.fields if field.name in reader.by_name}
    for field in reader.fields:
        if field.name not in names:
            alias = next((a for a in field.aliases if a in writer.by_name and a not in names), None)
            if alias is not None:
                names[alias] = field.name
    return names
