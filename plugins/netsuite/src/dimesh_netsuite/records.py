"""The tables that can be captured, and what is peculiar to each: its key, its times, and the names of its types elsewhere.

NetSuite documents no list of columns for SuiteQL; what a role may see is found out by asking (:mod:`dimesh_netsuite.columns`). So
this catalogue names only what cannot be found out. A table that is not in it is captured by its column ``id``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dimesh_netsuite.suiteql import checked_name

CREATED: Final = ("createddate", "datecreated", "dateentered", "created")
"""The columns with the time of creation, in the order of preference."""
_CUSTOM_RECORD: Final = re.compile(r"customrecord_?\w+", re.IGNORECASE)
_CUSTOM_LIST: Final = re.compile(r"customlist_?\w+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be captured."""

    name: str
    keys: tuple[str, ...] = ("id",)
    """The columns of the primary key, all of them numbers."""
    stamp: str | None = "lastmodifieddate"
    """The column with the time of the last change; None: rows have none, and changes are found by listing all rows again."""
    created: tuple[str, ...] = CREATED
    """The columns that may hold the time of creation, in the order of preference."""
    deleted: frozenset[str] = frozenset()
    """The names of the table's types in ``deletedrecord``, in lower case without spaces; empty: its deletes leave no record."""
    notes: int | None = None
    """The record type in ``systemnote``; None: unknown."""
    parent: str | None = None
    """The column that names the row of ``transaction`` that a row belongs to."""
    dates: frozenset[str] = frozenset()
    """The names of columns that hold a date."""
    known: frozenset[str] = frozenset()
    """The names of columns to try, beside those that a sample of rows or the metadata shows."""
    custom: bool = False
    """Whether it is the table of a custom record type, whose deletes are recorded under a number."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The record types of SuiteTalk that are transactions (SuiteTalk Schema Browser): ids are unique among them.
TRANSACTIONS: Final = _names(
    "transaction assemblybuild assemblyunbuild bintransfer binworksheet blanketpurchaseorder cashrefund cashsale charge check "
    "creditcardcharge creditcardrefund creditmemo customerdeposit customerpayment customerpaymentauthorization customerrefund "
    "deposit depositapplication estimate expensereport fulfillmentrequest inboundshipment intercompanyjournalentry "
    "intercompanytransferorder inventoryadjustment inventorycostrevaluation inventorycount inventorystatuschange "
    "inventorytransfer "
    "invoice itemfulfillment itemreceipt journalentry advintercompanyjournalentry statisticaljournalentry opportunity "
    "paycheckjournal purchasecontract purchaseorder purchaserequisition requestforquote returnauthorization revenuearrangement "
    "salesorder storepickupfulfillment transferorder vendorbill vendorcredit vendorpayment vendorprepayment "
    "vendorprepaymentapplication vendorreturnauthorization vendorrequestforquote workorder workorderclose workordercompletion "
    "workorderissue"
)
ITEMS: Final = _names(
    "item assemblyitem descriptionitem discountitem downloaditem expensecategory giftcertificateitem inventoryitem "
    "itemgroup kititem "
    "lotnumberedassemblyitem lotnumberedinventoryitem markupitem noninventorypurchaseitem noninventoryresaleitem "
    "noninventorysaleitem "
    "noninventoryitem otherchargepurchaseitem otherchargeresaleitem otherchargesaleitem paymentitem serializedassemblyitem "
    "serializedinventoryitem servicepurchaseitem serviceresaleitem servicesaleitem serviceitem subtotalitem"
)
_TRANSACTION_DATES: Final = _names(
    "trandate duedate closedate shipdate startdate enddate actualshipdate expectedclosedate saleseffectivedate"
)


def _entity(name: str, *types: str) -> Table:
    return Table(name, deleted=frozenset((name, *types)), notes=-9)


def _setup(name: str, *types: str, stamp: str | None = "lastmodifieddate") -> Table:
    return Table(name, stamp=stamp, deleted=frozenset((name, *types)))


TABLES: Final = {
    table.name: table
    for table in (
        Table(
            "transaction",
            created=("createddate",),
            deleted=TRANSACTIONS,
            notes=-30,
            dates=_TRANSACTION_DATES,
            known=_names(
                "tranid trandate type abbrevtype recordtype status entity memo currency exchangerate foreigntotal "
                "foreignamountunpaid posting postingperiod externalid createdby lastmodifiedby duedate closedate"
            ),
        ),
        Table(
            "transactionline",
            keys=("transaction", "id"),
            stamp="linelastmodifieddate",
            parent="transaction",
            created=("linecreateddate",),
            known=_names(
                "uniquekey linesequencenumber item memo quantity rate netamount foreignamount subsidiary department class "
                "location "
                "mainline taxline iscogs expenseaccount entity"
            ),
            dates=_names("closedate actualshipdate expectedshipdate expectedreceiptdate"),
        ),
        Table(
            "transactionaccountingline",
            keys=("transaction", "transactionline", "accountingbook"),
            created=(),
            parent="transaction",
            known=_names("account amount debit credit netamount posting exchangerate"),
        ),
        _entity("customer", "lead", "prospect", "leadorprospect"),
        _entity("vendor"),
        _entity("partner"),
        _entity("contact"),
        _entity("employee"),
        _entity("job", "project"),
        Table("item", deleted=ITEMS, notes=-10),
        _setup("account"),
        _setup("subsidiary"),
        _setup("department", stamp=None),
        _setup("location", stamp=None),
        _setup("classification", "class", stamp=None),
        _setup("currency", stamp=None),
        _setup("accountingperiod", stamp=None),
        _setup("term", stamp=None),
        _setup("pricelevel", stamp=None),
    )
}
"""The tables of which more is known than that they have ids."""


def table_of(name: str) -> Table:
    """Return the table of a captured object.

    Raises:
        SourceObjectError: the name cannot be that of a table.
    """
    found = TABLES.get(name.lower())
    if found is not None:
        return found
    checked_name(name)
    if _CUSTOM_RECORD.fullmatch(name):
        return Table(name.lower(), stamp="lastmodified", deleted=frozenset((name.lower(),)), custom=True)
    if _CUSTOM_LIST.fullmatch(name):
        return Table(name.lower(), stamp=None, deleted=frozenset((name.lower(),)))
    return Table(name.lower(), deleted=frozenset((name.lower(),)))


def type_key(name: str) -> str:
    """Return the name of a type in the form of :attr:`Table.deleted`."""
    return re.sub(r"[\s_-]+", "", name).lower() if not _CUSTOM_RECORD.fullmatch(name) else name.lower()
