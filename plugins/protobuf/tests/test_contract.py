"""Protobuf keeps the contract of schema languages."""

from __future__ import annotations

import pytest
from protobuf_examples import EXAMPLES

from dimesh_contracts.schema import Examples, SchemaLanguageContract
from dimesh_protobuf import ProtobufLanguage, language


class TestProtobuf(SchemaLanguageContract):
    long = ("test_nothing_is_opened", "test_hostile_schemas_are_quick")

    @pytest.fixture
    def language(self) -> ProtobufLanguage:
        return language

    @pytest.fixture
    def examples(self) -> Examples:
        return EXAMPLES
