"""The section `balance`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.settings import Section, renamed


class BalanceConfig(Section):
    """The image semantic balance: one image per group of near-duplicates stays."""

    rule: Literal["connected_components", "semdedup", "random"] = Field(
        "connected_components",
        description="`connected_components`: CLIP-CID's; `semdedup`: k-means cells, as in arXiv 2303.09540, to compare "
        "with; `random`: as many images as the first would remove, drawn by chance, as a control.",
    )
    threshold: float = Field(
        0.2,
        description="Euclidean distance up to which two images are neighbors; 0.2 suits the demo's teacher. "
        "DanQing (arXiv 2601.10305) uses 0.447 for CLIP-CID's step (proxy, unconfirmed).",
        gt=0,
        lt=2,
    )
    target_removal: float | None = Field(
        None,
        description="Share of images to remove; if given, the threshold is solved from it. The paper removed 0.437.",
        gt=0,
        lt=1,
    )
    max_distance_to_center: float | None = Field(
        None,
        description="Members farther than this from their center are released, that is kept. Not with rule `random`.",
        gt=0,
        lt=2,
        json_schema_extra=renamed(was="max_distance_to_centre"),
    )
    blocklist: list[str] = Field(
        [],
        description="Files of ids or URLs that must not be used: Parquet or CSV with a column `sample_id` or `url`, or "
        "text with one of either a line. Their content decides what is recomputed, not their names.",
    )
    cells: int = Field(
        16,
        description="Cells of rule `semdedup`. SemDeDup took 50,000 for LAION-440M, about 9,000 images a cell; 16 "
        "suits the demo (unconfirmed).",
        ge=1,
    )
    cell_iterations: int = Field(
        100, description="Lloyd iterations for these cells; 100 in SemDeDup's published configuration.", ge=1
    )
    seed: int = Field(0, description="Seed of the cells of `semdedup` and of the draw of `random` (unconfirmed).")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rule == "random" and self.max_distance_to_center is not None:
            raise ValueError("max_distance_to_center has no meaning with rule random: it would change its removal rate")
        return self

    def content(self) -> dict[str, Any]:
        """Without fields that the chosen rule does not read, and without the names of the blocklist's files: the stage
        adds a hash of what these hold."""
        unused = {
            "connected_components": {"cells", "cell_iterations", "seed"},
            "random": {"cells", "cell_iterations"},
            "semdedup": set(),
        }[self.rule]
        return {name: value for name, value in super().content().items() if name not in {*unused, "blocklist"}}
