"""The limits of schemas and values."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 1_048_576
"""The number of characters of a schema."""
MAX_PARTS: Final = 20_000
"""The number of messages, fields, values, ranges, options and methods of a file."""
MAX_OPTIONS: Final = 5_000
"""The number of values of options that authors define, in a file."""
MAX_NESTING: Final = 32
"""The nesting of messages in messages, and of braces in options: protoc has the same limit."""
MAX_IMPORTS: Final = 500
"""The number of files that a file imports, directly or through others."""
MAX_NAME: Final = 1_000
MAX_NUMBER: Final = 2**29 - 1
"""The largest field number."""
MAX_COST: Final = 100_000
"""The largest number of parts of the smallest value. Messages that require each other twice exceed it."""
MAX_DEPTH: Final = 100
"""The nesting of messages in a payload that the runtime of Protobuf reads; an entry of a map counts as a message."""
MOST_PROBLEMS: Final = 50
