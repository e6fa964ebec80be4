"""Small schemas of pictures and of a table."""

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput

GREY = ImageInput(shape=(2, 3), dtype="uint8", low=0, high=16)
COLOUR = ImageInput(shape=(2, 3, 3), dtype="uint8", low=0, high=255)
SMOOTH = ImageInput(shape=(2, 3), dtype="float32", low=-1, high=1)
TABLE = TabularInput(
    columns=(
        NumericColumn(name="age"),
        CategoricalColumn(name="kind", categories=("a", 1, True, 2.5, "1", 0)),
        NumericColumn(name="a.b[0]"),
    )
)
