"""The section `evaluation`."""

from typing import Literal

from pydantic import Field

from pipeline.core.settings import DEMO, Section, runtime


class EvaluationConfig(Section):
    """What teacher, student and baseline are measured on."""

    datasets: list[str] = Field(
        [DEMO],
        description="`demo`, or folders in the WebDataset layout of CLIP_benchmark: `classnames.txt`, "
        "`zeroshot_classification_templates.txt`, `train/*.tar`, `test/*.tar` (members `jpg`, `cls`, and `txt` for "
        "retrieval); or folders of such folders, as DataComp downloads them.",
    )
    tasks: list[Literal["zero_shot", "linear_probe", "retrieval"]] = Field(
        ["zero_shot", "linear_probe", "retrieval"], description="Tasks to run where the data set has what they need."
    )
    cluster_samples: int = Field(
        5000,
        description="Training images on which student and teacher are compared cluster by cluster (table "
        "cluster_accuracy), each by its caption among those of all; 0 leaves it out (unconfirmed).",
        ge=0,
    )
    batch_size: int = runtime(256, "Samples per forward pass.", ge=1)
    device: str = runtime("auto", "torch device; `auto` takes CUDA where there is one.")
