"""Stage `source_pairs`: lists of URLs and captions in, unique pairs out."""

from pipeline.source.config import SourceConfig
from pipeline.source.stage import import_pairs

__all__ = ["SourceConfig", "import_pairs"]
