"""Embeddings in Parquet: read, check, write."""

from pipeline.vectors.read import checked_batches, inspect, list_matrix
from pipeline.vectors.write import EmbeddingWriter

__all__ = ["EmbeddingWriter", "checked_batches", "inspect", "list_matrix"]
