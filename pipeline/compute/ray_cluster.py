"""Ray: connect to a cluster, run tasks on it, or feed shards to workers that stay. What a lost node had is rerun."""

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.compute.config import ComputeConfig
from pipeline.core.errors import ComputeError, ConfigError
from pipeline.core.processes import end_group, python_path, start_group, tail

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

# A task whose node died is started again elsewhere so many times before the run gives up.
_RETRIES = 5
# Workers that end before they have begun, one after another, before the run gives up; counted under this number.
_STARTS, _STARTING = 20, -1
# Ray takes 127.0.0.1 for a node without an address and listens on the machine's own instead.
_LOOPBACK = "127.0.0.2"
_JOIN_S = 60.0
# How often nodes that joined are looked for while all workers are busy.
_LOOK_S = 10.0


@contextlib.contextmanager
def connected(config: ComputeConfig, **runtime_env: Any) -> Iterator[Any]:
    """Ray, connected: to the cluster at ``address``, to the one that is connected already, or to one of its own.

    ``runtime_env``: more of Ray's runtime environment for the workers of this connection, if it is made here.
    """
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
    environment = {
        "env_vars": {"PYTHONPATH": python_path()},
        # There and not from here: a node may have been told otherwise.
        "worker_process_setup_hook": "pipeline.core.openmp.limit_spinning",
        **runtime_env,
    }
    with _joined(config):
        # Without an address Ray would take any cluster that runs on this machine, somebody else's too.
        ray.init(address=config.address or "local", log_to_driver=False, runtime_env=environment, **local)
        try:
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _joined(config: ComputeConfig) -> Iterator[None]:
    """While the block lasts, this machine is a node of the cluster, if it is asked to: a driver has to be on one."""
    if not config.join:
        yield
        return
    if not config.address:
        raise ConfigError("compute.join needs compute.address, the cluster to join, as host:port")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        output = Path(folder) / "ray.log"
        command = ["start", f"--address={config.address}", "--num-cpus=0", "--num-gpus=0", "--block"]
        process = start_group([sys.executable, "-m", "ray.scripts.scripts", *command], log=output)
        try:
            deadline = time.monotonic() + _JOIN_S
            while "Ray runtime started" not in output.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ComputeError(f"the Ray cluster at {config.address} cannot be joined:\n{tail(output)}")
                time.sleep(0.1)
            yield
        finally:
            end_group(process, grace_s=15)


def address_of(config: ComputeConfig) -> str | None:
    """Where another process finds the cluster that :func:`connected` would give; none if it has to start one."""
    if config.address is None:
        with contextlib.suppress(ImportError):
            import ray

            if ray.is_initialized():
                return str(ray.get_runtime_context().gcs_address)
    return config.address


def run_tasks(
    ray: Any, function: Callable[[Item], Result], items: Sequence[Item], config: ComputeConfig
) -> Iterator[Result]:
    """Results of a task for every item, as they come; ``config.workers`` tasks in flight per node."""
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


def run_actors(
    ray: Any, function: Callable[[Item], Result], items: Sequence[Item], config: ComputeConfig
) -> Iterator[Result]:
    """Results for every item from workers that live until all is done, so that what ``function`` keeps stays loaded.

    A task that asks for a GPU would get a new process every time. There are as many workers as fit on the nodes that
    are alive, more as nodes join; the item of a worker that was lost goes to another one.
    """
    workers = _Workers(ray, function, items, config)
    try:
        yield from workers.results()
    finally:
        workers.end()


class _Worker:
    """What an actor is made from: it imports the function's module once and is asked item by item."""

    def ready(self) -> None:
        """Answered as soon as the actor runs."""

    def work(self, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)


class _Workers:
    def __init__(self, ray: Any, function: Callable[[Any], Any], items: Sequence[Any], config: ComputeConfig):
        self._ray, self._function, self._config = ray, function, config
        self._waiting = list(enumerate(items))[::-1]
        self._lost = Counter[int]()
        # By the answer that is waited for: the actor, and the number and item it works on, if it does already.
        self._asked: dict[Any, tuple[Any, tuple[int, Any] | None]] = {}
        self._make = ray.remote(_Worker).options(
            num_cpus=config.cpus_per_task, num_gpus=config.gpus_per_task, scheduling_strategy="SPREAD"
        )

    def results(self) -> Iterator[Any]:
        while self._waiting or any(task for _, task in self._asked.values()):
            self._fill()
            done, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=_LOOK_S)
            for answer in done:
                actor, task = self._asked.pop(answer)
                try:
                    result = self._ray.get(answer)
                except self._ray.exceptions.RayTaskError as error:
                    # The function's own error, of its own type.
                    raise error.cause from error
                except self._ray.exceptions.RayActorError as error:
                    # It may only be out of reach, and would keep its cores.
                    self._end(actor)
                    self._note_loss(task, error)
                    continue
                self._lost[_STARTING] = 0
                self._next(actor)
                if task is not None:
                    yield result

    def end(self) -> None:
        for actor, _ in self._asked.values():
            self._end(actor)

    def _end(self, actor: Any) -> None:
        # One that never came to run is no longer known, and asking to end it is an error.
        with contextlib.suppress(self._ray.exceptions.RaySystemError):
            self._ray.kill(actor)

    def _fill(self) -> None:
        """As many workers as there is room and work for."""
        places = self._places()
        if not places and not self._asked:
            config = self._config
            raise ComputeError(
                f"no node of the Ray cluster has the {config.cpus_per_task:g} cores and {config.gpus_per_task:g} GPUs "
                "of compute.cpus_per_task and compute.gpus_per_task"
            )
        starting = sum(task is None for _, task in self._asked.values())
        for _ in range(min(places - len(self._asked), len(self._waiting) - starting)):
            actor = self._make.remote()
            self._asked[actor.ready.remote()] = (actor, None)

    def _places(self) -> int:
        """How many workers fit on the nodes that are alive."""
        wanted = {"CPU": self._config.cpus_per_task, "GPU": self._config.gpus_per_task}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(name, 0) / amount) for name, amount in wanted.items() if amount) for node in nodes)

    def _next(self, actor: Any) -> None:
        if self._waiting:
            task = self._waiting.pop()
            self._asked[actor.work.remote(self._function, task[1])] = (actor, task)
        else:
            self._end(actor)

    def _note_loss(self, task: tuple[int, Any] | None, error: Exception) -> None:
        number = _STARTING if task is None else task[0]
        self._lost[number] += 1
        if self._lost[number] > (_STARTS if task is None else _RETRIES):
            what = "Ray workers did not start" if task is None else "the same item lost its Ray worker"
            raise ComputeError(f"{what} {self._lost[number]} times: {error}") from error
        if task is not None:
            log.warning("a Ray worker was lost (%s); what it had is run again", str(error).splitlines()[0])
            self._waiting.append(task)
