"""A real Ray cluster on loopback, whose nodes and workers can be lost."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

# Ray takes 127.0.0.1 for a node without an address and puts the machine's own in its place.
_LOOPBACK = "127.0.0.2"
_PATIENCE_S = 120


class LoopbackCluster:
    """Two nodes at first: raylets, a process each. Nothing in this process is connected to them."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._node = {"num_cpus": 1, "node_ip_address": _LOOPBACK, "object_store_memory": 80 << 20}
        self._cluster = Cluster(initialize_head=True, head_node_args={**self._node, "include_dashboard": False})
        self.nodes = [self._cluster.head_node, self.add_node()]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_node(self, **resources: Any) -> Any:
        return self._cluster.add_node(**{**self._node, **resources})

    def lose(self, node: Any) -> None:
        """End a node as a power cut would."""
        self._cluster.remove_node(node, allow_graceful=False)

    def workers(self, node: Any) -> list[psutil.Process]:
        """All processes that a node has started."""
        return psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)

    def at_work(self, node: Any, on: str) -> list[psutil.Process]:
        """Workers of a node that are at a task of this name now."""
        return [child for child in self.workers(node) if _title(child) == f"ray::{on}"]

    def when_at_work(self, node: Any, on: str, do: Callable[[psutil.Process], None]) -> threading.Thread:
        """As soon as a worker of a node is at such a task, do something to it. The thread ends when that is done."""

        def watch() -> None:
            deadline = time.monotonic() + _PATIENCE_S
            while time.monotonic() < deadline:
                if found := self.at_work(node, on):
                    do(found[0])
                    return
                time.sleep(0.002)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread

    def shutdown(self) -> None:
        self._cluster.shutdown()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
