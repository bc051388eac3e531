"""Run a function over shards: here, in local processes, or on Ray."""

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards

__all__ = ["ComputeConfig", "map_shards"]
