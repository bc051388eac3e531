"""Work through shards: in this process, in local worker processes, or on a Ray cluster. One config field picks it."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config import ComputeConfig
from pipeline.errors import ConfigError
from pipeline.processes import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

# A task whose node died is started again elsewhere so many times before the run gives up.
_RETRIES = 5
# Ray takes 127.0.0.1 for a node without an address and listens on the machine's own instead.
_LOOPBACK = "127.0.0.2"


@contextlib.contextmanager
def map_shards(
    function: Callable[[Item], Result], items: Sequence[Item], config: ComputeConfig
) -> Iterator[Iterator[Result]]:
    """Apply a picklable ``function`` to every item; results come in the order in which they are finished.

    An error in one item is raised as it is; items not started by then are dropped, and workers end with the block. On
    Ray, tasks of a node that was lost are run again on another.
    """
    if config.engine == "inline" or not items:
        yield map(function, items)
    elif config.engine == "processes":
        # Spawned, not forked: torch and DuckDB hold threads, which a fork would leave in a broken state.
        pool = concurrent.futures.ProcessPoolExecutor(
            config.workers, mp_context=multiprocessing.get_context("spawn"), initializer=die_with_parent
        )
        try:
            futures = [pool.submit(function, item) for item in items]
            yield (future.result() for future in concurrent.futures.as_completed(futures))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    else:
        with _ray(config) as ray:
            yield _on_ray(ray, function, items, config)


def _on_ray(
    ray: Any, function: Callable[[Item], Result], items: Sequence[Item], config: ComputeConfig
) -> Iterator[Result]:
    # A plain function, whose module workers import: nothing of the project is pickled by value.
    remote = ray.remote(
        num_cpus=config.cpus_per_task, num_gpus=config.gpus_per_task, max_retries=_RETRIES, scheduling_strategy="SPREAD"
    )(function)
    limit = config.workers * max(len([node for node in ray.nodes() if node["Alive"]]), 1)
    waiting, running = list(reversed(items)), list[Any]()
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                running.append(remote.remote(waiting.pop()))
            done, running = ray.wait(running, num_returns=1)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayTaskError as error:
                # The task's own error, of its own type.
                raise error.cause from error
    finally:
        for task in running:
            ray.cancel(task, force=True)


@contextlib.contextmanager
def _ray(config: ComputeConfig) -> Iterator[Any]:
    """Ray, connected: to the cluster at ``address``, to the one that is connected already, or to one of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("compute.engine is 'ray', but ray is not installed: pip install 'clip-cid[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    local = (
        {}
        if config.address
        else {"num_cpus": config.workers, "include_dashboard": False, "_node_ip_address": _LOOPBACK}
    )
    ray.init(
        # "local", not none: none would join a cluster of someone else's that happens to run on this machine.
        address=config.address or "local",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": _python_path()}},
        **local,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


@functools.cache
def _python_path() -> str:
    """Workers find the project where this process did."""
    project = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(dict.fromkeys([project, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
