"""Stage `near_duplicates`: embeddings in, the minimum spanning forest of all near pairs out."""

from pipeline.neighbors.between import PairsReport, near_pairs_between
from pipeline.neighbors.config import NeighborsConfig
from pipeline.neighbors.search import ForestReport, near_duplicate_forest
from pipeline.neighbors.stage import build_forest
from pipeline.neighbors.without import WithoutReport, forest_without
from pipeline.neighbors.workspace import BaseForest

__all__ = [
    "BaseForest",
    "ForestReport",
    "NeighborsConfig",
    "PairsReport",
    "WithoutReport",
    "build_forest",
    "forest_without",
    "near_duplicate_forest",
    "near_pairs_between",
]
