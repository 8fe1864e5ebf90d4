"""Numbers as Redis reads and writes them. Source: `string2ll`, `string2d` and `ld2string`, Redis 7.0."""

import decimal
import fractions
import math
import re

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
"""The range of Redis' integers."""

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_FLOAT = re.compile(rb"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?)", re.IGNORECASE)
_MANTISSA_BITS = 64  # of the 80-bit numbers that INCRBYFLOAT computes with on x86-64
_EXPONENT_MAX = 4932  # decimal, of the same
_SHOWN_DIGITS = 17  # after the point


def parse_int(text: bytes) -> int | None:
    """An integer in the only form that Redis takes: no plus, no leading zero or blank, 64 bits. Else None."""
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if INT_MIN <= number <= INT_MAX else None


def parse_float(text: bytes) -> float | None:
    """A score: decimal or infinite, not nan. Else None. (Hexadecimal numbers, which Redis takes, are refused.)"""
    if not _FLOAT.fullmatch(text):
        return None
    number = float(text)
    named = b"n" in text.lower()
    return None if math.isinf(number) and not named else number


def format_float(number: float) -> bytes:
    """A score as Redis 7.0 replies it."""
    return b"%.17g" % number


def parse_long(text: bytes) -> fractions.Fraction | float | None:
    """An operand of INCRBYFLOAT, rounded as a long double is; an infinity is a float. None where it is no number."""
    if not _FLOAT.fullmatch(text) or len(text) >= 256:
        return None
    if b"n" in text.lower():
        return float(text)
    number = decimal.Decimal(text.decode())
    if number and abs(number.adjusted()) > _EXPONENT_MAX:
        return None
    return round_long(fractions.Fraction(number))


def round_long(number: fractions.Fraction) -> fractions.Fraction:
    """To the nearest number with a mantissa of 64 bits."""
    if not number:
        return number
    exponent = number.numerator.bit_length() - number.denominator.bit_length() - _MANTISSA_BITS
    while abs(number) / fractions.Fraction(2) ** exponent >= 1 << _MANTISSA_BITS:
        exponent += 1
    unit = fractions.Fraction(2) ** exponent
    return round(number / unit) * unit


def format_long(number: fractions.Fraction) -> bytes:
    """As INCRBYFLOAT stores it: at most 17 digits after the point, no zeros at the end."""
    digits = round(abs(number) * 10**_SHOWN_DIGITS)
    whole, rest = divmod(digits, 10**_SHOWN_DIGITS)
    text = f"{whole}.{rest:0{_SHOWN_DIGITS}d}".rstrip("0").rstrip(".")
    return (b"-" if number < 0 and digits else b"") + text.encode()
