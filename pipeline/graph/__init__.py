"""Minimum spanning forests: pure arrays, no files."""

from pipeline.graph.contraction import without_nodes
from pipeline.graph.forest import Edges, ForestBuilder, components
from pipeline.graph.prim import forest_candidates

__all__ = ["Edges", "ForestBuilder", "components", "forest_candidates", "without_nodes"]
