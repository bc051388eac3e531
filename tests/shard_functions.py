"""Functions that workers of every engine can import."""

import os
import sys
import time

from pipeline.core.errors import ShardError


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 3:
        raise ShardError(f"shard {number} is bad")
    return number


def leaves_out(name: str) -> bool:
    """Whether a library cannot be imported in the worker."""
    return sys.modules.get(name, sys) is None


def visible_device(_: int) -> str | None:
    """The GPUs that the worker sees; slow enough that every worker gets some."""
    time.sleep(0.3)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def variable(name: str) -> str | None:
    """What the worker's environment says."""
    return os.environ.get(name)
