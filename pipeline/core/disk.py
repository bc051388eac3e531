"""A disk that takes no more, in whatever words it is said, is one typed error."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError, StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's numbers for a full disk; an exhausted quota and a limit on file size are one too."""

REFUSED = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR)
"""Its numbers for a place that may be read at most."""

# Libraries of other languages keep the system's words at most; numpy and DuckDB have their own.
_FULL_WORDS = re.compile(
    "|".join(
        [*(re.escape(os.strerror(number)) for number in FULL), r"\d+ requested and \d+ written", "failed to offload"]
    )
)


@contextlib.contextmanager
def storage_errors(where: Path | str) -> Iterator[None]:
    """What is raised because nothing more can be written under ``where`` becomes :class:`StorageError`."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        if _is_full(error) or (isinstance(error, OSError) and error.errno in REFUSED):
            raise storage_error(where, error) from error
        raise


def storage_error(where: Path | str, error: Exception) -> StorageError:
    """The typed error for an ``error`` that came of writing under ``where``."""
    return full_disk(where) if _is_full(error) else StorageError(f"{where} cannot be written: {error}")


def full_disk(where: Path | str) -> StorageError:
    """The typed error for a full disk under ``where``."""
    return StorageError(f"no space left under {where}; free some and run again, what is finished is kept")


def _is_full(error: Exception) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return number in FULL if number is not None else bool(_FULL_WORDS.search(str(error)))
