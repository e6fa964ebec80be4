"""Numbers as people write them: thousands separators, decimal commas, signs of currency and percent, units.

A column's rule (`NumericColumn`) says how its numbers are written. `find_format` finds the rule of a column of texts.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import MAX_AFFIXES, NumericColumn

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf(inity)?|nan(\(\w*\))?)$"
CURRENCY = "$€£¥₹₽₩₺₫₴₪₦₱฿¢₿₡₲₵₸₾"
_CURRENCIES = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
    "CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK "
    "HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL "
    "MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON "
    "RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH "
    "UGX USD UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWL"
)
"""The codes of ISO 4217."""

AFFIX = rf"[A-Z]{{1,2}}\$|[{CURRENCY}]|%|‰|{_CURRENCIES.replace(' ', '|')}|kr\.?|Fr\.|Rs\.?"
"""Signs that may stand before or after a number: of currency, percent or permille, or the code of a currency."""

_SPACE = "[\\s\u00a0\u202f\u2009]*"
_UNIT = re.compile(rf"[+\-\u2212]?[\d.,'\u2019\s\u00a0\u202f\u2009]*\d{_SPACE}([^\W\d_][\w/°²³]{{0,7}}\.?|°[CF]?)")
_MOSTLY = 0.9
"""The share of a column's texts that a unit follows."""

_SAMPLED = 1000
"""Texts of a column that show which ways to write numbers are in it."""

_SEPARATORS = {"": "", ",": ",", ".": r"\.", " ": "[ \u00a0\u202f\u2009]", "'": "['\u2019]"}
"""The pattern of each thousands separator."""

_OTHER_DIGITS = r"[^\P{Nd}0-9]"
INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")
"""Marks of direction and blanks of no width, which copied cells have."""

_SIGNS = dict(zip("٫٬٪．，－＋％￥", ".,%.,-+%¥", strict=True))
"""Signs of numbers in Arabic and, of full width, in East Asian texts."""

Format = tuple[Literal[".", ","], Literal["", ",", ".", " ", "'"]]
"""A decimal sign and a thousands separator."""

FORMATS: tuple[Format, ...] = (
    (".", ""),
    (".", ","),
    (",", ""),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
    (",", "'"),
)
"""In the order of preference."""

_ENOUGH = 10
"""Fewer texts do not show that a sign divides thousands."""

_GROUPS = 6
"""Most groups of thousands before the last one; more of them are a list of numbers."""


def with_usual_digits(texts: pa.Array) -> pa.Array:
    """Write the digits of all scripts as 0 to 9, with their signs, in large strings (N,); other texts stay."""
    if pc.all(pc.string_is_ascii(texts)).as_py():
        return texts
    texts = pc.replace_substring_regex(texts, INVISIBLE.pattern, "")
    if not pc.any(pc.match_substring_regex(texts, _OTHER_DIGITS)).as_py():
        return texts
    encoded = texts.dictionary_encode()
    return pa.array(list(map(_usual, encoded.dictionary.to_pylist())), pa.large_string()).take(encoded.indices)


def _usual(text: str) -> str:
    return "".join(_SIGNS.get(c) or str(unicodedata.decimal(c, c)) for c in text)


def to_plain(texts: pa.Array, column: NumericColumn) -> pa.Array:
    """Rewrite numbers as Python writes them; texts that do not follow the column's rule become null.

    Args:
        texts: Large strings without white space around them, (N,); null where missing.
        column: Says how numbers are written.
    """
    texts = pc.replace_substring_regex(with_usual_digits(texts), "^[\u2212-]\\s*", "-")
    affix = "|".join(map(re.escape, column.affixes))
    # Accountants write a negative amount as (5), $ (5) or (5) €.
    bracketed = rf"^(?:{affix})?{_SPACE}\((.*)\){_SPACE}(?:{affix})?$"
    texts = pc.replace_substring_regex(texts, bracketed, r"-\1")
    texts = pc.replace_substring_regex(texts, r"^([^+-].*\d)\s*-$", r"-\1")
    if column.affixes:
        number = rf"^([+-]?){_SPACE}(?:{affix})?{_SPACE}([+-]?\S.*?){_SPACE}(?:{affix})?$"
        texts = pc.replace_substring_regex(texts, number, r"\1\2")
    if column.thousands:
        mark = _SEPARATORS[column.thousands]
        # India counts thousands, and then in hundreds: 12,34,567.
        digits = r"\d{2,3}" if column.thousands == "," else r"\d{3}"
        hundreds = rf"({mark}{digits}){{0,{_GROUPS}}}"
        grouped = rf"^[+-]?[1-9]\d{{0,2}}{hundreds}{mark}\d{{3}}({re.escape(column.decimal)}\d*)?$"
        texts = pc.if_else(pc.match_substring_regex(texts, grouped), pc.replace_substring_regex(texts, mark, ""), texts)
    if column.decimal == ",":
        # A point is no decimal sign in this column.
        texts = pc.if_else(pc.match_substring(texts, "."), None, pc.replace_substring(texts, ",", "."))
    texts = pc.if_else(pc.match_substring_regex(texts, NUMBER), texts, None)
    return pc.replace_substring(texts, "+", "", max_replacements=1)


def parse_numbers(texts: pa.Array, column: NumericColumn) -> tuple[pa.Array, pa.Array]:
    """Parse the texts of a numeric column.

    Args:
        texts: As `to_plain` takes them, (N,).
        column: Says how numbers are written.

    Returns:
        The numbers, float64, null where missing or unreadable; and which are readable, null where missing.
    """
    if not (column.affixes or column.thousands or column.decimal == ","):
        try:
            return texts.cast(pa.float64()), pc.if_else(pc.is_valid(texts), True, None)
        except pa.ArrowInvalid:
            pass
    plain = to_plain(texts, column)
    return plain.cast(pa.float64()), pc.if_else(pc.is_valid(texts), pc.is_valid(plain), None)


def affixes(texts: Iterable[str]) -> tuple[str, ...]:
    """Find the signs that stand before or after numbers in these texts, sorted; else the one unit after most.

    There are none where they are too many: number plates, as ABC 123, are no amounts of money.
    """
    texts = list(texts)
    found = set()
    digits = r"[\d.,][\d.,'\u2019\s\u00a0\u202f\u2009]*"
    pattern = re.compile(rf"[+\-\u2212(]?\s*({AFFIX})?\s*[+(-]?{digits}\)?\s*({AFFIX})?\)?")
    for text in texts:
        if match := pattern.fullmatch(text):
            found |= {sign for sign in match.groups() if sign}
    if found:
        return tuple(sorted(found)) if len(found) <= MAX_AFFIXES else ()
    units = Counter(match[1] for text in texts if (match := _UNIT.fullmatch(text)))
    return tuple(unit for unit, count in units.items() if count >= _MOSTLY * len(texts))


def find_format(
    name: str, texts: pa.Array, counts: np.ndarray, formats: tuple[Format, ...]
) -> tuple[NumericColumn, pa.Array]:
    """Find the rule that reads most cells of a column.

    Args:
        name: Of the column.
        texts: Its distinct texts, (D,), none missing.
        counts: How many cells have each, (D,).
        formats: Those that are tried; the first one that reads the most cells is taken.

    Returns:
        The rule, and which of the texts it reads, (D,).
    """
    for form in ((".", ","), (",", ".")):
        if form in formats and divides_thousands(texts, form[1]):
            column = _column(name, form, affixes(texts.to_pylist()))
            _, readable = parse_numbers(texts, column)
            if pc.all(readable).as_py():
                return column, readable
    if (".", "") in formats:
        plain = NumericColumn(name=name)
        _, readable = parse_numbers(texts, plain)
        if pc.all(readable).as_py():
            return plain, readable
    signs = affixes(texts.to_pylist())
    some = texts.slice(0, _SAMPLED)
    formats = (
        tuple(f for f in formats if pc.any(parse_numbers(some, _column(name, f, signs))[1]).as_py()) or formats[:1]
    )
    best: tuple[int, NumericColumn, pa.Array] | None = None
    for form in formats:
        column = _column(name, form, signs)
        _, readable = parse_numbers(texts, column)
        cells = int(counts[readable.to_numpy(zero_copy_only=False).astype(bool)].sum())
        if best is None or cells > best[0]:
            best = cells, column, readable
        if cells == counts.sum():
            break
    assert best is not None  # noqa: S101 - there is at least one format
    return best[1], best[2]


def divides_thousands(texts: pa.Array, mark: str) -> bool:
    """Whether a point or comma in distinct texts is no decimal sign: 1.361 beside 581, and nowhere other decimals."""
    number = rf"^[^\d.,]*([1-9]\d{{0,2}}(\{mark}\d{{3}})+|\d{{1,3}})[^\d.,]*$"
    divided = pc.match_substring(texts, mark)
    return (
        (pc.sum(divided).as_py() or 0) >= _ENOUGH
        and pc.all(pc.match_substring_regex(texts, number)).as_py()
        and pc.any(pc.and_not(pc.match_substring_regex(texts, r"\d{3}"), divided)).as_py()
    )


def find_decimal(texts: pa.Array, column: NumericColumn) -> Literal[".", ",", "either"] | None:
    """Find which decimal sign distinct texts show that a column's rule reads.

    Returns:
        `either` where the one sign in them may as well divide thousands; None where they have no decimal sign.
    """
    decimal = "," if column.decimal == "." else "."
    thousands = column.thousands if column.thousands in {" ", "'"} else column.decimal
    other = column.model_copy(update={"decimal": decimal, "thousands": thousands})
    numbers, _ = parse_numbers(texts, column)
    others, readable = parse_numbers(texts, other)
    if not pc.all(readable).as_py():
        return column.decimal
    same = numbers.equals(others)
    return None if same or any(divides_thousands(texts, mark) for mark in ".,") else "either"


def _column(name: str, form: Format, signs: tuple[str, ...]) -> NumericColumn:
    return NumericColumn(name=name, decimal=form[0], thousands=form[1], affixes=signs)
