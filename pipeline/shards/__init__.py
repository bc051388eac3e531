"""Stage `training_shards`: everything about a kept pair, in the order of training."""

from pipeline.core.manifest import read_manifest
from pipeline.shards.config import ShardsConfig
from pipeline.shards.stage import write_shards

__all__ = ["ShardsConfig", "read_manifest", "write_shards"]
