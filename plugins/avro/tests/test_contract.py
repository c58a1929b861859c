"""Avro keeps the contract of schema languages."""

from __future__ import annotations

import pytest
from avro_examples import EXAMPLES

from dimesh_avro import AvroLanguage, language
from dimesh_contracts.schema import Examples, SchemaLanguageContract


class TestAvro(SchemaLanguageContract):
    @pytest.fixture
    def language(self) -> AvroLanguage:
        return language

    @pytest.fixture
    def examples(self) -> Examples:
        return EXAMPLES
