"""Functions that workers of every engine can import."""

from pipeline.errors import ShardError


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 3:
        raise ShardError(f"shard {number} is bad")
    return number
