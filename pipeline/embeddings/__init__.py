"""Stages `teacher_embeddings` and `teacher_views`: images and captions in, unit vectors out."""

from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.stage import embed_images, embed_views

__all__ = ["EmbeddingsConfig", "embed_images", "embed_views"]
