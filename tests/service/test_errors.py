"""Messages help, and take little time to make."""

from service.errors import COMPARED, suggest


def test_the_name_that_was_meant_is_found() -> None:
    names = ["age", "Colour", "feature_00001"]
    assert suggest("colur", names) == "; did you mean 'Colour'?"
    assert suggest("COLOUR", names) == "; did you mean 'Colour'?"
    assert suggest("weight", names) == ""


def test_not_all_of_very_many_names_are_compared() -> None:
    """With 16,000 of them that took half a second of the event loop."""
    many = [f"feature_{i:05d}" for i in range(COMPARED // 13 + 1)]
    assert suggest("feature_x0000", many[:-1])
    assert suggest("feature_x0000", many) == ""
    assert suggest("Feature_00001", many) == "; did you mean 'feature_00001'?"
