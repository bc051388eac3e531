"""What a request asks for, as numbers; anything else is refused."""

import math

from starlette.exceptions import HTTPException


def threshold(text: str, reach: float) -> float:
    """A distance that a forest of this ``max_distance`` knows."""
    value = real(text)
    if not 0 <= value <= reach:
        raise HTTPException(400, f"A threshold lies between 0 and the forest's max_distance, {reach:g}.")
    return value


def real(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError as error:
        raise HTTPException(400, "A number is wanted.") from error
    if not math.isfinite(value):
        raise HTTPException(400, "A number is wanted.")
    return value


def number(text: str, bits: int) -> int:
    """A signed whole number of at most so many bits, which is all that an id can be."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        raise HTTPException(404, "An id is a whole number.")
    value = int(text)
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise HTTPException(404, f"An id has at most {bits} bits.")
    return value
