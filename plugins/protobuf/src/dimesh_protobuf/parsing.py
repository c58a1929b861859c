"""Reads the text of a ``.proto`` file into a file descriptor. Names of types are resolved later, by :mod:`linking`."""

from __future__ import annotations

import math
from typing import Any, Final

from dimesh_protobuf.cursor import Cursor, shown
from dimesh_protobuf.limits import MAX_NESTING, MAX_NUMBER
from dimesh_protobuf.options import read_number_or_name, read_option
from dimesh_protobuf.places import Path, Places
from dimesh_protobuf.protos import FileDescriptorProto, Type

SCALARS: Final = {
    "double": Type.TYPE_DOUBLE,
    "float": Type.TYPE_FLOAT,
    "int64": Type.TYPE_INT64,
    "uint64": Type.TYPE_UINT64,
    "int32": Type.TYPE_INT32,
    "fixed64": Type.TYPE_FIXED64,
    "fixed32": Type.TYPE_FIXED32,
    "bool": Type.TYPE_BOOL,
    "string": Type.TYPE_STRING,
    "bytes": Type.TYPE_BYTES,
    "uint32": Type.TYPE_UINT32,
    "sfixed32": Type.TYPE_SFIXED32,
    "sfixed64": Type.TYPE_SFIXED64,
    "sint32": Type.TYPE_SINT32,
    "sint64": Type.TYPE_SINT64,
}
_LABELS: Final = {
    "optional": Type.LABEL_OPTIONAL,
    "required": Type.LABEL_REQUIRED,
    "repeated": Type.LABEL_REPEATED,
}
_ESCAPED: Final = {ord(c): f"\\{d}" for c, d in zip("\n\r\t\"'\\", "nrt\"'\\", strict=True)}
_LARGEST_ENUM: Final = 2**31 - 1

# The numbers of fields in descriptor.proto, of which paths consist.
_PACKAGE, _IMPORT, _MESSAGE, _ENUM, _SERVICE, _EXTENSION = 2, 3, 4, 5, 6, 7
_OF_MESSAGE: Final = {
    "field": 2,
    "nested": 3,
    "enum": 4,
    "range": 5,
    "extension": 6,
    "oneof": 8,
    "reserved": 9,
    "name": 10,
}


def read_file(text: str) -> tuple[Any, Places]:
    """Return the descriptor of a file and the places of its parts.

    Raises:
        InvalidSchemaError: the text is no ``.proto`` file of proto2 or proto3, or exceeds a limit.
    """
    return _Parser(text).file()


def entry_name(field: str) -> str:
    """Return the name of the message that Protobuf makes for the entries of a map."""
    return "".join(part[:1].upper() + part[1:] for part in field.split("_")) + "Entry"


class _Parser:
    def __init__(self, text: str) -> None:
        self._cursor = Cursor(text)
        self._places = self._cursor.places
        self._file = FileDescriptorProto()
        self._proto3 = False

    def file(self) -> tuple[Any, Places]:
        cursor, file = self._cursor, self._file
        if cursor.here.kind == "end":
            cursor.refuse("the schema is empty")
        self._syntax()
        while cursor.here.kind != "end":
            start = cursor.here
            word = start.text if start.kind == "name" else ""
            if cursor.accept(";"):
                continue
            if word == "import":
                self._import()
            elif word == "package":
                cursor.take()
                if file.HasField("package"):
                    cursor.refuse("the package is given twice", start)
                self._places.note((_PACKAGE,), start.offset)
                file.package = cursor.full_name("a package")
                cursor.expect(";")
            elif word == "option":
                self._option(file.options)
            elif word == "message":
                self._message(file.message_type.add(), (_MESSAGE, len(file.message_type) - 1), 1)
            elif word == "enum":
                self._enum(file.enum_type.add(), (_ENUM, len(file.enum_type) - 1))
            elif word == "extend":
                self._extend(file.extension, (_EXTENSION,))
            elif word == "service":
                self._service(file.service.add(), (_SERVICE, len(file.service) - 1))
            else:
                cursor.refuse(
                    f"{shown(start)} is not expected here: a file has syntax, imports, a package, options, "
                    "messages, enums, services and extensions"
                )
        return file, self._places

    def _syntax(self) -> None:
        cursor = self._cursor
        if cursor.here.text == "edition" and cursor.after(1).text == "=":
            cursor.refuse("editions are not supported: write the schema in proto2 or proto3")
        if cursor.here.text != "syntax" or cursor.here.kind != "name":
            return
        cursor.take()
        cursor.expect("=")
        token = cursor.here
        syntax = cursor.text("the syntax")
        if syntax not in ("proto2", "proto3"):
            cursor.refuse(f'the syntax is "proto2" or "proto3", not {syntax!a:.60}', token)
        cursor.expect(";")
        self._proto3 = syntax == "proto3"
        if self._proto3:
            self._file.syntax = syntax

    def _import(self) -> None:
        cursor, file = self._cursor, self._file
        start = cursor.take()
        number = len(file.dependency)
        if cursor.accept("public"):
            file.public_dependency.append(number)
        elif cursor.accept("weak"):
            file.weak_dependency.append(number)
        path = cursor.text("the path of an import")
        if path in file.dependency:
            cursor.refuse(f"the file {path!r:.200} is imported twice", start)
        self._places.note((_IMPORT, number), start.offset)
        cursor.count()
        file.dependency.append(path)
        cursor.expect(";")

    def _option(self, options: Any) -> None:
        self._cursor.expect("option")
        read_option(self._cursor, options)
        self._cursor.expect(";")

    # -- messages --------------------------------------------------------------------------------

    def _message(self, message: Any, path: Path, depth: int) -> None:
        cursor = self._cursor
        self._begin(path)
        cursor.take()
        if depth > MAX_NESTING:
            cursor.refuse(f"messages are nested more than {MAX_NESTING} deep")
        message.name = cursor.name("a message")
        cursor.expect("{")
        optional: list[Any] = []
        while not cursor.accept("}"):
            self._part(message, path, depth, optional)
        if message.options.HasField("map_entry"):
            self._places.refuse(path, "the option 'map_entry' belongs to Protobuf: write map<key, value>")
        for (
            field
        ) in optional:  # each optional field of proto3 is in a oneof of its own, after those that are written
            field.oneof_index = len(message.oneof_decl)
            name = f"_{field.name}"
            taken = _names_in(message)
            while name in taken:
                name = f"X{name}"
            message.oneof_decl.add(name=name)

    def _begin(self, path: Path) -> None:
        self._cursor.count()
        self._places.note(path, self._cursor.here.offset)

    def _part(self, message: Any, path: Path, depth: int, optional: list[Any]) -> None:
        cursor = self._cursor
        token = cursor.here
        word = token.text if token.kind == "name" else ""
        if cursor.accept(";"):
            return
        if word == "message":
            place = (*path, _OF_MESSAGE["nested"], len(message.nested_type))
            self._message(message.nested_type.add(), place, depth + 1)
        elif word == "enum":
            self._enum(message.enum_type.add(), (*path, _OF_MESSAGE["enum"], len(message.enum_type) - 1))
        elif word == "extend":
            self._extend(message.extension, (*path, _OF_MESSAGE["extension"]))
        elif word == "extensions":
            self._extension_ranges(message, path)
        elif word == "reserved":
            self._reserved(message, path, MAX_NUMBER)
        elif word == "option":
            self._option(message.options)
        elif word == "oneof":
            self._oneof(message, path)
        elif token.kind == "end":
            cursor.refuse(f"the message {message.name!r:.100} does not end: '}}' is missing")
        else:
            field = self._field(message, path)
            if field.proto3_optional:
                optional.append(field)

    def _field(self, message: Any, path: Path) -> Any:
        cursor = self._cursor
        place = (*path, _OF_MESSAGE["field"], len(message.field))
        self._begin(place)
        label = self._label()
        field = message.field.add()
        if cursor.here.text == "map" and cursor.after(1).text == "<":
            if label:
                cursor.refuse("a map has no label")
            self._map(message, field, path)
        else:
            field.label = label or Type.LABEL_OPTIONAL
            if not label and not self._proto3:
                cursor.refuse("a field of proto2 begins with optional, required or repeated")
            if label == Type.LABEL_OPTIONAL and self._proto3:
                field.proto3_optional = True
            self._typed(field)
        return field

    def _label(self) -> int:
        """Return a label, 0 if there is none."""
        token = self._cursor.here
        if token.kind != "name" or token.text not in _LABELS:
            return 0
        self._cursor.take()
        return int(_LABELS[token.text])

    def _typed(self, field: Any) -> None:
        """Read the type, name, number and options of a field."""
        cursor = self._cursor
        if cursor.here.text == "group" and cursor.after(1).kind == "name" and cursor.after(2).text == "=":
            if cursor.after(4).text in ("{", "["):
                cursor.refuse("groups are not supported: use a message and a field of it")
        self._type(field, cursor.full_name("a type"))
        self._named(field)

    @staticmethod
    def _type(field: Any, name: str) -> None:
        if name in SCALARS:
            field.type = SCALARS[name]
        else:
            field.type_name = name

    def _named(self, field: Any) -> None:
        cursor = self._cursor
        field.name = cursor.name("a field")
        cursor.expect("=")
        field.number = cursor.natural("the number of the field", 2**31 - 1)
        if cursor.accept("["):
            self._field_options(field)
        cursor.expect(";")

    def _field_options(self, field: Any) -> None:
        cursor = self._cursor
        while True:
            token = cursor.here
            plain = token.kind == "name" and cursor.after(1).text == "="
            if plain and token.text == "default":
                if field.HasField("default_value"):
                    cursor.refuse("the default is given twice")
                cursor.take()
                cursor.expect("=")
                field.default_value = self._default(field)
            elif plain and token.text == "json_name":
                if field.HasField("json_name"):
                    cursor.refuse("the option 'json_name' is given twice")
                cursor.take()
                cursor.expect("=")
                field.json_name = cursor.text("the value of the option 'json_name'")
            else:
                read_option(cursor, field.options)
            if not cursor.accept(","):
                break
        cursor.expect("]")

    def _default(self, field: Any) -> str:
        """Return a default as descriptors spell it."""
        cursor = self._cursor
        kind = field.type if field.HasField("type") else Type.TYPE_ENUM
        if kind == Type.TYPE_STRING:
            return cursor.text("the default")
        if kind == Type.TYPE_BYTES:
            return escaped(cursor.string("the default"))
        token = cursor.here
        value = read_number_or_name(cursor)
        if kind in (Type.TYPE_DOUBLE, Type.TYPE_FLOAT):
            if isinstance(value, str) and value not in ("inf", "nan"):
                cursor.refuse("the default is a number", token)
            return spelled(float(value))
        if isinstance(value, float):
            cursor.refuse("the default is a whole number, true, false or the name of a value", token)
        return str(value)

    def _map(self, message: Any, field: Any, path: Path) -> None:
        cursor = self._cursor
        cursor.take()
        cursor.expect("<")
        entry = message.nested_type.add()
        self._places.note((*path, _OF_MESSAGE["nested"], len(message.nested_type) - 1), cursor.here.offset)
        key = entry.field.add(name="key", number=1, label=Type.LABEL_OPTIONAL)
        value = entry.field.add(name="value", number=2, label=Type.LABEL_OPTIONAL)
        self._type(key, cursor.full_name("a type"))
        cursor.expect(",")
        self._type(value, cursor.full_name("a type"))
        cursor.expect(">")
        entry.options.map_entry = True
        field.label = Type.LABEL_REPEATED
        self._named(field)
        entry.name = entry_name(field.name)
        field.type_name = entry.name

    def _oneof(self, message: Any, path: Path) -> None:
        cursor = self._cursor
        self._begin((*path, _OF_MESSAGE["oneof"], len(message.oneof_decl)))
        cursor.take()
        index = len(message.oneof_decl)
        oneof = message.oneof_decl.add(name=cursor.name("a oneof"))
        cursor.expect("{")
        before = len(message.field)
        while not cursor.accept("}"):
            if cursor.accept(";"):
                continue
            if cursor.here.text == "option" and cursor.here.kind == "name":
                self._option(oneof.options)
                continue
            if self._label() or (cursor.here.text == "map" and cursor.after(1).text == "<"):
                cursor.refuse("a field of a oneof has no label, and is no map")
            self._begin((*path, _OF_MESSAGE["field"], len(message.field)))
            field = message.field.add(label=Type.LABEL_OPTIONAL, oneof_index=index)
            self._typed(field)
        if len(message.field) == before:
            cursor.refuse(f"the oneof {oneof.name!r:.100} has no field")

    def _extend(self, extensions: Any, path: Path) -> None:
        cursor = self._cursor
        cursor.take()
        extendee = cursor.full_name("a message")
        cursor.expect("{")
        while not cursor.accept("}"):
            if cursor.accept(";"):
                continue
            self._begin((*path, len(extensions)))
            label = self._label()
            if not label and not self._proto3:
                cursor.refuse("a field of proto2 begins with optional, required or repeated")
            field = extensions.add(extendee=extendee, label=label or Type.LABEL_OPTIONAL)
            if self._proto3 and label == Type.LABEL_OPTIONAL:
                field.proto3_optional = True
            self._typed(field)

    def _extension_ranges(self, message: Any, path: Path) -> None:
        cursor = self._cursor
        cursor.take()
        first = len(message.extension_range)
        while True:
            self._begin((*path, _OF_MESSAGE["range"], len(message.extension_range)))
            start, end = self._range(1, MAX_NUMBER)
            message.extension_range.add(start=start, end=end + 1)
            if not cursor.accept(","):
                break
        if cursor.accept("["):
            while True:
                read_option(cursor, message.extension_range[first].options)
                if not cursor.accept(","):
                    break
            cursor.expect("]")
            for later in message.extension_range[first + 1 :]:
                later.options.CopyFrom(message.extension_range[first].options)
        cursor.expect(";")

    def _range(self, low: int, high: int) -> tuple[int, int]:
        start = self._signed(low, high)
        if not self._cursor.accept("to"):
            return start, start
        if self._cursor.accept("max"):
            return start, high
        token = self._cursor.here
        end = self._signed(low, high)
        if end < start:
            self._cursor.refuse("a range ends after its beginning", token)
        return start, end

    def _signed(self, low: int, high: int) -> int:
        negative = low < 0 and self._cursor.accept("-")
        token = self._cursor.here
        number = self._cursor.natural("a number", high + negative)
        number = -number if negative else number
        if number < low:
            self._cursor.refuse(f"the number is at least {low:,}", token)
        return number

    def _reserved(self, owner: Any, path: Path, high: int) -> None:
        """Read reserved numbers or names: of a message, whose ranges end before a number, or of an enum, with a number."""
        cursor = self._cursor
        of_enum = high == _LARGEST_ENUM
        names, ranges = (5, 4) if of_enum else (_OF_MESSAGE["name"], _OF_MESSAGE["reserved"])
        cursor.take()
        while True:
            if cursor.here.kind == "string":
                self._begin((*path, names, len(owner.reserved_name)))
                owner.reserved_name.append(cursor.text("a reserved name"))
            else:
                self._begin((*path, ranges, len(owner.reserved_range)))
                start, end = self._range(-(2**31) if of_enum else 1, high)
                owner.reserved_range.add(start=start, end=end if of_enum else end + 1)
            if not cursor.accept(","):
                break
        cursor.expect(";")

    # -- enums and services ----------------------------------------------------------------------

    def _enum(self, enum: Any, path: Path) -> None:
        cursor = self._cursor
        self._begin(path)
        cursor.take()
        enum.name = cursor.name("an enum")
        cursor.expect("{")
        while not cursor.accept("}"):
            if cursor.accept(";"):
                continue
            if cursor.here.text == "option" and cursor.after(1).text != "=":
                self._option(enum.options)
            elif cursor.here.text == "reserved" and cursor.after(1).text != "=":
                self._reserved(enum, path, _LARGEST_ENUM)
            else:
                self._begin((*path, 2, len(enum.value)))
                value = enum.value.add(name=cursor.name("a value"))
                cursor.expect("=")
                value.number = self._signed(-(2**31), _LARGEST_ENUM)
                if cursor.accept("["):
                    while True:
                        read_option(cursor, value.options)
                        if not cursor.accept(","):
                            break
                    cursor.expect("]")
                cursor.expect(";")

    def _service(self, service: Any, path: Path) -> None:
        cursor = self._cursor
        self._begin(path)
        cursor.take()
        service.name = cursor.name("a service")
        cursor.expect("{")
        while not cursor.accept("}"):
            if cursor.accept(";"):
                continue
            if cursor.here.text == "option":
                self._option(service.options)
                continue
            self._begin((*path, 2, len(service.method)))
            cursor.expect("rpc")
            method = service.method.add(name=cursor.name("a method"))
            stream, method.input_type = self._side()
            if stream:
                method.client_streaming = True
            cursor.expect("returns")
            stream, method.output_type = self._side()
            if stream:
                method.server_streaming = True
            if cursor.accept("{"):
                while not cursor.accept("}"):
                    if not cursor.accept(";"):
                        self._option(method.options)
            else:
                cursor.expect(";")

    def _side(self) -> tuple[bool, str]:
        cursor = self._cursor
        cursor.expect("(")
        stream = cursor.here.text == "stream" and cursor.after(1).text != ")" and cursor.accept("stream")
        name = cursor.full_name("a message")
        cursor.expect(")")
        return stream, name


def _names_in(message: Any) -> set[str]:
    """Return the names that a message defines in its own scope."""
    parts = (message.field, message.oneof_decl, message.nested_type, message.enum_type, message.extension)
    values = (value for enum in message.enum_type for value in enum.value)
    return {part.name for some in (*parts, values) for part in some}


def escaped(data: bytes) -> str:
    """Return bytes as descriptors spell a default."""
    return "".join(_ESCAPED.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in data)


def spelled(number: float) -> str:
    """Return a number as descriptors spell a default."""
    if math.isnan(number):
        return "nan"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return repr(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)
