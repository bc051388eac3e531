"""How a run is asked to end between two steps, with a checkpoint."""

import signal


class StopRequested(Exception):
    """Not an error: the run was asked to end; the message says whether a checkpoint was written."""


class StopFlag:
    """Set by SIGTERM, or by whoever started the run from another machine."""

    def __init__(self) -> None:
        self.set = False

    def install(self) -> None:
        """Let SIGTERM raise it."""
        signal.signal(signal.SIGTERM, lambda *_: self.raise_flag())

    def raise_flag(self) -> None:
        self.set = True
