"""The bytes of files, as readers take them."""

import pytest

from service.readers.files import TextBytes, open_text


@pytest.mark.parametrize("size", [-1, 1, 2, 3, 4, 5])
def test_the_mark_by_which_dos_ends_a_text_is_no_part_of_it(size: int) -> None:
    with open_text(TextBytes(b"a\x1abc\x1a"), "utf-8") as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == b"a\x1abc"
