"""Small schemas of pictures and of a table, and values as instances of them."""

from service.bundle import Array, CategoricalColumn, ImageInput, NumericColumn, TabularInput
from service.codecs.instances import parse_rows
from service.codecs.rows import Reading

STRICT = Reading()

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


def parse_instances(values: object, data: ImageInput | TabularInput, reading: Reading = STRICT) -> Array:
    """The graphs' `x` for what a client sent."""
    return parse_rows(values, data, reading).x
