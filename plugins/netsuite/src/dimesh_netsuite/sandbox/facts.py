"""What the tables of a NetSuite account are like: each entry names its source.

*Recorded*: an answer that NetSuite gave to a client or connector. *Reported*: a thread or article of a connector's authors.
Nothing here comes from the connector's own catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Type = Literal["id", "text", "flag", "number", "date", "time"]


def _columns(text: str) -> dict[str, Type]:
    """Return columns by name; ``name:type``, text by default."""
    found: dict[str, Type] = {}
    for part in text.split():
        name, _, kind = part.partition(":")
        found[name] = kind or "text"  # type: ignore[assignment]
    return found


_ENTITY: Final = (
    "id:id entityid externalid isinactive:flag isperson:flag companyname firstname lastname email phone subsidiary:id "
    "datecreated:time lastmodifieddate:time comments "
)
# Names of columns: queries of dbt packages and of connectors over SuiteQL (fivetran/dbt_netsuite, PostHog,
# swishbi/dbt_netsuite_source).
TABLES: Final[Mapping[str, dict[str, Type]]] = {
    "transaction": _columns(
        "id:id tranid trandate:date type status entity:id memo currency:id exchangerate:number foreigntotal:number subsidiary:id "
        "posting:flag createddate:time lastmodifieddate:time recordtype externalid"
    ),
    "transactionline": _columns(
        "transaction:id id:id uniquekey:id linesequencenumber:id item:id memo quantity:number rate:number netamount:number "
        "foreignamount:number mainline:flag subsidiary:id linecreateddate:time linelastmodifieddate:time"
    ),
    "transactionaccountingline": _columns(
        "transaction:id transactionline:id accountingbook:id account:id amount:number debit:number credit:number posting:flag "
        "lastmodifieddate:time"
    ),
    "customer": _columns(_ENTITY + "currency:id terms:id creditlimit:number"),
    "vendor": _columns(_ENTITY + "currency:id terms:id"),
    "partner": _columns(_ENTITY),
    "contact": _columns(_ENTITY + "company:id title"),
    "employee": _columns(_ENTITY + "title department:id hiredate:date"),
    "job": _columns(_ENTITY + "parent:id startdate:date"),
    "item": _columns(
        "id:id itemid displayname itemtype isinactive:flag cost:number externalid createddate:time lastmodifieddate:time"
    ),
    "account": _columns("id:id acctnumber fullname accttype isinactive:flag lastmodifieddate:time"),
    "subsidiary": _columns("id:id name fullname currency:id isinactive:flag lastmodifieddate:time"),
    "department": _columns("id:id name isinactive:flag"),
    "location": _columns("id:id name isinactive:flag"),
    "classification": _columns("id:id name isinactive:flag"),
    "currency": _columns("id:id name symbol exchangerate:number isinactive:flag"),
    "accountingperiod": _columns("id:id periodname startdate:date enddate:date closed:flag"),
    "term": _columns("id:id name isinactive:flag"),
    "pricelevel": _columns("id:id name isinactive:flag"),
    # Columns: recorded queries of clients; ``recordtypeid``, ``iscustomrecord`` and ``iscustomlist``:
    # swishbi/dbt_netsuite_source.
    "deletedrecord": _columns(
        "deleteddate:time type recordid:id name deletedby context recordtypeid:id iscustomrecord:flag iscustomlist:flag"
    ),
    "systemnote": _columns(
        "id:id date:time field oldvalue newvalue record recordid:id recordtypeid:id name context type"
    ),
    "systemnote2": _columns(
        "id:id actor datefrom:time dateto:time objectactiontype objectid:id elementfullname"
    ),
    "customrecordtype": _columns("internalid:id scriptid name"),
}
"""The tables, with the types of their columns."""

KEYS: Final = {
    "transactionline": ("transaction", "id"),
    "transactionaccountingline": ("transaction", "transactionline", "accountingbook"),
    "deletedrecord": ("recordid", "type", "deleteddate"),
    "customrecordtype": ("internalid",),
}
"""The keys that are not ``id``; of accounting lines: PostHog's connector."""
STAMPS: Final = {"transactionline": "linelastmodifieddate", "transactionaccountingline": "lastmodifieddate"}
"""The column with the time of the last change, where it is not ``lastmodifieddate`` (custom records: ``lastmodified``,
Airbyte).
"""
CREATED: Final = {"transactionline": "linecreateddate"}

DELETED_TYPES: Final = {
    "customer": "Customer",
    "vendor": "Vendor",
    "partner": "Partner",
    "contact": "Contact",
    "employee": "Employee",
    "item": "Inventory Item",
    "account": "Account",
    "subsidiary": "Subsidiary",
    "department": "Department",
    "location": "Location",
    "classification": "Class",
}
"""The types in ``deletedrecord`` (getDeleted, *record types with delete support*). Lines are not among them, and some types are
not tracked at all (SuiteTalk Platform Guide)."""
TRANSACTION_TYPES: Final = {
    "SalesOrd": "Sales Order",
    "CustInvc": "Invoice",
    "Journal": "Journal Entry",
    "PurchOrd": "Purchase Order",
    "VendBill": "Vendor Bill",
}
"""The type codes of transactions, and the names of their types in ``deletedrecord``."""
NOTE_TYPES: Final = {
    "customer": -9,
    "vendor": -9,
    "partner": -9,
    "contact": -9,
    "employee": -9,
    "transaction": -30,
    "item": -10,
}
"""The record types in ``systemnote`` (-9: recorded)."""
AUDITED: Final = {
    "companyname": "NAME.SCOMPANYNAME",
    "email": "NAME.SEMAIL",
    "memo": "TRANDOC.SMEMO",
    "status": "TRANDOC.KSTATUS",
    "displayname": "INVTITEM.SDISPLAYNAME",
}
"""The fields whose changes leave a system note; not all fields do (reported)."""
REST_ONLY: Final = {"customer": ("balance", "overdueBalance", "total")}
"""The columns that the metadata has and SuiteQL does not know (reported: SuitePortal)."""
MASKED: Final = {"creditlimit"}
"""The fields whose notes are masked: NetSuite masks encrypted values."""
