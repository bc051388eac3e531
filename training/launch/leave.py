"""How a rank ends: after what was registered for its end, but without Python's own."""

import atexit
import os
import sys
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End this process.

    Threads of gloo outlive the process group, and the last reference to a tensor that was exchanged may be theirs. One
    that drops it while Python ends aborts the process, although all its work is done.
    """
    # Ends the loader's processes, among others.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
