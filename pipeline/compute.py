"""Work through shards: in this process, in local worker processes, or on a Ray cluster. One config field picks it."""

import concurrent.futures
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pipeline.config import ComputeConfig
from pipeline.processes import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def map_shards(
    function: Callable[[Item], Result], items: Sequence[Item], config: ComputeConfig, *, keeps_state: bool = False
) -> Iterator[Iterator[Result]]:
    """Apply a picklable ``function`` to every item; results come in the order in which they are finished.

    An error in one item is raised as it is; items not started by then are dropped, and workers end with the block.
    ``keeps_state``: the function keeps something costly in its process, a model for example, so processes must last.
    On Ray, items of a node or worker that was lost are run again on another.
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
        from pipeline.on_ray import connected, run_actors, run_tasks

        with connected(config) as ray:
            yield (run_actors if keeps_state else run_tasks)(ray, function, items, config)
