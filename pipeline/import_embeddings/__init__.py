"""Embeddings made elsewhere, such as by clip-retrieval, as a root of this project."""

from pipeline.import_embeddings.stage import import_embeddings

__all__ = ["import_embeddings"]
