"""The grammar of numbers in tables and options. Python's own would admit underscores and the digits of every script."""

from __future__ import annotations

import argparse
import math
import re

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".", "missing"}
INFINITE = re.compile(r"[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)

#: A number in some grammar, of Python's or of people's: 1_000, 12 %, 1.234,5, the digits of any script.
_LIKE_A_NUMBER = re.compile(r"[+\-−]?[$€£]?[\d.,][\d.,'_\s]*([eEdD][+\-−]?\d+)?\s?%?|0[xX][0-9a-fA-F]+")


def is_like_number(word: str) -> bool:
    """Whether a word is meant for a number, of whatever grammar, so that it names no column."""
    return any(map(str.isdigit, word)) and _LIKE_A_NUMBER.fullmatch(word) is not None


def number(word: str) -> float:
    """A number as tables have it: ASCII digits, a point, an exponent; no underscores.

    Raises
    ------
    ValueError
        For anything else, also for a number that no float is near.
    """
    if not NUMBER.fullmatch(word):
        raise ValueError(f"expected a number, got {word!r}")
    value = float(word)
    if math.isinf(value):
        raise ValueError(f"expected finite numbers, got {word}, which is too large")
    if value == 0 and re.search("[1-9]", re.split("[eE]", word)[0]):
        raise ValueError(f"expected a number, got {word}, which is too small for a float")
    if WHOLE.fullmatch(word) and int(word) != int(value):
        raise ValueError(f"expected a number, got {word}, which has more digits than a float; shift the column first")
    return value


def option_number(word: str) -> float:
    """A number on the command line; "inf" is one there."""
    if INFINITE.fullmatch(word):
        return float(word)
    try:
        return number(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def option_whole(word: str) -> int:
    """A whole number on the command line."""
    if not WHOLE.fullmatch(word):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {word!r}")
    return int(word)
