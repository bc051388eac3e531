"""Settings of the built-in corpus and of the teacher that is trained on such images."""

from pydantic import Field

from pipeline.core.settings import Section, runtime


class DemoTeacherConfig(Section):
    """Training of the demo's teacher: contrastive loss alone, on images of its own."""

    images_per_concept: int = Field(
        20, description="Images rendered for each of the 720 concepts, apart from the corpus and the test set.", ge=1
    )
    concepts_per_batch: int = Field(
        240,
        description="Pairs in one batch, each of another concept, so that no caption fits two images of a batch.",
        ge=2,
        le=720,
    )
    steps: int = Field(330, description="Optimizer steps.", ge=1)
    learning_rate: float = Field(3e-3, description="Peak learning rate of AdamW, one-cycle schedule.", gt=0)
    weight_decay: float = Field(0.1, description="Decay of weight matrices.", ge=0)
    threads: int = runtime(0, "torch threads while training; 0 leaves torch's own choice.", ge=0)


class DemoConfig(Section):
    """The built-in corpus. Shares are of `pairs` unless said otherwise."""

    pairs: int = Field(6000, description="Rows of the list, dead links and exact repeats included.", ge=20)
    seed: int = Field(0, description="Seed of everything that is rendered or written.", ge=0)
    tail_exponent: float = Field(
        1.0, description="Exponent a of the Zipf-Mandelbrot law 1 / (rank + b)^a over concepts; 0 is uniform.", ge=0
    )
    tail_offset: float = Field(
        10.0, description="Offset b of that law, in ranks: larger means less of the commonest concept.", ge=0
    )
    near_duplicate_share: float = Field(
        0.4, description="Share of the working pairs that are variations of another one.", ge=0, lt=1
    )
    exact_repeat_share: float = Field(0.02, description="Share of rows that repeat url and caption.", ge=0, lt=0.5)
    dead_link_share: float = Field(
        0.03, description="Share of links that give no image: missing, HTML, or a truncated file.", ge=0, lt=0.5
    )
    evaluation_train_images: int = Field(3, description="Images per class of the evaluation set's train split.", ge=1)
    evaluation_test_images: int = Field(2, description="Images per class of the evaluation set's test split.", ge=1)
    teacher: DemoTeacherConfig = DemoTeacherConfig()
