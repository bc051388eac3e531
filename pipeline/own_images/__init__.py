"""Stages `source_pairs` and `images` of images that are there: folders, WebDataset tars and Parquet."""

from pipeline.own_images.adopt import adopt_images
from pipeline.own_images.config import OwnImages
from pipeline.own_images.stage import import_own_pairs

__all__ = ["OwnImages", "adopt_images", "import_own_pairs"]
