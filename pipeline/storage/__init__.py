"""Where a data set lies, and what of it is done."""

from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import open_root, storage_of
from pipeline.storage.stage import Stage

__all__ = ["Stage", "StageResult", "open_root", "read_result", "storage_of"]
