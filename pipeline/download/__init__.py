"""Stage `images`: img2dataset under guard, supervised."""

from pipeline.download.config import ImagesConfig
from pipeline.download.stage import download_images, retry_images

__all__ = ["ImagesConfig", "download_images", "retry_images"]
