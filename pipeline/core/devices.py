"""Which device work is done on: GPUs of this machine, one for each worker, whose memory is given back afterwards."""

import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    pass

Device = Literal["cpu", "cuda"]
Wanted = Literal["auto", "cpu", "cuda"]
VISIBLE = "CUDA_VISIBLE_DEVICES"


def resolve(wanted: str) -> str:
    """The torch device of this process: ``auto`` takes CUDA where there is one; other names stay as they are.

    Raises :class:`ConfigError` where CUDA was asked for by name and there is none.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {wanted!r} was asked for, but torch finds none; use 'cpu' or 'auto'")
    return wanted


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them; none without a driver.

    Asks the driver's own tool, not torch: a process that only hands out work should not load it, and even less take
    memory on a GPU.
    """
    allowed = os.environ.get(VISIBLE)
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        # As CUDA reads it: what follows a name that is no device is not seen.
        end = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    return _installed_gpus()


def _installed_gpus() -> list[str]:
    if tool := shutil.which("nvidia-smi"):
        found = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=60, check=False)
        names = re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", found.stdout)
        # A GPU that is divided is used by its parts.
        return [name for name in names if name.startswith("MIG-")] or names
    # A container without the tool has device files all the same, of those GPUs that it was given.
    nodes = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return [str(number) for number in range(len(nodes))]


@contextlib.contextmanager
def gpu_memory_returned() -> Iterator[None]:
    """After the block, or the function that it decorates, memory that torch keeps on GPUs for later is free for others.

    Only what nothing refers to any more can be given back; cycles are looked for. torch is not loaded for it.
    """
    try:
        yield
    finally:
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()
