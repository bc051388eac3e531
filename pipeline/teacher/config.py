"""The section `teacher`."""

from pydantic import Field

from pipeline.core.settings import DEMO, Section


class TeacherConfig(Section):
    """The large CLIP. Default `demo`; the paper's is ViT-bigG-14, laion2b_s39b_b160k (second-hand, unconfirmed)."""

    model: str = Field(
        DEMO, description="`demo`, an open_clip model name, an open_clip folder, or a JSON model config file."
    )
    pretrained: str | None = Field(None, description="open_clip pretrained tag or checkpoint file.")
