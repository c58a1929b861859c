"""Servers that speak the protocol of Cloud Pub/Sub."""
