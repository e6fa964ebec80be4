"""Doubts about columns that are read all the same: what the user should look at, and how to correct it."""

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import NumericColumn
from service.readers.numbers import INVISIBLE, parse_numbers

NAMES_OF_IDS = re.compile(
    r"(^|[_.\s-])(id|ids|uuid|guid|key|index|idx|nr|no|row|rowid|unnamed: 0)$|[a-z]I[dD]$", re.IGNORECASE
)
_NAMES_OF_CODES = re.compile(
    r"(^|[_.\s-])(zip|postcode|postal|plz|phone|tel|mobile|fax|iban|ssn|account|card|sku|ean|isbn|code)"
    r"([_.\s-]?(code|number|no|nr))?$|zipcode$",
    re.IGNORECASE,
)
TOTALS = re.compile(r"((grand|sub|zwischen|gesamt)[ -]?)?(totals?|sums?|summe|totale)\b|gesamt\b", re.IGNORECASE)
ENOUGH = 10
"""Fewer different values show no way of writing."""

_MOSTLY = 0.9
_SHOWN = 60
"""Characters of a text."""

_NUMBER = re.compile(
    r"([^\w\s]{0,3}|[^\W\d_]{1,3}[^\w\s/#:-])\s*[+-]?\d+([.,'\u2019\s]\d{3})*([.,]\d+)?\s*([^\W\d_]{0,8}\.?|[^\w\s])\)?"
)
_FRACTION = re.compile(r"\d+ ?/ ?\d+|[\d.,]+ ?± ?[\d.,]+")
_DURATION = re.compile(
    r"-?P(?=[\dT])(\d+[YMWD])*(T(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?"
    r"|(?=.*\d\D+\d)(\d+ ?(d|days?|h|hrs?|hours?) ?)?(\d+ ?(m|min|minutes?)? ?)?(\d+ ?(s|secs?|seconds?))?",
    re.IGNORECASE,
)
_VALUE = r"[+-]?\d+(\.\d+)?"
_LIST = re.compile(rf"[\[({{].*[\])}}]|{_VALUE}([,;]\s*{_VALUE})+", re.DOTALL)
_MONTH = re.compile(r"\d{0,2}\W*(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\W+\d{1,2}", re.IGNORECASE)
_NAME_OF_MONTH = (
    r"(jan|ene|gen|f[eé]v|feb|mar|mär|mrt|apr|avr|abr|ma[iyjg]|ju[ni]|juin|giu|jul|juil|lug|aug|ago|aoû|sep|set"
    r"|o[ckt]t|out|nov|de[czs]|déc|dic)[^\W\d]*"
)
_MONTH_OF_YEAR = re.compile(
    rf"{_NAME_OF_MONTH}\W+(19|20)\d\d|(19|20)\d\d\W+{_NAME_OF_MONTH}",
    re.IGNORECASE,
)
_ANGLE = re.compile(r"[NSEWO]? ?[+-]?\d{1,3} ?[°º].*", re.IGNORECASE)
_YEAR = re.compile(r"(?<!\d)(19|20)\d\d(?!\d)")
_CLOCK = re.compile(r"\d:[0-5]\d")
_NAMES_OF_TIMES = re.compile(
    r"(^|[_.\s-])(ts|time(stamp)?|date(time)?|epoch|unix|datum|zeit|created|updated|modified)([_.\s-]?(at|on))?$",
    re.IGNORECASE,
)
_SECONDS = (946_684_800, 4_102_444_800)
"""From 2000 to 2100."""

_DAYS = (36_526, 73_051)
"""The same as Excel counts days, from 1900."""

SENTINELS = r"^-?(9+[6-9]|77+|88+)(\.[09]*)?$|^-[1-9](\.0*)?$"
"""Codes of surveys: 97 for a refusal, 98 or 88 for "don't know", 99 or -9 for no answer."""

ENDS = 3
"""Most different ones in a column."""

_SMALL = 10
"""Only larger sentinels are known by their distance."""

_SWITCH = frozenset({"true", "false", "yes", "no", "y", "n", "t", "f", "1", "0", "on", "off"})

AsMissing = Callable[..., str]
"""Says how to make these texts missing cells."""

_KINDS = 3
"""Texts of which `total` may be one beside `partial`."""

_LONG_ID = 6
"""Digits."""


def doubt_number(name: str, cells: pa.Array) -> str | None:
    """Whether numbers, (N,), may be no amounts, by their name or their digits; None: there is no doubt."""
    numbers = pc.unique(cells.drop_null()).to_numpy()
    if len(numbers) >= ENOUGH and (unit := _unit_of_time(name, numbers)):
        return f"looks like {unit}, and is used as a number; written as dates it can be --dataset.cyclic"
    if len(numbers) < 3 or numbers.dtype.kind == "f":
        return None
    if len(numbers) >= ENOUGH and _are_dates(numbers):
        return (
            f"looks like dates, as {numbers[0]}, and is used as a number: write it as 2026-03-24 or 2026-03, or drop it"
        )
    option = f"--dataset.columns {shlex.quote(f'{name}=categorical')} or --dataset.drop {shlex.quote(name)}"
    if NAMES_OF_IDS.search(name) or _NAMES_OF_CODES.search(name):
        return f"is named like a code, and used as a number; if its numbers are no amounts: {option}"
    digits = len(str(numbers[0]).lstrip("-"))
    if len(numbers) == len(cells) >= 3 * ENOUGH and digits >= _LONG_ID and all(len(str(n)) == digits for n in numbers):
        return f"has another number of {digits} digits in every row; if these identify rows: --dataset.drop {name}"
    return None


def _unit_of_time(name: str, numbers: npt.NDArray[np.int64 | np.float64]) -> str | None:
    """The unit in which numbers of this size may count from 1970 or 1900; of small ones only if the name says so."""
    units = [("milliseconds since 1970", _SECONDS, 1000)]
    if _NAMES_OF_TIMES.search(name):
        units += [("seconds since 1970", _SECONDS, 1), ("Excel's days since 1900", _DAYS, 1)]
    low, high = numbers.min(), numbers.max()
    return next((unit for unit, (first, last), size in units if first * size <= low and high < last * size), None)


def _are_dates(numbers: npt.NDArray[np.int64]) -> bool:
    """Whether all are dates without separators, with or without the time of day."""
    if (numbers >= 10**13).all():
        clock = numbers % 10**6
        if not ((clock < 240000) & (clock % 10000 < 6000) & (clock % 100 < 60)).all():
            return False
        numbers = numbers // 10**6
    if (numbers < 10**6).all():
        numbers = 100 * numbers + 1  # Months of years.
    year, month, day = numbers // 10000, numbers // 100 % 100, numbers % 100
    return bool(((year >= 1900) & (year < 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


def doubt_sentinel(words: Iterable[str], cells: pa.Array, as_missing: AsMissing) -> str | None:
    """Point out repeated numbers below 0 alone, such as -9 and -8, or such as -999, far from the other numbers.

    Args:
        words: The numbers that `SENTINELS` takes, or more.
        cells: All numbers, (N,).
        as_missing: Says how to make such texts missing cells.
    """
    values = np.array(cells.drop_null().to_numpy(), np.float64)
    values = values[np.isfinite(values)]
    marks = {word: float(word) for word in sorted(words, key=float)}
    usual = values[~np.isin(values, list(marks.values()))]
    low, high = usual.min(initial=np.inf), usual.max(initial=-np.inf)
    below = [word for word, mark in marks.items() if mark < low]
    above = [word for word, mark in marks.items() if mark > high]
    for group in (below, above, *([word] for word in marks)):
        if group and (place := _stand_apart(np.array([marks[word] for word in group]), values)):
            several = len(group) > 1
            where = place.format(s="s" * several)
            it_is = "they are missing cells" if several else "it is a missing cell"
            return f"has {', '.join(group)}, {where}; if {it_is}{as_missing(*group)}"
    return None


def _stand_apart(marks: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> str | None:
    """Say how a few numbers stand apart from all others, if each of them is repeated."""
    alike = np.isin(values, marks)
    others = values[~alike]
    few = len(marks) <= ENDS and all((values == mark).sum() > 1 for mark in marks)
    if not few or len(np.unique(others)) <= 2:  # Beside 0 and 1, -1 is a direction.
        return None
    low, high = others.min(), others.max()
    gap = max(marks.min() - high, low - marks.max())
    if (np.abs(marks) > _SMALL).all() and gap > high - low:
        return "far from all other numbers"
    # Temperatures of -2 and -1 are as near to 0 as to each other.
    if marks.max() < 0 <= low and (len(marks) == 1 or gap > np.ptp(marks)):
        return "the only number{s} below 0"
    return None


def doubt_far_date(
    dates: pa.Array,
    moments: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    as_missing: AsMissing,
) -> str | None:
    """Point out a repeated date, such as 9999-12-31, farther from the other ones than three times their range.

    Args:
        dates: Distinct, (D,).
        moments: The same in seconds, (D,).
        counts: How many cells have each, (D,).
        as_missing: Says how to make such a date a missing cell.
    """
    for place in {int(moments.argmin()), int(moments.argmax())} if len(moments) else ():
        others = np.delete(moments, place)
        low, high = others.min(initial=np.inf), others.max(initial=-np.inf)
        far = max(moments[place] - high, low - moments[place]) > 3 * (high - low)
        if counts[place] > 1 and len(others) >= ENOUGH and far:
            try:
                mark = str(dates[place])
            except OverflowError:  # Python's last year is 9999.
                mark = f"{moments[place]:g} seconds"
            return f"has {mark}, far from all other dates; if it is a missing cell{as_missing(mark)}"
    return None


def doubt_decimal(texts: pa.Array, column: NumericColumn) -> str:
    """Say how numbers are read whose one sign may be decimal or divide thousands, as in 51,419."""
    text = max(texts.slice(0, ENOUGH).to_pylist(), key=len)
    number = parse_numbers(pa.array([text], pa.large_string()), column)[0][0].as_py()
    other = "," if column.decimal == "." else "."
    return f"has {text!r} for {number:g}; if that is wrong: --dataset.decimal {other}"


def doubt_clock(texts: pa.Array) -> str | None:
    """Whether distinct texts that are read as numbers may be times of day: no number has 60 hundredths or more."""
    if len(texts) < 3 * ENOUGH or not pc.all(pc.match_substring_regex(texts, r"^([01]?\d|2[0-3])\.[0-5]\d$")).as_py():
        return None
    text = texts[0].as_py()
    return f"looks like times of day, as {text}, and is used as a number; write it as {text.replace('.', ':')}"


def doubt_percent(texts: pa.Array, column: NumericColumn) -> str | None:
    """Say how numbers without a sign are read beside percentages; distinct texts."""
    marked = pc.match_substring_regex(texts, "[%‰]")
    numbers, _ = parse_numbers(texts, column)
    plain = pc.and_not(pc.not_equal(numbers, 0.0), marked)
    if not (pc.any(marked).as_py() and pc.any(plain).as_py()):
        return None
    places = [pc.index(flags, value=True).as_py() for flags in (marked, plain)]
    shown = " and ".join(f"{texts[place].as_py()!r} for {numbers[place].as_py():g}" for place in places)
    return f"has {shown}; if that is wrong, write all cells in one way"


def doubt_texts(words: list[str], *, left_out: bool) -> str | None:
    """Whether texts, all different, that are categories or left out, may be something else; None: there is no doubt."""
    use = "is left out" if left_out else "is used as categories"
    if len(words) >= ENOUGH:
        for noun, looks, remedy in _LOOKS:
            if sum(looks(word) is not None for word in words) >= _MOSTLY * len(words):
                shapes = {re.sub(r"\d+", "0", word): word for word in reversed(words)}
                examples = list(shapes.values())[:-3:-1]
                shown = " or ".join(
                    repr(word if len(word) <= _SHOWN else f"{word[: _SHOWN - 1]}…") for word in examples
                )
                return f"{use}, though it looks like {noun}, as {shown}: write {remedy}"
    if not left_out:
        folded = Counter(map(_folded, words))
        if len(folded) > 2 and folded.keys() <= _SWITCH:
            return f"has {', '.join(map(repr, words[:4]))} for yes and no: they count as different"
        if twins := [word for word in words if folded[_folded(word)] > 1]:
            pair = [word for word in twins if _folded(word) == _folded(twins[0])][:2]
            if len({word.casefold() for word in pair}) == 1:
                return (
                    f"has texts that differ by case alone, as {' and '.join(map(repr, pair))}: they count as different"
                )
            return f"has texts that look alike, as {' and '.join(map(ascii, pair))}: they count as different"
        if len(words) > _KINDS and (total := next(filter(TOTALS.match, words), None)):
            return f"has {total!r}: remove its rows, if they are lines of totals"
    return None


def _folded(word: str) -> str:
    """The text as a reader sees it, in one case: without the way in which accents and blanks are stored."""
    return " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", word)).casefold().split())


def _looks_like_date(word: str) -> re.Match[str] | None:
    if found := _CLOCK.search(word) or _MONTH.fullmatch(word) or _MONTH_OF_YEAR.fullmatch(word):
        return found
    year = _YEAR.search(word)
    return year and re.search(r"\d", word.replace(year[0], "", 1))


_LOOKS: tuple[tuple[str, Callable[[str], re.Match[str] | None], str], ...] = (
    ("lists", _LIST.fullmatch, "a column for each of their values"),
    ("dates", _looks_like_date, "each as 2026-03-24, or as 2026-03-24 13:05:00"),
    ("durations", _DURATION.fullmatch, "each as 1:05:00, or in one unit"),
    ("numbers", lambda word: _NUMBER.fullmatch(word) or _FRACTION.fullmatch(word), "each as 1234.5, in one unit"),
    ("angles", _ANGLE.fullmatch, "each in degrees, as 52.517"),
)
"""What texts look like, how that is found out, and how to write them instead."""
