"""The conformance kit that every dimesh backend, built in or third party, runs."""
