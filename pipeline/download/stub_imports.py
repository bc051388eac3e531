"""img2dataset without the libraries that it imports and that a download does not use.

They are most of the time in which one of its workers starts, which it does every five shards, and of its memory:
torch (which webdataset does without), wandb and albumentations (which img2dataset calls in parts that are not used
here). Only for processes that are ours from start to end, which those of Ray are too, as every connection to it has
workers of its own; in a Spark worker others may need them.
"""

import importlib.machinery
import sys
import types

_ABSENT = ("torch",)
_EMPTY = ("wandb", "albumentations")


def leave_out_unused() -> None:
    """Call before the first import of img2dataset; does nothing for a library that is there already."""
    for name in _ABSENT:
        # Importing it raises ImportError.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    for name in _EMPTY:
        if name not in sys.modules:
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
