"""Codecs: between bytes on the wire and arrays in memory, one class per media type."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

Columns = Mapping[str, Any]
"""An answer: by field an array (or for JSON any list) whose entry i belongs to instance i."""


class Reader(Protocol):
    """Reads one media type."""

    media_type: ClassVar[str]

    def decode(self, body: bytes, field: str) -> object:
        """The values sent: an array, or nested lists; formats with named fields look for `field`.

        Raises:
            MalformedError: The bytes are not of this media type.
            InvalidError: They are, but do not hold `field`.
        """


class Writer(Protocol):
    """Writes one media type.

    Attributes:
        records: Whether rows of a table are given as records, with the names of their categories; else as numbers.
    """

    media_type: ClassVar[str]
    records: ClassVar[bool]

    def encode(self, columns: Columns) -> bytes:
        """The bytes of an answer."""
