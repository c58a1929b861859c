"""Embedded schema stores."""
