"""Dates, times and durations as numbers: seconds since 1970, in UTC where a text names a zone, else as written.

A time of day without a date counts from midnight, and a duration from nothing. A month without a day is its first day.
The other years of a column decide what a year of two digits means: see `find_first_year`.
"""

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import Derived, TabularInput, TimeFormat

Order = Literal["ymd", "dmy", "mdy", "clock", "elapsed"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?"
)
_ZONE = r"\s*(?P<zone>Z|(?:UTC|GMT)(?:[+-]\d{2}:?\d{2})?|[+-]\d{2}(?::?\d{2})?)?(?:\s*\([^)]*\))?"
_NAME = rf"(?:{'|'.join(_MONTHS)})[a-z]*\.?"
_YEAR = r"(?P<year>\d{4}|\d{2})"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_DATES = {
    "ymd": r"(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?:(?P=mark)(?P<day>\d{1,2}))?",
    "dmy": rf"{_WEEKDAY}(?P<day>\d{{1,2}})(?P<mark>[-/. ])\s*(?P<month>\d{{1,2}}|{_NAME})(?P=mark)\s*{_YEAR}",
    "mdy": rf"{_WEEKDAY}(?P<month>\d{{1,2}}|{_NAME})(?P<mark>[-/. ])\s*(?P<day>\d{{1,2}})(?:(?P=mark)|,\s*){_YEAR}",
}
_PATTERNS = {
    order: re.compile(rf"{date}(?:(?:[T :]|,\s*)\s*{_CLOCK}{_ZONE})?", re.IGNORECASE) for order, date in _DATES.items()
} | {"clock": re.compile(_CLOCK)}
_REWRITTEN = (
    (re.compile(r"^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})"), r"\1-\2-\3T\4:\5:\6"),
    (re.compile(r"^(\d{4}-\d{2}-\d{2}[T ]\d{2})(?![\d:])"), r"\1:00"),
    (
        re.compile(rf"^({_WEEKDAY}{_NAME})\s+(\d{{1,2}})\s+([\d:]+)( UTC| GMT|) (\d{{4}})$", re.IGNORECASE),
        r"\1 \2 \5 \3\4",
    ),
)
"""Dates as ISO 8601 has them, without separators or minutes, and as C does, with the year last; what they are read as.
"""

_ELAPSED = re.compile(
    r"(?:(?P<days>-?\d{1,6}) days?,?\s+)?(?P<sign>[+-])?(?P<hours>\d{1,6}):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)"
    r"(?:[.,](?P<fraction>\d{1,9}))?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62135596800, 253402300799
"""Seconds: 1 January of the year 1 and 31 December 9999."""
_MICROSECONDS = 1_000_000
_PER_SECOND = {"s": 1, "ms": 1000, "us": _MICROSECONDS}
_CYCLE_YEARS, _CYCLE = 400, 146097 * 86400 * _MICROSECONDS
"""Years after which the calendar repeats, and microseconds. Python has no year 0, and Arrow has."""

_GAP = 10
_SAMPLED = 1000
"""Texts of a column that show whether any may be dates."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def parse_time(text: str, order: Order, first_year: int = 1970) -> tuple[int, bool] | None:
    """Read one date, time or duration; gives its microseconds and whether it names a zone, or None where it is none."""
    if order == "elapsed":
        return _parse_elapsed(text)
    match = _PATTERNS[order].fullmatch(text)
    if match is None:
        for pattern, usual in _REWRITTEN:
            if (rewritten := pattern.sub(usual, text)) != text:
                match = _PATTERNS[order].fullmatch(rewritten)
    if match is None:
        return None
    part = match.groupdict()
    hour = int(part["hour"] or 0)
    if half := part["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half[0] in "Pp" else 0)
    minute, second = int(part["minute"] or 0), int(part["second"] or 0)
    fraction = int((part["fraction"] or "0").ljust(6, "0")[:6])
    ends_day = hour == 24 and not (minute or second or fraction)  # 24:00 is the end of its day.
    zone = part.get("zone")
    try:
        offset = UTC if zone is None else _offset(zone)
        year = _year(part.get("year") or "1970", first_year)
        moment = datetime(
            year or _CYCLE_YEARS,
            _month(part.get("month") or "1"),
            int(part.get("day") or 1),
            0 if ends_day else hour,
            minute,
            second,
            fraction,
            offset,
        )
        moment += timedelta(days=ends_day)
    except (ValueError, OverflowError):
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1) - (0 if year else _CYCLE), zone is not None


def parse_times(texts: pa.Array, time: TimeFormat) -> tuple[pa.Array, pa.Array]:
    """Parse the texts of a column of dates or times.

    Args:
        texts: Without white space around them, (N,); null where missing.
        time: How they are written.

    Returns:
        Seconds, float64, null where missing or unreadable; and which are readable, null where missing.
    """
    if time.order == "ymd":
        try:
            moments = texts.cast(_moments(zone=time.zone))
            return seconds(moments), pc.if_else(pc.is_valid(texts), True, None)
        except pa.ArrowInvalid:
            pass
    encoded = texts.dictionary_encode()
    found = [_parse_either(text, time.order, time.first_year) for text in encoded.dictionary.to_pylist()]
    moments = pa.array([None if item is None else item[0] for item in found], pa.int64()).take(encoded.indices)
    return _divide(moments), pc.if_else(pc.is_valid(texts), pc.is_valid(moments), None)


def _moments(*, zone: bool) -> pa.DataType:
    return pa.timestamp("us", "UTC" if zone else None)


def _parse_either(text: str, order: Order, first_year: int = 1970) -> tuple[int, bool] | None:
    """Read a moment as its column's are written, or as ISO 8601, as answers have it."""
    found = parse_time(text, order, first_year)
    return parse_time(text, "ymd") if found is None and order in {"dmy", "mdy"} else found


def _parse_elapsed(text: str) -> tuple[int, bool] | None:
    match = _ELAPSED.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    whole = 3600 * int(part["hours"]) + 60 * int(part["minutes"]) + int(part["seconds"])
    fraction = int((part["fraction"] or "0").ljust(6, "0")[:6])
    size = (whole * _MICROSECONDS + fraction) * (-1 if part["sign"] == "-" else 1)
    return 86400 * _MICROSECONDS * int(part["days"] or 0) + size, False


def is_time(kind: pa.DataType) -> bool:
    """Whether `seconds` takes an Arrow type; intervals of months and days are not among them."""
    return bool(pa.types.is_temporal(kind)) and not pa.types.is_interval(kind)


def order_of(kind: pa.DataType) -> Order:
    """The order of the moments of an Arrow type that `is_time`."""
    return "clock" if pa.types.is_time(kind) else "elapsed" if pa.types.is_duration(kind) else "ymd"


def takes(order: Order, found: Order) -> bool:
    """Whether a column takes moments of that order; Arrow reads texts of durations, as 10:30:00, as times of day."""
    return found in {"clock": {"clock"}, "elapsed": {"elapsed", "clock"}}.get(order, {"ymd"})


def seconds(moments: pa.Array) -> pa.Array:
    """Turn Arrow's dates, timestamps, times of day and durations into seconds, float64."""
    kind = moments.type
    if pa.types.is_date32(kind):
        return pc.multiply(moments.cast(pa.int32()).cast(pa.float64()), 86400.0)
    counts = moments.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64())
    unit = "ms" if pa.types.is_date64(kind) else kind.unit
    if unit == "ns":  # Float64 lacks most of their counts.
        counts, unit = pc.divide(counts, 1000), "us"
    return _divide(counts, _PER_SECOND[unit])


def find_order(texts: list[str], day_first: bool | None) -> tuple[TimeFormat | None, list[bool], bool]:
    """Find how dates or times are written.

    Args:
        texts: Distinct, none missing.
        day_first: Of dates such as 3/4/2026; None where that is to be found.

    Returns:
        The format that reads the most, if any; which of the texts it reads; and whether day and month could be
        exchanged in every one of them.
    """
    orders: tuple[Order, ...] = ("ymd", "dmy", "mdy", "clock", "elapsed")
    if day_first is not None:
        orders = ("ymd", "dmy" if day_first else "mdy", "clock", "elapsed")
    # Reading takes microseconds for each text, so that orders in which none of the first is written are not tried.
    orders = tuple(order for order in orders if any(parse_time(text, order) for text in texts[:_SAMPLED]))
    if not orders:
        return None, [False] * len(texts), False
    if orders == ("ymd",):
        for zone in (False, True):
            with suppress(pa.ArrowInvalid):
                pa.array(texts).cast(_moments(zone=zone))
                return TimeFormat(order="ymd", zone=zone), [True] * len(texts), False
    parsed = {order: [_parse_either(text, order) for text in texts] for order in orders}
    readable = {order: [item is not None for item in items] for order, items in parsed.items()}
    best = max(orders, key=lambda order: sum(readable[order]))
    ambiguous = (
        best == "dmy"
        and readable["dmy"] == readable.get("mdy")
        and any(one != other for one, other in zip(parsed["dmy"], parsed["mdy"], strict=True))
    )
    zone = any(item is not None and item[1] for item in parsed[best])
    return TimeFormat(order=best, zone=zone, first_year=find_first_year(texts, best)), readable[best], ambiguous


def find_first_year(texts: Iterable[str], order: Order) -> int:
    """Find the first of the hundred years that years of two digits mean in a column of dates.

    The years begin after the longest gap between those that are written: 62 to 99 and 00 to 06 are 1962 to 2006. Years
    of one century are of this one, unless they begin after 30 and go beyond 50. Where there is no gap of ten years,
    they are 1930 to 2029, as in Excel.
    """
    dates = (_PATTERNS[order].fullmatch(text) for text in texts) if order in {"dmy", "mdy"} else ()
    years = sorted({int(date["year"]) for date in dates if date and len(date["year"]) == 2})
    if not years:
        return 1970
    gap, last, first = max(
        ((following - year - 1) % 100, year, following)
        for year, following in zip(years, [*years[1:], years[0]], strict=True)
    )
    if gap < _GAP:
        return 1930
    return first + (1900 if first > last or (first >= 30 and last >= 50) else 2000)


def derive(moments: npt.NDArray[np.float64], derived: Derived) -> npt.NDArray[np.float64]:
    """Give the hour of the day, from 0 to 24, or the code of the day of the week; NaN where missing. (N,) to (N,)."""
    if derived.part == "hour":
        return (moments % 86400) / 3600
    return (moments // 86400 + 3) % 7  # 1 January 1970 was a Thursday.


def derive_columns(x: npt.NDArray[np.float64], data: TabularInput) -> None:
    """Fill the columns of rows, (N, columns), that are derived from others."""
    for i, column in enumerate(data.columns):
        if column.derived is not None:
            x[:, i] = derive(x[:, data.features.index(column.derived.source)], column.derived)


def render_time(value: float, time: TimeFormat) -> str | None:
    """Write seconds as ISO 8601, to the second; the years lie between 1 and 9999. Durations are days and a clock."""
    if math.isnan(value):
        return None
    if time.order == "elapsed":
        days, rest = divmod(round(value), 86400)
        return f"{days} days {rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    if time.order == "clock":
        whole = min(max(round(value), 0), 86399)
        return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    moment = _EPOCH + timedelta(seconds=round(min(max(value, _FIRST), _LAST)))
    return moment.replace(tzinfo=None).isoformat() + ("Z" if time.zone else "")


def _divide(counts: pa.Array, per_second: int = _MICROSECONDS) -> pa.Array:
    return pc.divide(counts.cast(pa.float64(), safe=False), float(per_second))


def _year(text: str, first_year: int) -> int:
    return int(text) if len(text) == 4 else first_year + (int(text) - first_year) % 100


def _month(text: str) -> int:
    return int(text) if text.isdigit() else _MONTHS.index(text[:3].lower()) + 1


def _offset(zone: str) -> timezone:
    digits = re.sub(r"(?i)z|utc|gmt|:", "", zone) or "+00"
    size = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:] or 0))
    return timezone(-size if digits[0] == "-" else size)
