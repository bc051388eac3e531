"""Progress of long stages: a bar where a person watches a terminal, a log line with rate and time left elsewhere."""

import logging
import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Count units of work done, for example ``with Progress(log, "embed", total=6000, unit="images") as progress``.

    ``add`` may be called often: at most one line in ten seconds is logged.
    """

    def __init__(self, log: logging.Logger, label: str, *, total: int, unit: str):
        self._log, self._label, self._total, self._unit = log, label, total, unit
        self._done = 0
        self._start = self._last = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", leave=False, disable=not sys.stderr.isatty())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int, note: str = "") -> None:
        """Say that ``count`` more units are done; ``note`` is added to the line, for example the current loss."""
        self._done += count
        self._bar.update(count)
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            self._log.info(self.line(now, note))

    def line(self, now: float, note: str = "") -> str:
        rate = self._done / max(now - self._start, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        text = f"{self._label}: {self._done:,}/{self._total:,} {self._unit}, {rate:,.0f}/s, {left:,.0f} s left"
        return f"{text}, {note}" if note else text
