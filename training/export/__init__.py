"""What a trained student becomes: a model card, a check, transformers, ONNX."""

from typing import TYPE_CHECKING

from training.lazy import lazily

if TYPE_CHECKING:
    from training.export.check import export_cosine
    from training.export.to_clip_benchmark import export_evaluation
    from training.export.to_hub import export_model
    from training.export.to_onnx import export_onnx
    from training.export.to_transformers import export_transformers

__all__ = ["export_cosine", "export_evaluation", "export_model", "export_onnx", "export_transformers"]

__getattr__ = lazily(
    __name__,
    {
        "export_cosine": "check",
        "export_evaluation": "to_clip_benchmark",
        "export_model": "to_hub",
        "export_onnx": "to_onnx",
        "export_transformers": "to_transformers",
    },
)
