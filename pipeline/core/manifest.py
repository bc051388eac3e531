"""The manifest of training shards. Ranks of a training run read it, and they need neither DuckDB nor Arrow for it."""

import dataclasses
import json
from pathlib import Path

from pipeline.core.errors import ShardError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsManifest:
    """What training shards hold."""

    samples: int
    teacher: str
    weights_hash: str
    preprocessing_hash: str
    embed_dim: int
    clusters: int
    clusters_digest: str
    views: int = 1
    """Random views of each image; 1 means that there are none, and the image as it is is trained on."""


def read_manifest(folder: Path) -> ShardsManifest:
    """The manifest of a folder of training shards; :class:`ShardError` if it has none."""
    try:
        return ShardsManifest(**json.loads((folder / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ShardError(f"{folder}: no readable manifest.json of training shards: {error}") from error
