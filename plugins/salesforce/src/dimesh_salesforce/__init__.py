"""Change data capture from Salesforce."""

from __future__ import annotations

from dimesh_salesforce.connector import SalesforceCDCConnector
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.source import SalesforceSource

__all__ = ["SalesforceCDCConnector", "SalesforceOptions", "SalesforceSource"]
