"""Valid bytes and documents, damaged at random, and what became of each."""

import collections
import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

Counts = collections.Counter[str]

THOROUGH = settings(
    max_examples=1000,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
PIECES = [
    *(bytes([byte]) * size for byte in (0, 1, 0x7F, 0x80, 0xFF) for size in (1, 2, 4, 8)),
    *(number.to_bytes(8, order) for number in (2**31, 2**62, 2**63) for order in ("little", "big")),
    *(
        b"NaN",
        b"null",
        b"true",
        b"-0",
        b"1e999",
        b"-1",
        b"0.5",
        b"9" * 25,
        b'"',
        b"\\ud800",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
    ),
]
"""Values at the edges of formats: sizes that none has, numbers that are none, brackets that do not match."""
ODD: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        2**31,
        2**63,
        10**40,
        0.5,
        1e308,
        -0.0,
        "",
        "x",
        "\ud800",
        "\0",
        [],
        {},
        [[]],
        [None],
        {"": 0},
    ),
]


@st.composite
def damaged(draw: st.DrawFn, corpus: Sequence[bytes]) -> bytes:
    """One of these bodies, with a few stretches overwritten, cut out, doubled or replaced."""
    data = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        if draw(st.booleans()):
            piece = draw(st.sampled_from(PIECES))[: len(data) - start]
            data[start : start + len(piece)] = piece
            continue
        end = min(len(data), start + draw(st.integers(0, 40)))
        data[start:end] = draw(
            st.sampled_from(PIECES) | st.binary(max_size=6) | st.just(b"") | st.just(bytes(data[start:end]) * 2)
        )
    return bytes(data)


@st.composite
def edited(draw: st.DrawFn, documents: Sequence[Any]) -> Any:
    """One of these JSON documents, with a few of its values replaced, renamed or taken away."""
    document = json.loads(json.dumps(draw(st.sampled_from(documents))))
    for _ in range(draw(st.integers(1, 3))):
        node = document
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
            if not isinstance(node[key], dict | list) or not node[key] or draw(st.integers(0, 3)) == 0:
                if isinstance(node, dict) and draw(st.booleans()):
                    value = node.pop(key)
                    if draw(st.booleans()):
                        node[draw(st.sampled_from(["", "x", key + "x", *node]))] = value
                else:
                    node[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
                break
            node = node[key]
    return document


def report(counts: dict[str, Counts]) -> None:
    for kind, answers in counts.items():
        print(
            f"\n{kind}: {answers.total():,}: " + ", ".join(f"{n:,} {what}" for what, n in answers.most_common()), end=""
        )
