"""When a download goes wrong as a whole: stop after several bad shards in a row, and name the cause."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import DownloadError
from pipeline.download.config import ImagesConfig
from pipeline.web.addresses import host_of, unresolved
from pipeline.web.outcomes import SUCCESS

_HOSTS_ASKED = 20
_DNS_TIMEOUT_S = 10.0
_REASONS_NAMED = 3


class SuccessFloor:
    """Holds bad shards back until a good one shows that they are bad by themselves.

    A shard is bad if less than ``success_floor`` of its pairs were downloaded. What was fetched while the network was
    in trouble must not count as done: held shards are fetched again by the next run.
    """

    def __init__(self, config: ImagesConfig):
        self._config = config
        self.held: list[str] = []
        self._hosts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def admit(self, shard: str, statuses: pa.Table) -> list[str]:
        """The shards that may be published now. Raises :class:`DownloadError` after too many bad ones in a row."""
        succeeded = pc.sum(pc.equal(statuses["status"], SUCCESS)).as_py() or 0
        if not self._config.bad_shards or succeeded >= self._config.success_floor * statuses.num_rows:
            ready = [*self.held, shard]
            self.held = []
            self._hosts.clear()
            self._reasons.clear()
            return ready
        self.held.append(shard)
        failed = statuses.filter(pc.not_equal(statuses["status"], SUCCESS)).select(["url", "status", "error"])
        for row in failed.to_pylist():
            self._hosts[host_of(row["url"])] += 1
            self._reasons[f"{row['status']}, {(row['error'] or '').partition(': ')[0]}"] += 1
        if len(self.held) >= self._config.bad_shards:
            raise DownloadError(self._diagnosis())
        return []

    def _diagnosis(self) -> str:
        # DNS first: when it fails, everything fails, and each sample's error points at its own host.
        hosts = [host for host, _ in self._hosts.most_common() if host and host not in self._config.connect_to]
        asked = hosts[:_HOSTS_ASKED]
        missing = unresolved(asked, timeout_s=_DNS_TIMEOUT_S)
        if asked and len(missing) >= 0.9 * len(asked):
            cause = (
                f"DNS is the cause: of {len(asked)} hosts asked now {len(missing)} do not resolve, e.g. {missing[0]}; "
                "see /etc/resolv.conf, or ask fewer at once (images.processes, images.threads)"
            )
        elif asked:
            cause = f"DNS is not the cause: of {len(asked)} hosts asked now {len(asked) - len(missing)} resolve"
        else:
            cause = "the hosts are all named in images.connect_to, so DNS is not the cause"
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self._reasons.most_common(_REASONS_NAMED))
        return (
            f"{len(self.held)} shards in a row, the last {self.held[-1]}, have less than "
            f"{self._config.success_floor:.0%} of their images (images.success_floor, images.bad_shards). {cause}. "
            f"Most frequent: {reasons}. None of these shards is published; run again to fetch them"
        )
