"""CLIP-CID: from image URLs and captions to a balanced, queryable data set and a small CLIP student."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("clip-cid")
