"""When a host may be asked again: as it says itself with ``Retry-After``, else ever later, and never all at once."""

import email.utils
import random
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from pipeline.web.outcomes import SampleError

_REFUSALS = {429, 503}
# Seconds before a second attempt, doubled for each further one. Halved at random, so that threads do not come together.
_FIRST_S, _LONGEST_S = 0.5, 16.0
# A host that asks for more than this is asked once in a while.
_LONGEST_REST_S = 600.0
_HOSTS_KEPT = 10_000


class HostRestsError(SampleError):
    """The host asked not to be asked before ``wait_s`` seconds have passed, and was not."""

    def __init__(self, status: int, wait_s: float):
        super().__init__("failed_to_download", f"HTTP {status}", f"the server asked to wait {wait_s:.0f} s longer")
        self.wait_s = wait_s


@dataclass
class _Host:
    refusals: int = 0
    rests_until: float = 0.0
    status: int = 503


class Pacing:
    """What the hosts said that one process asks, by all of its threads."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, host: str) -> None:
        """Raises :class:`HostRestsError` while ``host`` wants to be left alone."""
        with self._lock:
            known = self._hosts.get(host)
        left = known.rests_until - time.monotonic() if known else 0.0
        if known and left > 0:
            raise HostRestsError(known.status, left)

    def heard(self, host: str, status: int, retry_after: str | None) -> None:
        """Take note of an answer of ``host``."""
        with self._lock:
            if status not in _REFUSALS:
                # It may have been asked before it wanted to be left alone: that holds.
                known = self._hosts.get(host)
                if known:
                    known.refusals = 0
                return
            known = self._hosts.setdefault(host, _Host())
            self._hosts.move_to_end(host)
            known.refusals, known.status = known.refusals + 1, status
            rest = min(seconds_of(retry_after), _LONGEST_REST_S)
            known.rests_until = max(known.rests_until, time.monotonic() + rest)
            while len(self._hosts) > _HOSTS_KEPT:
                self._hosts.popitem(last=False)

    def back_off_s(self, host: str, attempts: int) -> float:
        """How long to wait after ``attempts`` failed; longer if ``host`` has refused others too."""
        with self._lock:
            known = self._hosts.get(host)
        steps = max(attempts, known.refusals if known else 0)
        return jittered(min(_FIRST_S * 2.0 ** min(steps - 1, 10), _LONGEST_S))


def jittered(seconds: float) -> float:
    """Between half of ``seconds`` and all of it."""
    return seconds * random.uniform(0.5, 1)


def seconds_of(retry_after: str | None) -> float:
    """Seconds that a ``Retry-After`` header asks for, by number or by date; 0 if the date is over, or it is neither."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        # More digits than any sensible number has would be refused by int().
        return float(text[:300])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
