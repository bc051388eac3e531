"""The section `embeddings`."""

from typing import Any, Literal

from pydantic import Field

from pipeline.clip.views import AugmentationConfig
from pipeline.core.settings import Section, runtime
from pipeline.heads.config import Heads


class EmbeddingsConfig(Section):
    """Teacher embeddings of images and captions."""

    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Precision of the teacher's forward pass. fp32 is that on a GPU too, without TF32. The lower ones "
        "are refused where a sample's embeddings turn away from those of fp32 by more than a cosine of 0.999.",
    )
    batch_size: int = Field(
        256, description="Images per forward pass. It enters the fingerprint: kernels round by batch shape.", ge=1
    )
    threads: int = Field(
        2,
        description="CPU threads of a forward pass, in each worker. It enters the fingerprint too, since sums are "
        "divided among them. Of no effect on a GPU.",
        ge=1,
    )
    compile: bool = Field(
        False,
        description="Compile the image tower with torch.compile, a transformer block by itself, once for all of them.",
    )
    views: int = Field(
        1,
        description="1: the student is trained on each image as it is. n of 2 or more: n random augmentations of each "
        "image that the balance kept are embedded too, into the table `teacher_views`, and it is trained on those.",
        ge=1,
        le=1000,
    )
    augmentation: AugmentationConfig = AugmentationConfig()
    heads: Heads = Field(
        {},
        description="Small networks on the image embeddings, by the names of the columns that they make in `scores`, "
        "such as a predictor of aesthetics.",
    )
    device: str = runtime("auto", "torch device; `auto` takes CUDA where there is one.")
    decode_threads: int = runtime(2, "Threads that decode and preprocess images ahead of the model.", ge=1)

    def plain(self) -> dict[str, Any]:
        """What decides the embeddings of images as they are, whatever views are made of them."""
        return {name: value for name, value in self.content().items() if name not in ("views", "augmentation")}

    def content(self) -> dict[str, Any]:
        """Without the augmentation where it is not used, and without heads, which have a stage of their own."""
        unused = {"heads", "augmentation"} if self.views == 1 else {"heads"}
        return {name: value for name, value in super().content().items() if name not in unused}
