"""Decisions about columns of texts: what they spell, or which categories they are."""

import json
import re
import shlex
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import CategoricalColumn, NumericColumn
from service.readers.columns import is_missing, to_bool, to_numpy, trimmed
from service.readers.numbers import find_decimal, find_format, parse_numbers, with_usual_digits
from service.readers.times import find_order, parse_times
from training.schema.decisions import (
    Decision,
    Declared,
    Options,
    Problem,
    categorical,
    left_out,
    refused,
    unless_constant,
)
from training.schema.doubts import (
    SENTINELS,
    doubt_clock,
    doubt_decimal,
    doubt_far_date,
    doubt_percent,
    doubt_sentinel,
    doubt_texts,
)
from training.schema.numbers import ENOUGH_ROWS, infer_numbers, with_label_note

CAUTIOUS = frozenset({"-", "--", ".", "..", "none", "nil", "missing"})
"""Markers of missing cells that are categories among texts: a plan may be `none`."""

OTHER = "other"
_TIMES = {"clock": "times of day", "elapsed": "durations"}
_ZONE = r"(?i)(z|utc|gmt|[+-]\d\d(:?\d\d)?)$"
_CODE = r"^[+-]?0\d+$"
_SIGNED_CODE = r"^[^\d.,]{1,4}0\d+$"
_LONG = r"^[+-]?\d{16,}$"
_MARKERS = 3
"""Most different texts among numbers that may stand for missing ones."""

_SAMPLED = 1000
"""Distinct texts that show whether any may be dates."""


def infer_texts(name: str, cells: pa.ChunkedArray, options: Options, declared: Declared | None) -> Decision:
    """Decide about a column of texts, (N,)."""
    texts = trimmed(cells.combine_chunks())
    counted = pc.value_counts(texts.drop_null())
    distinct, counts = counted.field("values"), counted.field("counts").to_numpy()
    marker = to_bool(is_missing(distinct, options.missing))
    if marker.all():
        return left_out(name, "every cell is missing")
    present = _Texts(name, texts, distinct.filter(pa.array(~marker)), counts[~marker], options, declared)
    if declared != "categorical" and (decision := present.with_usual_digits().as_spelled()) is not None:
        return decision
    # Among texts, some markers are categories.
    marker &= ~np.array([text.lower() in CAUTIOUS for text in distinct.to_pylist()], bool)
    present = replace(present, distinct=distinct.filter(pa.array(~marker)), counts=counts[~marker])
    decision = present.as_categories()
    marked = [word for word in distinct.filter(pa.array(marker)).to_pylist() if word]
    if decision.column and marked:
        decision = replace(decision, reason=f"{decision.reason}; missing where {', '.join(map(repr, sorted(marked)))}")
    return decision


@dataclass(frozen=True, eq=False)
class _Texts:
    """A column.

    Attributes:
        name: Of the column.
        texts: Its cells, (N,).
        distinct: Its different texts that are not missing, (D,).
        counts: How many cells have each, (D,).
        options: What the user said.
        declared: The type that the user said.
    """

    name: str
    texts: pa.Array
    distinct: pa.Array
    counts: npt.NDArray[np.int64]
    options: Options
    declared: Declared | None

    def with_usual_digits(self) -> "_Texts":
        """The column as numbers are read from it."""
        return replace(self, texts=with_usual_digits(self.texts), distinct=with_usual_digits(self.distinct))

    def as_spelled(self) -> Decision | None:
        """Decide about texts that spell booleans, numbers or dates; None where they spell nothing."""
        if self.declared is None and len(self.distinct) <= 4:
            words = {word.lower() for word in self.distinct.to_pylist()}
            if words <= {"true", "false"}:
                decision = categorical(self.name, sorted(word == "true" for word in words), "booleans")
                decision = with_label_note(decision, self.distinct.to_pylist(), self.counts)
                return unless_constant(decision, len(words), self.distinct, self.declared, self._missing)
        column, readable = find_format(self.name, self.distinct, self.counts, self.options.formats)
        good, ambiguous = to_bool(readable), False
        if not good.all():
            times, of_times, ambiguous = self._find_times()
            if times is not None and self.counts[of_times].sum() > self.counts[good].sum():
                column, good = times, of_times
        total, wrong = int(self.counts.sum()), int(self.counts[~good].sum())
        if wrong:
            few = wrong <= max(1, total // 10)
            # A column of many different numbers and of a word or two has a marker of its own.
            marked = int((~good).sum()) <= _MARKERS and int(good.sum()) >= ENOUGH_ROWS
            nearly = (few or marked) and wrong < total - wrong
            return self._unreadable(~good, column) if nearly or self.declared == "numeric" else None
        return self._as_times(column, ambiguous=ambiguous) if column.time else self._as_numbers(column)

    def as_categories(self) -> Decision:
        """Decide about texts that are no numbers, or declared categorical."""
        words, total, most = self.distinct.to_pylist(), len(self.texts), self.options.max_categories
        if self.declared is None and len(words) == int(self.counts.sum()) and len(words) >= ENOUGH_ROWS:
            return self._doubted(left_out(self.name, "identifies rows: every text is another"), words)
        if self.declared is None and len(words) > most:
            if 2 * len(words) > total:
                reason = f"mostly different texts ({len(words):,} of {total:,})"
                return self._doubted(left_out(self.name, reason), words)
            return self._doubted(self._grouped(words, most), words)
        if self.declared == "categorical" and not _any_match(self.distinct, f"{_CODE}|{_LONG}"):
            numbers, readable = parse_numbers(self.distinct, NumericColumn(name=self.name))
            if to_bool(readable).all():
                values = pc.unique(numbers).to_pylist()
                return categorical(self.name, sorted(int(v) if v.is_integer() else v for v in values), "declared")
        reason = "digits with leading zeros" if _any_match(self.distinct, _CODE) else "texts"
        decision = categorical(self.name, sorted(words), "declared" if self.declared else reason)
        if self.declared is None:
            decision = with_label_note(self._doubted(decision, words), words, self.counts)
        return unless_constant(decision, len(words), self.distinct, self.declared, self._missing)

    @property
    def _missing(self) -> int:
        return len(self.texts) - int(self.counts.sum())

    def _doubted(self, decision: Decision, words: list[str]) -> Decision:
        """The decision, with what the user should look at; codes of digits are beyond doubt."""
        if _any_match(self.distinct, f"{_CODE}|{_LONG}"):
            return decision
        note = doubt_texts(words, left_out=decision.column is None)
        return replace(decision, note=note or (self._doubt_numbers() if decision.column else None))

    def _doubt_numbers(self) -> str | None:
        """Whether a text or two among more numbers may stand for missing ones, as `no answer` beside 1 to 5."""
        number = to_bool(parse_numbers(self.distinct, NumericColumn(name=self.name))[1])
        others = sorted(self.distinct.filter(pa.array(~number)).to_pylist())
        if not 0 < len(others) <= min(_MARKERS, number.sum() - 1) or number.sum() < _MARKERS:
            return None
        shown = ", ".join(map(repr, others))
        are = "they are missing cells" if len(others) > 1 else "it is a missing cell"
        return f"is used as categories, though all but {shown} are numbers; if {are}{_as_missing(*others)}"

    def _find_times(self) -> tuple[NumericColumn | None, npt.NDArray[np.bool_], bool]:
        """The rule of dates that reads the most texts, which those are, and whether it is ambiguous."""
        time, readable, ambiguous = find_order(self.distinct.to_pylist(), self.options.day_first)
        column = NumericColumn(name=self.name, time=time) if time else None
        return column, np.array(readable, bool), ambiguous

    def _as_times(self, column: NumericColumn, *, ambiguous: bool) -> Decision:
        if ambiguous:
            detail = f"day and month could be exchanged in every date, as in {self.distinct[0]}"
            return refused(self.name, Problem(detail, "day_first", True))
        order = column.time.order if column.time else "ymd"
        reason = _TIMES.get(order) or f"dates, as {self.distinct[0]}"
        note = None
        if column.time and column.time.zone and not pc.all(pc.match_substring_regex(self.distinct, _ZONE)).as_py():
            note = "names a time zone in some cells only: the others count as UTC"
        elif column.time:
            moments = to_numpy(parse_times(self.distinct, column.time)[0])
            note = doubt_far_date(self.distinct, moments, self.counts, _as_missing)
        decision = Decision(self.name, column, reason, note=note)
        return unless_constant(decision, len(self.distinct), self.distinct, self.declared, self._missing)

    def _as_numbers(self, column: NumericColumn) -> Decision | None:
        if len(column.affixes) > 1 and self.declared is None:
            other = next(sign for sign in column.affixes if sign not in self.distinct[0].as_py())
            row = self._first(pc.match_substring(self.distinct, other))
            detail = f"amounts in {' and '.join(column.affixes)}, which are no one unit"
            return refused(self.name, Problem(detail, "columns", {self.name: "numeric"}, row))
        if self.declared is None:
            if _any_match(self.distinct, _CODE) or (column.affixes and _any_match(self.distinct, _SIGNED_CODE)):
                return None
            long = self.distinct.filter(pc.match_substring_regex(self.distinct, _LONG)).to_pylist()
            if any(int(word) != float(word) for word in long):
                return None  # As floats, distinct ones could become one.
        column = self._with_thousands(column)
        missing = is_missing(self.texts, self.options.missing)
        numbers, _ = parse_numbers(pc.if_else(missing, None, self.texts), column)
        plain = not (column.affixes or column.thousands or column.decimal == ",")
        if plain and not _any_match(self.distinct, r"[^\d+-]|\d{19}"):
            numbers = numbers.cast(pa.int64())
        if not plain and self.declared is None and len(pc.unique(numbers.drop_null())) == 2:
            return None  # Two values are two categories, by their texts.
        reason = "numbers" if plain else f"numbers, as {self._sample(column)}"
        marked = pc.unique(self.texts.filter(pc.and_(missing, pc.not_equal(self.texts, "")))).to_pylist()
        if marked:
            reason += f"; missing where {', '.join(map(repr, sorted(marked)))}"
        decision = infer_numbers(self.name, numbers, self.declared, column, reason)
        if self.options.decimal is None and isinstance(decision.column, NumericColumn):
            sign = find_decimal(self.distinct, column)
            note = doubt_decimal(self.distinct, column) if sign == "either" else decision.note
            decision = replace(decision, decimal=sign, note=note)
        if decision.column is None or decision.note:
            return decision
        words = self.distinct.filter(pc.match_substring_regex(self.distinct, SENTINELS)).to_pylist()
        sentinel = doubt_sentinel(words, numbers, _as_missing)
        note = doubt_percent(self.distinct, column) or doubt_clock(self.distinct) or sentinel
        return replace(decision, note=note)

    def _grouped(self, words: list[str], most: int) -> Decision:
        order = sorted(range(len(words)), key=lambda i: (-self.counts[i], words[i]))[: most - 1]
        kept = sorted(words[i] for i in order)
        other = OTHER if OTHER not in kept else f"{OTHER} (grouped)"
        share = 1 - self.counts[order].sum() / self.counts.sum()
        column = CategoricalColumn(name=self.name, categories=(*kept, other), other=other)
        return Decision(
            self.name, column, f"{len(words):,} texts: the {len(kept)} most frequent, and {share:.0%} as {other!r}"
        )

    def _unreadable(self, wrong: npt.NDArray[np.bool_], column: NumericColumn) -> Decision:
        words = self.distinct.filter(pa.array(wrong)).to_pylist()
        row = self._first(pa.array(wrong))
        noun = "a date" if column.time else "a number"
        if column.affixes and (foreign := [word for word in words if re.search(r"\d", word)]):
            # As missing cells they would be lost, and they may be the largest.
            unit = " and ".join(column.affixes)
            detail = f"{foreign[0]!r} is not in {unit}, as most of the column is; write all cells in one unit"
            return refused(self.name, Problem(detail, "drop", (self.name,), row))
        first, more = self.texts[row].as_py(), len(words) - 1
        others = "" if not more else ", nor is another text" if more == 1 else f", nor are {more} other texts"
        detail = f"{first!r} is not {noun}{others}, as most of the column is"
        whole = not (column.time or _any_match(self.distinct.filter(pa.array(~wrong)), "[.,]"))
        codes = whole and re.search(r"\d", first) and int(self.counts[wrong].sum()) > 1  # As 3+ beside 0, 1 and 2.
        if codes and len(self.distinct) <= self.options.max_categories:
            return refused(self.name, Problem(detail, "columns", {self.name: "categorical"}, row))
        if len(words) > 5:
            return refused(self.name, Problem(detail, "drop", (self.name,), row))
        words = [first, *sorted(word for word in words if word != first)]
        cells = int(pc.sum(pc.equal(self.texts, first)).as_py())
        return refused(self.name, Problem(detail, "missing", words, row, cells))

    def _with_thousands(self, column: NumericColumn) -> NumericColumn:
        """Let larger numbers than the file's be written with a separator, where its decimal sign is known."""
        if column.thousands or not (column.affixes or column.decimal == ","):
            return column
        if not pc.any(pc.match_substring(self.distinct, column.decimal)).as_py():
            return column
        return column.model_copy(update={"thousands": "," if column.decimal == "." else "."})

    def _sample(self, column: NumericColumn) -> str:
        """The text that shows most of how a column's numbers are written."""
        signs = [*column.affixes, *([column.thousands] if column.thousands else []), column.decimal]
        words: list[str] = self.distinct.slice(0, _SAMPLED).to_pylist()
        return max(words, key=lambda word: sum(sign in word for sign in signs))

    def _first(self, flags: pa.Array) -> int:
        """The first row whose text is one of those flagged among the distinct ones."""
        found = pc.is_in(self.texts, value_set=self.distinct.filter(flags))
        return int(pc.index(found, value=True).as_py())


def _as_missing(*marks: str) -> str:
    return f": --dataset.missing {shlex.quote(json.dumps(['usual', *marks], ensure_ascii=False))}"


def _any_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())
