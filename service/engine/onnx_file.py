"""Checks of an ONNX file before ONNX Runtime reads it: where its tensors lie, and which operators it has.

ONNX Runtime follows external data to any path in the file, and even to addresses in memory. It also has operators of
its own that read files. Both may stand in any subgraph or function, so this module walks all of the file, by protobuf's
wire format: the service does without the package `onnx`. A file that this module cannot understand is refused.
"""

from collections.abc import Iterator, Mapping

from service.bundle import WEIGHTS
from service.errors import BundleError

MAX_FIELDS = 5_000_000
"""Fields of one file: a graph of a hundred thousand nodes has a tenth of it."""

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
"""The operators that the ONNX standard defines; the first two are the same."""

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
"""Operators whose answers depend on the calls before; all noise comes from a graph's inputs."""

_RESERVED = ("ai.onnx", "com.microsoft", "com.ms")
"""Beginnings of the domains in which ONNX Runtime has operators, so that no function may have one of their names."""

MAX_NAME = 1000
"""Characters of a name that are compared; no longer one is allowed."""

_LEAF = ""
"""A field without messages that matter here."""

_FIELDS: dict[str, dict[int, str]] = {
    "model": {
        **dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 26), _LEAF),
        7: "graph",
        14: "metadata",
        20: "training",
        25: "function",
    },
    "graph": {**dict.fromkeys((2, 10, 11, 12, 13, 14, 16), _LEAF), 1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {**dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9, 10), _LEAF), 5: "attribute"},
    "attribute": {
        **dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 20, 21), _LEAF),
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "tensor": {**dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16), _LEAF), 13: "external data"},
    "sparse tensor": {1: "tensor", 2: "tensor", 3: _LEAF},
    "function": {**dict.fromkeys((1, 4, 5, 6, 8, 9, 10, 12, 13, 14), _LEAF), 7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph", 3: _LEAF, 4: _LEAF},
    "metadata": {1: _LEAF, 2: _LEAF},
    "external data": {1: _LEAF, 2: _LEAF},
}
"""The messages of onnx.proto that hold tensors or nodes, by field number."""

_NAMED = {"node", "function", "external data", "metadata"}
"""The messages with a text that is checked."""

_INPUT, _OPERATOR, _DOMAIN, _FUNCTION, _FUNCTION_DOMAIN, _KEY, _VALUE = 1, 4, 7, 1, 10, 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_graph(data: bytes, name: str, *, weights: bool) -> None:
    """Check that a graph reads nothing but its own bytes and `weights.bin`, and has standard operators only.

    Raises:
        BundleError: It is not as said, or not an ONNX file that can be understood.
    """
    try:
        _Walk(weights=weights).check(data)
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from error


class _Walk:
    def __init__(self, *, weights: bool) -> None:
        self._weights = weights
        self._left = MAX_FIELDS
        self._functions: set[tuple[str, str]] = set()
        self._called: set[tuple[str, str]] = set()

    def check(self, data: bytes) -> None:
        waiting = [("model", memoryview(data))]
        while waiting:
            kind, message = waiting.pop()
            waiting += self._visit(kind, message)
        for domain, operator in sorted(self._called - self._functions):
            if operator in _RANDOM:
                raise BundleError(f"operator {operator} draws at random; noise is an input of a graph")
            if domain not in DOMAINS:
                raise BundleError(
                    f"operator {_shown(operator)} of the domain {_shown(domain)}; "
                    "bundles have operators of the ONNX standard only"
                )

    def _visit(self, kind: str, message: memoryview) -> Iterator[tuple[str, memoryview]]:
        """The messages within a message; what it says itself is checked on the way."""
        known = _FIELDS[kind]
        texts: dict[int, str] = {}
        inputs = 0
        for number, value in _read_fields(message):
            self._left -= 1
            if self._left < 0:
                raise BundleError(f"more than {MAX_FIELDS:,} fields")
            if number not in known:
                raise BundleError(f"field {number} of a {kind} is none of the ONNX format's")
            inputs += kind == "node" and number == _INPUT
            if isinstance(value, memoryview):
                if known[number]:
                    yield known[number], value
                elif kind in _NAMED:
                    texts[number] = bytes(value[:MAX_NAME]).decode(errors="replace")
        self._check_names(kind, texts)
        if inputs > 2 and texts.get(_OPERATOR) == "Dropout":
            raise BundleError("operator Dropout has an input for training, in which it draws at random")

    def _check_names(self, kind: str, texts: Mapping[int, str]) -> None:
        if kind == "node":
            self._called.add((texts.get(_DOMAIN, ""), texts.get(_OPERATOR, "")))
        elif kind == "function":
            self._define(texts.get(_FUNCTION_DOMAIN, ""), texts.get(_FUNCTION, ""))
        elif kind == "external data" and texts.get(_KEY) == "location":
            self._check_location(texts.get(_VALUE, ""))
        elif kind == "metadata" and texts.get(_KEY) == "ort_config":
            raise BundleError("metadata of the file configures ONNX Runtime")

    def _check_location(self, location: str) -> None:
        if location != WEIGHTS:
            raise BundleError(f"a tensor lies in {_shown(location)}; external data lie in {WEIGHTS} only")
        if not self._weights:
            raise BundleError(f"a tensor lies in {WEIGHTS}, and the bundle has none")

    def _define(self, domain: str, name: str) -> None:
        if not domain or domain.startswith(_RESERVED):
            raise BundleError(f"function {_shown(name)} is defined in the reserved domain {_shown(domain)}")
        self._functions.add((domain, name))


def _read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; of fixed sizes, 0 in place of the value."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _read_varint(message, position)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview = 0
        if wire == _VARINT:
            value, position = _read_varint(message, position)
        elif wire == _BYTES:
            size, position = _read_varint(message, position)
            value = message[position : position + size]
            position += size
        elif wire in {_FIXED32, _FIXED64}:
            position += 4 if wire == _FIXED32 else 8
        else:
            raise BundleError("not an ONNX file")
        if position > end:
            raise BundleError("not an ONNX file: it ends within a field")
        yield number, value


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the position after it."""
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise BundleError("not an ONNX file: it ends within a number")


def _shown(text: str) -> str:
    """A name from a file, for a message."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
