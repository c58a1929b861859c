"""The objects of the sandbox: their fields, as ``describe`` and as the schema of change events tell them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

ADDRESS: Final = (
    "Street", "City", "State", "PostalCode", "Country", "StateCode", "CountryCode", "Latitude", "Longitude", "Xyz",
    "GeocodeAccuracy",
)  # fmt: skip
PERSON: Final = ("Salutation", "FirstName", "LastName", "MiddleName", "InformalName", "Suffix")
LOCATION: Final = ("Latitude", "Longitude")
_NUMBERS: Final = ("Latitude", "Longitude")
_AVRO: Final = {"int": "int", "double": "double", "currency": "double", "percent": "double", "boolean": "boolean",
                "date": "long", "datetime": "long"}  # fmt: skip
HEADER: Final[dict[str, Any]] = {
    "name": "ChangeEventHeader",
    "type": {
        "type": "record",
        "name": "ChangeEventHeader",
        "fields": [
            {"name": "entityName", "type": "string"},
            {"name": "recordIds", "type": {"type": "array", "items": "string"}},
            {
                "name": "changeType",
                "type": {
                    "type": "enum",
                    "name": "ChangeType",
                    "symbols": [
                        "CREATE", "UPDATE", "DELETE", "UNDELETE", "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE",
                        "GAP_OVERFLOW", "SNAPSHOT",
                    ],
                },
            },
            {"name": "changeOrigin", "type": "string"},
            {"name": "transactionKey", "type": "string"},
            {"name": "sequenceNumber", "type": "int"},
            {"name": "commitTimestamp", "type": "long"},
            {"name": "commitNumber", "type": "long"},
            {"name": "commitUser", "type": "string"},
            {"name": "nulledFields", "type": {"type": "array", "items": "string"}},
            {"name": "diffFields", "type": {"type": "array", "items": "string"}},
            {"name": "changedFields", "type": {"type": "array", "items": "string"}},
        ],
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a change event: plain, or compound with members."""

    name: str
    kind: str = "string"
    """Salesforce's type; ``address``, ``location``, ``person`` and ``switchable`` (a text or a person) are compound."""
    reference: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """Of a compound field."""
        return {"address": ADDRESS, "location": LOCATION, "person": PERSON, "switchable": PERSON}.get(
            self.kind, ()
        )

    def column(self, member: str) -> str | None:
        """The field of a row that holds a member."""
        if self.kind == "address":
            return None if member == "Xyz" else f"{self.name.removesuffix('Address')}{member}"
        if self.kind == "location":
            return f"{self.name.removesuffix('__c')}__{member}__s"
        return None if self.kind == "switchable" else member


@dataclass(slots=True)
class Kind:
    """An object."""

    name: str
    prefix: str
    """Of its ids."""
    fields: list[Field] = field(default_factory=list)

    @property
    def event(self) -> str:
        """The name of its change events."""
        return f"{self.name[:-3]}__ChangeEvent" if self.name.endswith("__c") else f"{self.name}ChangeEvent"

    def columns(self) -> Iterator[tuple[str, str, str | None]]:
        """Name, type and compound field of each field of a row."""
        yield "Id", "id", None
        for one in self.fields:
            if one.kind == "switchable":
                yield one.name, "string", None
            elif one.members:
                yield one.name, "string" if one.kind == "person" else one.kind, None
                for member in one.members:
                    column = one.column(member)
                    if column is not None:
                        yield column, "double" if member in _NUMBERS else "string", one.name
            else:
                yield one.name, one.kind, None
        yield "IsDeleted", "boolean", None
        yield "SystemModstamp", "datetime", None

    def schema(self) -> dict[str, Any]:
        """The Avro schema of its change events."""
        defined: set[str] = set()
        return {
            "type": "record",
            "name": self.event,
            "namespace": "com.sforce.eventbus",
            "fields": [
                HEADER,
                *(
                    {"name": f.name, "type": _type(f, defined), "doc": _doc(f), "default": None}
                    for f in self.fields
                ),
            ],
        }


def _type(one: Field, defined: set[str]) -> list[Any]:
    names = {
        "address": "Address",
        "location": "Location",
        "person": "PersonName",
        "switchable": "Switchable_PersonName",
    }
    if one.kind not in names:
        return ["null", _AVRO.get(one.kind, "string")]
    name = names[one.kind]
    record: Any = name
    if name not in defined:
        defined.add(name)
        record = {
            "type": "record",
            "name": name,
            "fields": [
                {"name": m, "type": ["null", "double" if m in _NUMBERS else "string"], "default": None}
                for m in one.members
            ],
        }
    return ["null", "string", record] if one.kind == "switchable" else ["null", record]


def _doc(one: Field) -> str:
    if one.kind == "datetime":
        return f"{one.name}:DateTime"
    if one.kind == "reference":
        return "ForeignKey:EntityId"
    words = {"picklist": "DynamicEnum", "currency": "Currency", "boolean": "Boolean", "date": "DateOnly"}
    custom = ":00N000000000001" if one.name.endswith("__c") else ""
    return f"Data:{words.get(one.kind, 'Text')}{custom}"


def _kind(name: str, prefix: str, *fields: Field) -> Kind:
    system = [
        Field("OwnerId", "reference", "User"), Field("CreatedDate", "datetime"), Field("CreatedById", "reference", "User"),
        Field("LastModifiedDate", "datetime"), Field("LastModifiedById", "reference", "User"),
    ]  # fmt: skip
    return Kind(name, prefix, [*fields, *system])


def kinds() -> dict[str, Kind]:
    """A fresh set of objects, by name."""
    text, money, choice = "string", "currency", "picklist"
    made = (
        _kind(
            "Account", "001", Field("Name", "switchable"), Field("Type", choice), Field("ParentId", "reference", "Account"),
            Field("Phone", "phone"), Field("BillingAddress", "address"), Field("ShippingAddress", "address"),
            Field("Website", "url"), Field("Industry", choice), Field("AnnualRevenue", money),
            Field("NumberOfEmployees", "int"), Field("Description", "textarea"), Field("Active__c", "boolean"),
            Field("Founded__c", "date"), Field("Site__c", "location"),
        ),
        _kind(
            "Contact", "003", Field("AccountId", "reference", "Account"), Field("Name", "person"), Field("Email", "email"),
            Field("Phone", "phone"), Field("MailingAddress", "address"), Field("Birthdate", "date"), Field("Title", text),
        ),
        _kind("Lead", "00Q", Field("Name", "person"), Field("Company", text), Field("Email", "email"), Field("Status", choice)),
        _kind(
            "Opportunity", "006", Field("AccountId", "reference", "Account"), Field("Name", text), Field("StageName", choice),
            Field("Amount", money), Field("Probability", "percent"), Field("CloseDate", "date"), Field("IsWon", "boolean"),
        ),
        _kind("Case", "500", Field("Subject", text), Field("Status", choice), Field("Description", "textarea")),
        _kind("User", "005", Field("Name", "person"), Field("Username", text), Field("Email", "email")),
        _kind("Invoice__c", "a00", Field("Name", text), Field("Amount__c", money), Field("Due__c", "date")),
    )  # fmt: skip
    return {kind.name: kind for kind in made}
