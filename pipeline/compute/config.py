"""Where shards are worked on: the section `compute`."""

from typing import Literal

from pipeline.core.settings import Section, runtime


class ComputeConfig(Section):
    """Where shards are worked on."""

    engine: Literal["inline", "processes", "ray"] = runtime(
        "inline",
        "`inline`: one after another in this process; `processes`: local worker processes; `ray`: a Ray cluster "
        "(extra `ray`), for download, embeddings and pair search. Its nodes must see the root under the same path.",
    )
    workers: int = runtime(
        2,
        "Worker processes of the engine `processes`, at most one for each GPU where there are any; on `ray`, tasks of "
        "the pair search in flight per node, and cores of a cluster that is started for one stage.",
        ge=1,
    )
    address: str | None = runtime(
        None, "Address of a running Ray cluster, `auto` for the one this machine is part of; none starts a local one."
    )
    join: bool = runtime(
        False,
        "Make this machine a node of the cluster at `address`, without cores, while a stage uses it: for a driver that "
        "runs on none of its nodes, in a pod of its own for example.",
    )
    cpus_per_task: float = runtime(
        1.0, "Cores that Ray sets aside for a task of the pair search, or for a worker that holds the teacher.", gt=0
    )
    gpus_per_task: float = runtime(
        0.0, "GPUs, or shares of one, that Ray sets aside for the same; with 0 it lets them see no GPU.", ge=0
    )
