"""Codecs: between bytes on the wire and arrays in memory, one class per media type."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

Columns = Mapping[str, Any]
"""An answer: by field an array (or for JSON any list) whose entry i belongs to instance i."""


class Reader(Protocol):
    """Reads one media type.

    Attributes:
        quick_bytes: Bytes of a body that is read within some ten milliseconds, however it is made.
    """

    media_type: ClassVar[str]
    quick_bytes: ClassVar[int]

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
        quick_numbers: Numbers of an answer that is written within some ten milliseconds.
    """

    media_type: ClassVar[str]
    records: ClassVar[bool]
    quick_numbers: ClassVar[int]

    def encode(self, columns: Columns) -> bytes:
        """The bytes of an answer."""
