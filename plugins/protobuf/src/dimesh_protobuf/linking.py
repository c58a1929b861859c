"""Resolves the names of a file descriptor, and makes the nodes of its messages and enums."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from dimesh_protobuf.cursor import is_full_name
from dimesh_protobuf.limits import MAX_COST, MAX_DEPTH, MAX_NESTING, MAX_PARTS
from dimesh_protobuf.nodes import SPECIAL, Enum, Field, File, Message
from dimesh_protobuf.parsing import SCALARS
from dimesh_protobuf.places import Path, Places
from dimesh_protobuf.protos import Type
from dimesh_protobuf.rules import check_enum, check_extension, check_field, check_message

_KINDS: Final = {number: name for name, number in SCALARS.items()}
_AGGREGATES: Final = frozenset(("package", "message", "enum", "service"))
_TYPES: Final = frozenset(("message", "enum"))
_MESSAGES: Final = frozenset(("message",))
_DEEPEST_PACKAGE: Final = 100
_UNPACKED: Final = ("string", "bytes", "message", "map")


class Linker:
    """Links one file.

    Args:
        proto: the file descriptor. Linking completes it: types get full names.
        imports: the linked files that it imports, by path.
        places: the places of the parts in the text.
        builtin: whether the file comes with Protobuf, so that it needs no checks and may define the well-known types.
    """

    def __init__(
        self, proto: Any, imports: Mapping[str, File], places: Places, builtin: bool = False
    ) -> None:
        self._proto = proto
        self._places = places
        self._builtin = builtin
        self._proto3 = proto.syntax == "proto3"
        self._imports = tuple((path, imports[path]) for path in proto.dependency)
        self._own: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._messages: dict[str, Message] = {}
        self._enums: dict[str, Enum] = {}
        self._foreign_messages: dict[str, Message] = {}
        self._foreign_enums: dict[str, Enum] = {}
        self._files: list[File] = []
        self._entries: dict[str, tuple[Any, Path]] = {}
        self._finished: list[Message] = []
        self._parts = 0

    def run(self) -> File:
        """Return the linked file, without its canonical form.

        Raises:
            InvalidSchemaError: a name is not known or defined twice, or a rule of Protobuf is violated.
        """
        proto = self._proto
        if proto.syntax not in ("", "proto2", "proto3") or proto.options.HasField("features"):
            self._places.refuse((), "editions are not supported: write the schema in proto2 or proto3")
        self._declare_package()
        for file in {id(f): f for _, direct in self._imports for f in direct.exported()}.values():
            self._declare_imported(file)
        package = proto.package
        for n, message in enumerate(proto.message_type):
            self._declare_message(message, package, (4, n), (n,))
        for n, enum in enumerate(proto.enum_type):
            self._declare_enum(enum, package, (5, n))
        for n, extension in enumerate(proto.extension):
            self._declare(package, extension.name, "extension", (7, n))
        for n, service in enumerate(proto.service):
            full = self._declare(package, service.name, "service", (6, n))
            for m, method in enumerate(service.method):
                self._declare(full, method.name, "method", (6, n, 2, m))
        for n, message in enumerate(proto.message_type):
            self._link_message(message, package, (4, n))
        self._extensions(proto.extension, package, (7,))
        self._services()
        self._measure()
        return File(proto, self._imports, self._own, self._messages, self._enums)

    # -- names -----------------------------------------------------------------------------------

    def _declare_package(self) -> None:
        package = self._proto.package
        if not package:
            return
        if not is_full_name(package) or package.startswith(".") or package.count(".") >= _DEEPEST_PACKAGE:
            self._places.refuse((2,), f"{package!a:.100} is not the name of a package")
        parts = package.split(".")
        for n in range(len(parts)):
            self._known[".".join(parts[: n + 1])] = self._own[".".join(parts[: n + 1])] = "package"

    def _declare_imported(self, file: File) -> None:
        for full, kind in file.symbols.items():
            known = self._known.get(full)
            if known is not None and not known == kind == "package":
                self._places.refuse((3,), f"{full!r:.200} is defined by two of the files")
            self._known[full] = kind
        self._foreign_messages |= file.messages
        self._foreign_enums |= file.enums
        self._files.append(file)

    def _declare(self, scope: str, name: str, kind: str, path: Path) -> str:
        self._parts += 1
        if self._parts > MAX_PARTS * 2:
            self._places.refuse(path, f"the file has more than {MAX_PARTS:,} parts")
        if not is_full_name(name) or "." in name:
            self._places.refuse(path, f"{name!a:.100} is not a name of letters, digits and '_'")
        full = f"{scope}.{name}" if scope else name
        if full in self._known:
            self._places.refuse(path, f"the name {full!r:.200} is defined twice")
        self._known[full] = self._own[full] = kind
        return full

    def _declare_message(self, proto: Any, scope: str, path: Path, indexes: tuple[int, ...]) -> None:
        if len(indexes) > MAX_NESTING:
            self._places.refuse(path, f"messages are nested more than {MAX_NESTING} deep")
        full = self._declare(scope, proto.name, "message", path)
        if proto.options.map_entry and len(indexes) == 1:
            self._places.refuse(path, f"{full!r:.200} is an entry of no map")
        if proto.options.map_entry:
            self._entries[full] = (proto, path)
        else:
            package = self._proto.package
            relative = full[len(package) + 1 :] if package else full
            special = SPECIAL.get(full, "") if self._builtin else ""
            self._messages[full] = Message(full, relative, indexes, special)
        for n, field in enumerate(proto.field):
            self._declare(full, field.name, "field", (*path, 2, n))
        for n, oneof in enumerate(proto.oneof_decl):
            self._declare(full, oneof.name, "oneof", (*path, 8, n))
        for n, nested in enumerate(proto.nested_type):
            self._declare_message(nested, full, (*path, 3, n), (*indexes, n))
        for n, enum in enumerate(proto.enum_type):
            self._declare_enum(enum, full, (*path, 4, n))
        for n, extension in enumerate(proto.extension):
            self._declare(full, extension.name, "extension", (*path, 6, n))

    def _declare_enum(self, proto: Any, scope: str, path: Path) -> None:
        full = self._declare(scope, proto.name, "enum", path)
        node = self._enums[full] = Enum(full, closed=not self._proto3)
        for n, value in enumerate(proto.value):
            self._declare(scope, value.name, "value", (*path, 2, n))
            node.numbers[value.name] = value.number
            node.names.setdefault(value.number, value.name)
        if not self._builtin:
            check_enum(proto, self._proto3, self._places, path)

    def _resolve(self, name: str, scope: str, wanted: Collection[str], path: Path) -> str:
        """Return the full name of a type: the innermost scope that knows the first part of the name decides."""
        if not is_full_name(name):
            self._places.refuse(path, f"{name!a:.100} is not the name of a type")
        if name.startswith("."):
            if self._known.get(name[1:]) in wanted:
                return name[1:]
            self._unknown(name[1:], wanted, path)
        first, _, rest = name.partition(".")
        prefix = scope
        while True:
            full = f"{prefix}.{first}" if prefix else first
            kind = self._known.get(full)
            if kind is not None and rest and kind in _AGGREGATES:
                full = f"{prefix}.{name}" if prefix else name
                if self._known.get(full) in wanted:
                    return full
                self._unknown(name, wanted, path, full)
            if kind in wanted and not rest:
                return full
            if not prefix:
                self._unknown(name, wanted, path)
            prefix = prefix.rpartition(".")[0]

    def _unknown(self, name: str, wanted: Collection[str], path: Path, full: str = "") -> None:
        meant = f" (it means {full!r:.200} here)" if full and full != name else ""
        what = "type" if len(wanted) > 1 else "message"
        self._places.refuse(
            path, f"the {what} {name!r:.200}{meant} is not known: define it, or import the file that does"
        )

    # -- messages --------------------------------------------------------------------------------

    def _link_message(self, proto: Any, scope: str, path: Path) -> None:
        full = f"{scope}.{proto.name}" if scope else proto.name
        if full in self._entries:
            return  # linked with the field that it belongs to
        if not self._builtin:
            check_message(proto, self._proto3, self._places, path)
        node = self._messages[full]
        used: set[str] = set()
        fields = [
            self._link_field(field, proto, full, (*path, 2, n), used) for n, field in enumerate(proto.field)
        ]
        for n, nested in enumerate(proto.nested_type):
            if nested.options.map_entry and f"{full}.{nested.name}" not in used:
                self._places.refuse((*path, 3, n), f"{nested.name!r:.100} is an entry of no map")
            self._link_message(nested, full, (*path, 3, n))
        self._extensions(proto.extension, full, (*path, 6))
        node.fields = tuple(sorted(fields, key=lambda field: field.number))
        node.by_name = {field.name: field for field in node.fields}
        node.by_number = {field.number: field for field in node.fields}
        node.required = tuple(field for field in node.fields if field.required)
        node.oneofs = {
            name: tuple(field for field in node.fields if field.oneof == name)
            for name in dict.fromkeys(field.oneof for field in node.fields if field.oneof)
        }
        self._finished.append(node)

    def _link_field(self, proto: Any, owner: Any, scope: str, path: Path, used: set[str]) -> Field:
        self._link_type(proto, scope, path)
        if proto.extendee:
            self._places.refuse(path, f"the field {proto.name!r:.100} extends a message, but is in one")
        repeated = proto.label == Type.LABEL_REPEATED
        node = Field(proto.name, proto.number, "", repeated, proto.label == Type.LABEL_REQUIRED)
        full = proto.type_name[1:]
        if proto.type == Type.TYPE_MESSAGE and full in self._entries:
            entry, place = self._entries[full]
            if not repeated or full in used or full != f"{scope}.{entry.name}":
                self._places.refuse(path, f"the entry {full!r:.200} belongs to one map, which is repeated")
            used.add(full)
            node.kind, node.repeated = "map", False
            node.key, node.value = self._link_entry(entry, full, place)
        else:
            self._set_kind(node, proto, full)
        if proto.HasField("oneof_index"):
            if not 0 <= proto.oneof_index < len(owner.oneof_decl):
                self._places.refuse(path, f"the field {proto.name!r:.100} is in a oneof that does not exist")
            if not proto.proto3_optional:
                node.oneof = owner.oneof_decl[proto.oneof_index].name
        explicit = not self._proto3 or node.kind == "message" or proto.HasField("oneof_index")
        node.presence = node.kind != "map" and not repeated and (explicit or proto.proto3_optional)
        node.lenient = not self._proto3
        if repeated and node.kind not in _UNPACKED:
            node.packed = proto.options.packed if proto.options.HasField("packed") else self._proto3
        if not self._builtin:
            check_field(proto, node, self._proto3, self._places, path)
        return node

    def _link_entry(self, proto: Any, full: str, path: Path) -> tuple[Field, Field]:
        fields = list(proto.field)
        shape = [(field.name, field.number, field.label) for field in fields]
        nested = proto.nested_type or proto.enum_type or proto.extension or proto.oneof_decl
        if nested or shape != [("key", 1, Type.LABEL_OPTIONAL), ("value", 2, Type.LABEL_OPTIONAL)]:
            self._places.refuse(path, f"{full!r:.200} is not the entry of a map: a key 1 and a value 2")
        found = []
        for field in fields:
            self._link_type(field, full.rpartition(".")[0], path)
            node = Field(field.name, field.number, "", lenient=not self._proto3)
            if field.type_name[1:] in self._entries:
                self._places.refuse(path, "the values of a map are not maps")
            self._set_kind(node, field, field.type_name[1:])
            found.append(node)
        key, value = found
        if key.kind in ("double", "float", "bytes", "message", "enum"):
            self._places.refuse(path, f"the keys of a map are whole numbers, bool or string, not {key}")
        if value.enum is not None:
            if self._proto3 and value.enum.closed:
                self._places.refuse(path, f"proto3 does not use the enum {value.enum.name!r:.200} of proto2")
            if value.enum.closed and not self._proto3 and next(iter(value.enum.numbers.values()), 0):
                self._places.refuse(path, f"the enum {value.enum.name!r:.200} needs a first value 0 in a map")
        return key, value

    def _link_type(self, proto: Any, scope: str, path: Path) -> None:
        if proto.HasField("type") and proto.type == Type.TYPE_GROUP:
            self._places.refuse(path, "groups are not supported: use a message and a field of it")
        if not proto.type_name:
            if not proto.HasField("type") or proto.type not in _KINDS:
                self._places.refuse(path, f"the field {proto.name!a:.100} has no type")
            return
        if proto.HasField("type") and proto.type in _KINDS:
            self._places.refuse(path, f"the field {proto.name!a:.100} has two types")
        full = self._resolve(proto.type_name, scope, _TYPES, path)
        kind = Type.TYPE_ENUM if self._known[full] == "enum" else Type.TYPE_MESSAGE
        if proto.HasField("type") and proto.type != kind:
            self._places.refuse(path, f"{full!r:.200} is not of the kind that the descriptor states")
        proto.type, proto.type_name = kind, f".{full}"

    def _set_kind(self, node: Field, proto: Any, full: str) -> None:
        if proto.type == Type.TYPE_ENUM:
            node.kind, node.enum = "enum", self._enums.get(full) or self._foreign_enums[full]
        elif proto.type == Type.TYPE_MESSAGE:
            node.kind, node.message = "message", self._messages.get(full) or self._foreign_messages[full]
        else:
            node.kind = _KINDS[proto.type]

    # -- extensions and services -----------------------------------------------------------------

    def _extensions(self, extensions: Any, scope: str, path: Path) -> None:
        for n, extension in enumerate(extensions):
            place = (*path, n)
            full = self._resolve(extension.extendee, scope, _MESSAGES, place)
            extension.extendee = f".{full}"
            self._link_type(extension, scope, place)
            if not self._builtin:
                check_extension(extension, full, self._proto_of(full), self._proto3, self._places, place)

    def _proto_of(self, full: str) -> Any:
        """Return the descriptor of a message of this or of an imported file."""
        owner = next((file.proto for file in self._files if full in file.messages), self._proto)
        proto = self._proto if full in self._messages else owner
        package = proto.package
        parts = (full[len(package) + 1 :] if package else full).split(".")
        found = next(message for message in proto.message_type if message.name == parts[0])
        for part in parts[1:]:
            found = next(message for message in found.nested_type if message.name == part)
        return found

    def _services(self) -> None:
        for n, service in enumerate(self._proto.service):
            scope = f"{self._proto.package}.{service.name}".lstrip(".")
            for m, method in enumerate(service.method):
                place = (6, n, 2, m)
                method.input_type = f".{self._resolve(method.input_type, scope, _MESSAGES, place)}"
                method.output_type = f".{self._resolve(method.output_type, scope, _MESSAGES, place)}"

    # -- size ------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Compute the cost of the smallest value of every message, and which messages require anything."""
        own = {id(node): node for node in self._finished}
        waiting: dict[int, int] = {}
        users: dict[int, list[Message]] = {id(node): [] for node in self._finished}
        holders: dict[int, list[Message]] = {id(node): [] for node in self._finished}
        for node in self._finished:
            needed = [field.message for field in node.required if field.message is not None]
            waiting[id(node)] = sum(id(one) in own for one in needed)
            for one in needed:
                if id(one) in own:
                    users[id(one)].append(node)
            for field in node.fields:
                if field.inner is not None and id(field.inner) in own:
                    holders[id(field.inner)].append(node)
        ready = [node for node in self._finished if not waiting[id(node)]]
        while ready:
            node = ready.pop()
            inside = [field.message for field in node.required if field.message is not None]
            node.cost = min(1 + len(node.required) + sum(one.cost for one in inside), MAX_COST + 1)
            node.nesting = 1 + max((one.nesting for one in inside), default=0)
            for user in users[id(node)]:
                waiting[id(user)] -= 1
                if not waiting[id(user)]:
                    ready.append(user)
        for node in self._finished:
            if math.isinf(node.cost):
                self._places.refuse((), f"{node.name!r:.200} requires itself, so that it has no finite value")
            if node.cost > MAX_COST:
                self._places.refuse((), f"the smallest {node} has more than {MAX_COST:,} parts")
            if node.nesting > MAX_DEPTH:
                self._places.refuse((), f"the smallest {node} is nested more than {MAX_DEPTH} deep")
            node.demanding = bool(node.required) or any(
                field.inner is not None and field.inner.demanding for field in node.fields
            )
        marked = [node for node in self._finished if node.demanding]
        while marked:
            for holder in holders[id(marked.pop())]:
                if not holder.demanding:
                    holder.demanding = True
                    marked.append(holder)
