"""The objects of the sandbox: their fields, in the form of ``describe`` and of the schema of change events.

The Avro schemas, their ``doc`` texts and the header are recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

ADDRESS: Final = (
    "Street", "City", "State", "PostalCode", "Country", "StateCode", "CountryCode", "Latitude", "Longitude", "Xyz",
    "GeocodeAccuracy",
)  # fmt: skip
FLAGS: Final = ("ActivityRemindersPopup", "DisableLikeEmail", "HideLightningMigrationModal")
"""Preferences of a user: a record has a field for each, an event lists those that are on (documentation)."""
MERGED: Final = ("Account", "Contact", "Lead")
"""The objects whose records can be merged (documentation)."""
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
    """The type that Salesforce gives; ``address``, ``location``, ``person`` and ``switchable`` (a text or a person) are
    compound.
    """
    reference: str = ""
    cascades: bool = False
    """Whether deleting the record that the field refers to deletes this one."""
    derived: bool = False
    """Whether events leave the field out, as they do with formulas and with values of related records (documentation)."""

    @property
    def members(self) -> tuple[str, ...]:
        """The members of a compound field; none for a plain one."""
        return {"address": ADDRESS, "location": LOCATION, "person": PERSON, "switchable": PERSON}.get(
            self.kind, ()
        )

    def column(self, member: str) -> str | None:
        """Return the field of a record that holds a member; None if no field does."""
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
    """The prefix of the ids of its records."""
    fields: list[Field] = field(default_factory=list)
    bulk: str = ""
    """The error with which the Bulk API refuses the object (jsforce/jsforce #413); empty: it does not."""
    filters: tuple[str, ...] = ()
    """The fields of which a query needs one (documentation, *SOQL limits*)."""
    recycled: bool = True
    """Whether deleted records go to the recycle bin (not those of CampaignMember: airbytehq/airbyte #44845)."""
    tracked: bool = True
    """Whether the object has change events."""
    lacks: tuple[str, ...] = ()
    """The fields of other records that those of this object do not have."""
    replicateable: bool = True
    """Whether there is a log of deletes (Object Reference: shares have none, ``getDeleted`` is not among their calls)."""
    shares: tuple[str, str] = ("", "")
    """The object with the sharing of this one, and its field that names the shared record: each record has a share of its owner
    (Object Reference, *AccountShare*: the row cause ``Owner``). Empty: there is none."""
    late: tuple[str, ...] = ()
    """The fields that are not in the event of a new record (documentation: those of PricebookEntry)."""

    @property
    def event(self) -> str:
        """The name of the object's change events."""
        return f"{self.name[:-3]}__ChangeEvent" if self.name.endswith("__c") else f"{self.name}ChangeEvent"

    @property
    def told(self) -> list[Field]:
        """The fields of change events."""
        return [one for one in self.fields if not one.derived]

    def columns(self) -> Iterator[tuple[str, str, str | None]]:
        """Return name, type and compound field of each field of a record."""
        return (found for found in self._columns() if found[0] not in self.lacks)

    def _columns(self) -> Iterator[tuple[str, str, str | None]]:
        yield "Id", "id", None
        for one in self.fields:
            if one.kind == "switchable":
                yield one.name, "string", None
            elif one.kind == "preferences":
                for flag in FLAGS:
                    yield f"{one.name}{flag}", "boolean", None
            elif one.members:
                yield one.name, "string" if one.kind == "person" else one.kind, None
                for member in one.members:
                    column = one.column(member)
                    if column is not None:
                        yield column, "double" if member in _NUMBERS else "string", one.name
            else:
                yield one.name, one.kind, None
        yield "IsDeleted", "boolean", None
        if self.name in MERGED:
            yield "MasterRecordId", "reference", None
        yield "SystemModstamp", "datetime", None

    def schema(self) -> dict[str, Any]:
        """Return the Avro schema of the object's change events."""
        defined: set[str] = set()
        return {
            "type": "record",
            "name": self.event,
            "namespace": "com.sforce.eventbus",
            "fields": [
                HEADER,
                *(
                    {"name": f.name, "type": _type(f, defined), "doc": _doc(f), "default": None}
                    for f in self.told
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
    if one.kind == "preferences":
        return ["null", {"type": "array", "items": "string"}]
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


def _kind(name: str, prefix: str, *fields: Field, **more: Any) -> Kind:
    system = [
        Field("OwnerId", "reference", "User"), Field("CreatedDate", "datetime"), Field("CreatedById", "reference", "User"),
        Field("LastModifiedDate", "datetime"), Field("LastModifiedById", "reference", "User"),
    ]  # fmt: skip
    return Kind(name, prefix, [*fields, *system], **more)


def _beside(
    name: str, prefix: str, reference: str, *fields: Field, lacks: tuple[str, ...] = (), **more: Any
) -> Kind:
    """Return an object beside another one: it has no change events, and the Bulk API refuses it (documentation,
    data-integrations/salesforce).
    """
    parent = Field(
        "ParentId" if "__" in name or name.endswith("Feed") else f"{reference}Id",
        "reference",
        reference,
        True,
    )
    bulk = f"Entity '{name}' is not supported by the Bulk API."
    return _kind(name, prefix, parent, *fields, bulk=bulk, tracked=False, lacks=("OwnerId", *lacks), **more)


def _around(name: str, prefixes: tuple[str, str, str]) -> tuple[Kind, Kind, Kind]:
    """Return the objects with the changes of fields, the sharing and the posts of an object (Object Reference,
    *StandardObjectNameHistory*, *…Share* and *…Feed*). A deleted share is in no recycle bin (unconfirmed).
    """
    text = "string"
    stem = f"{name[:-3]}__" if name.endswith("__c") else name
    changed = ("LastModifiedDate", "LastModifiedById", "SystemModstamp")
    created = ("CreatedDate", "CreatedById", "SystemModstamp")
    level = "AccessLevel" if name.endswith("__c") else f"{name}AccessLevel"
    return (
        _beside(
            f"{stem}History", prefixes[0], name, Field("Field", text), Field("DataType", text), Field("OldValue", text),
            Field("NewValue", text), lacks=changed,
        ),
        _beside(
            f"{stem}Share", prefixes[1], name, Field("UserOrGroupId", "reference"), Field(level, "picklist"),
            Field("RowCause", "picklist"), lacks=created, recycled=False, replicateable=False,
        ),
        _beside(
            f"{stem}Feed", prefixes[2], name, Field("Type", "picklist"), Field("Body", "textarea"), Field("CommentCount", "int"),
            lacks=("LastModifiedById",),
        ),
    )  # fmt: skip


def kinds() -> dict[str, Kind]:
    """Return a new set of objects, by name."""
    text, money, choice = "string", "currency", "picklist"
    made = (
        _kind(
            "Account", "001", Field("Name", "switchable"), Field("Type", choice), Field("ParentId", "reference", "Account"),
            Field("Phone", "phone"), Field("BillingAddress", "address"), Field("ShippingAddress", "address"),
            Field("Website", "url"), Field("Industry", choice), Field("AnnualRevenue", money),
            Field("NumberOfEmployees", "int"), Field("Description", "textarea"), Field("Active__c", "boolean"),
            Field("Founded__c", "date"), Field("Site__c", "location"), Field("Score__c", "double", derived=True),
            Field("LastActivityDate", "date", derived=True), shares=("AccountShare", "AccountId"),
        ),
        _kind(
            "Contact", "003", Field("AccountId", "reference", "Account", cascades=True), Field("Name", "person"),
            Field("Email", "email"), Field("Phone", "phone"), Field("MailingAddress", "address"),
            Field("Birthdate", "date"), Field("Title", text),
        ),
        _kind("Lead", "00Q", Field("Name", "person"), Field("Company", text), Field("Email", "email"), Field("Status", choice)),
        _kind(
            "Opportunity", "006", Field("AccountId", "reference", "Account", cascades=True), Field("Name", text),
            Field("StageName", choice), Field("Amount", money), Field("Probability", "percent"),
            Field("CloseDate", "date"), Field("IsWon", "boolean"),
        ),
        _kind("Case", "500", Field("Subject", text), Field("Status", choice), Field("Description", "textarea")),
        _kind(
            "User", "005", Field("Name", "person"), Field("Username", text), Field("Email", "email"),
            Field("UserPreferences", "preferences"),
        ),
        _kind(
            "Task", "00T", Field("Subject", text), Field("WhatId", "reference", "Account"), Field("Status", choice),
            Field("IsArchived", "boolean"),
        ),
        _kind("CampaignMember", "00v", Field("CampaignId", "reference", "Campaign"), Field("Status", choice), recycled=False),
        _kind(
            "PricebookEntry", "01u", Field("Name", text), Field("UnitPrice", money),
            late=("CreatedById", "CreatedDate", "LastModifiedById", "LastModifiedDate"),
        ),
        _kind(
            "Attachment", "00P", Field("Name", text), bulk="Entity 'Attachment' is not supported by the Bulk API.", tracked=False,
        ),
        _kind(
            "ContentDocument", "069", Field("Title", text), Field("IsArchived", "boolean"), tracked=False,
            shares=("ContentDocumentLink", "ContentDocumentId"),
        ),
        _kind(
            "ContentDocumentLink", "06A", Field("ContentDocumentId", "reference", "ContentDocument", cascades=True),
            Field("LinkedEntityId", "reference"), Field("ShareType", choice),
            filters=("Id", "ContentDocumentId", "LinkedEntityId"), tracked=False, recycled=False, replicateable=False,
            lacks=("OwnerId", "CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById"),
        ),
        *_around("Account", ("017", "00r", "0D6")),
        *_around("Invoice__c", ("00h", "02c", "0D7")),
        _kind("Clicks__b", "I00", Field("Page__c", text), tracked=False),
        _kind(
            "Invoice__c", "a00", Field("Name", text), Field("Amount__c", money), Field("Due__c", "date"),
            shares=("Invoice__Share", "ParentId"),
        ),
    )  # fmt: skip
    return {kind.name: kind for kind in made}
