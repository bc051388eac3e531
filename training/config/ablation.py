"""The section `ablation`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.core.settings import Section


class AblationConfig(Section):
    """The grid of the ablation: every choice of data with every choice of losses, for every seed."""

    data: list[Literal["all", "random", "balanced"]] = Field(
        ["all", "random", "balanced"], description="`random` has as many pairs as `balanced`."
    )
    losses: list[
        Literal[
            "contrastive",
            "cluster",
            "instance",
            "both",
            "feature",
            "label",
            "label_8",
            "relation",
            "gradient",
            "relation_cluster",
            "best",
            "configured",
        ]
    ] = Field(
        ["contrastive", "cluster", "instance", "both", "feature", "configured"],
        description="Terms beside the contrastive one, weighted as the student: none, `cluster`, the cross-entropies "
        "of `instance`, `both`, mean squared error alone (`feature`, as in CLIP-KD), or all as configured. Weighted 1: "
        "the cluster label (`label`; `label_8` with eight positives), the divergence of `relation`, its `gradient`, "
        "`relation_cluster`; and `best`: as configured, with what that preset sets.",
    )
    seeds: list[int] = Field([0, 1, 2], description="Seeds of weights and of the order of samples.", min_length=1)
    steps: int | None = Field(
        None, description="Steps of every cell at equal steps, and of all pairs; none means the student's.", ge=1
    )
    axis: list[Literal["steps", "epochs"]] = Field(
        ["steps"],
        description="What is equal in all cells: optimizer steps, or epochs, so that half the pairs have half the "
        "steps. A cell that is the same on both is trained once.",
        min_length=1,
    )
    epochs: float | None = Field(
        None,
        description="Passes over its pairs of each cell at equal epochs; none means those that `steps` make over all.",
        gt=0,
    )
    measure_every: int | None = Field(
        None,
        description="Measure each cell's student after every so many steps too, for curves over steps and time; its "
        "checkpoints of these steps are kept until then. None measures it at its end alone.",
        ge=1,
    )
    tasks: list[Literal["zero_shot", "linear_probe", "retrieval"]] = Field(
        ["zero_shot"], description="What each cell's student is measured by."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.epochs is not None and "epochs" not in self.axis:
            raise ValueError(f"epochs {self.epochs:g} is for cells of equal epochs, and axis is {self.axis}")
        return self
