"""Which device workers will find, as far as their driver can tell."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.compute.config import ComputeConfig
from pipeline.core.devices import Device, Wanted, resolve


def expected(wanted: Wanted, compute: "ComputeConfig") -> Device:
    """What workers will find, as far as their driver can tell: on Ray a GPU is theirs only if tasks ask for one.

    A driver's own GPU says nothing of a cluster's nodes, so there the config decides.
    """
    if compute.engine == "ray":
        return "cuda" if wanted == "cuda" or (wanted == "auto" and compute.gpus_per_task > 0) else "cpu"
    return "cuda" if resolve(wanted) == "cuda" else "cpu"
