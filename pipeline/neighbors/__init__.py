"""Stage `near_duplicates`: embeddings in, the minimum spanning forest of all near pairs out."""

from pipeline.neighbors.config import NeighborsConfig
from pipeline.neighbors.search import ForestReport, near_duplicate_forest
from pipeline.neighbors.stage import build_forest
from pipeline.neighbors.workspace import BaseForest

__all__ = ["BaseForest", "ForestReport", "NeighborsConfig", "build_forest", "near_duplicate_forest"]
