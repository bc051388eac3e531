"""The kept images of a root as a Hugging Face data set."""

from pipeline.export_dataset.export import DatasetReport, export_dataset

__all__ = ["DatasetReport", "export_dataset"]
