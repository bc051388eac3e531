"""The section `balance`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.settings import Section, renamed

_SINCE_FIRST: dict[str, Any] = {"keep_by": [], "keep_per_group": 1, "captions": "own", "where": None}
_BY_CONTENT = {"blocklist", "keep_list", "decontaminate"}
_PAPER = 0.437
# What fingerprints have for a threshold that is not given: the default of the first versions.
_FIRST_THRESHOLD = 0.2


class DecontaminateConfig(Section):
    """Images of the test splits of evaluation sets, and what is near to them, are not trained on."""

    datasets: list[str] = Field(
        [],
        description="Evaluation sets, as in `evaluation.datasets`: `demo`, or folders. Training images that are near "
        "to one of their test images are listed in evaluation_leaks and left out by the balance. None are by default.",
    )
    threshold: float = Field(
        0.1,
        description="Euclidean distance up to which a training image counts as a copy of a test image; 0.1 suits the "
        "demo's teacher. Smaller than that of the balance: other images of the same thing are no leaks.",
        gt=0,
        lt=2,
    )


class BalanceConfig(Section):
    """The image semantic balance: one image per group of near-duplicates stays."""

    rule: Literal["connected_components", "bounded", "semdedup", "random"] = Field(
        "connected_components",
        description="`connected_components`: CLIP-CID's; `bounded`: these, cut at their longest edges until every "
        "member lies within max_distance_to_center of the image that is kept; `semdedup`: k-means cells, as in arXiv "
        "2303.09540, to compare with; `random`: as many images as the first would remove, drawn by chance, as a "
        "control.",
    )
    threshold: float | None = Field(
        None,
        description="Euclidean distance up to which two images are neighbors; another teacher needs another. DanQing "
        "(arXiv 2601.10305) uses 0.447 for CLIP-CID's step (proxy, unconfirmed). None: solved from a share to remove.",
        gt=0,
        lt=2,
    )
    target_removal: float | None = Field(
        None,
        description="Share of images to remove, from which the threshold is solved, in its place. With neither of both "
        "it is 0.437, what the paper removed of LAION-400M: a property of that data and its teacher, no goal for "
        "other data (`clip-cid advise` proposes).",
        gt=0,
        lt=1,
    )
    max_distance_to_center: float | None = Field(
        None,
        description="Members farther than this from the image that stands for them are released, that is kept. With "
        "rule `bounded` groups are cut until none is; there, none means the threshold. Not with rule `random`.",
        gt=0,
        lt=2,
        json_schema_extra=renamed(was="max_distance_to_centre"),
    )
    keep_by: list[str] = Field(
        [],
        description="Which image of a group stays: the first by these terms of DuckDB's ORDER BY, such as "
        "[original_width * original_height DESC, image_text_similarity DESC], ties by id; none means the central one. "
        "Not with rule `random`.",
    )
    keep_per_group: int = Field(
        1, description="How many images of a group stay. More than 1 not with rules `semdedup` and `random`.", ge=1
    )
    captions: Literal["own", "group"] = Field(
        "own",
        description="`own`: a kept image has the captions that it came with; `group`: those of the images that it "
        "stands for too, each text once.",
    )
    where: str | None = Field(
        None,
        description="DuckDB expression over what is known of a pair (attributes, scores, width, height, status, "
        "image_text_similarity...), which must be true for pairs that are used. Others are listed in filtered_pairs.",
    )
    blocklist: list[str] = Field(
        [],
        description="Files of what must not be used: Parquet or CSV with columns `image_id`, `sample_id`, `url`, "
        "`host`, `sha256` or `md5`, or text with an id, URL, hash or `host:` name a line. Their content decides what "
        "is recomputed, not their names.",
    )
    keep_list: list[str] = Field(
        [],
        description="Files of `uid`, beside which no pair is used: `.npy` as DataComp has it, Parquet with a column "
        "`uid`, or text. Needs `uid` among `source.columns`. Others are listed in filtered_pairs.",
    )
    decontaminate: DecontaminateConfig = DecontaminateConfig()
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
        if self.threshold is not None and self.target_removal is not None:
            raise ValueError(
                f"threshold {self.threshold:g} and target_removal {self.target_removal:g} are both given, and the "
                "threshold would be solved from the share: give one, and leave the other out or null"
            )
        if self.rule == "random" and self.max_distance_to_center is not None:
            raise ValueError("max_distance_to_center has no meaning with rule random: it would change its removal rate")
        if self.rule == "random" and self.keep_by:
            raise ValueError("keep_by has no meaning with rule random: chance says which images stay")
        if self.rule in ("semdedup", "random") and self.keep_per_group > 1:
            raise ValueError(
                f"keep_per_group {self.keep_per_group} is for rules connected_components and bounded, not {self.rule}"
            )
        return self

    @property
    def removal(self) -> float | None:
        """The share of images for which the threshold is solved; None where the threshold is given."""
        if self.target_removal is None and self.threshold is None:
            return _PAPER
        return self.target_removal

    def farthest(self, threshold: float) -> float | None:
        """The distance within which every removed image has the one that stands for it; none if nothing says so."""
        if self.max_distance_to_center is None and self.rule == "bounded":
            return threshold
        return self.max_distance_to_center

    def content(self) -> dict[str, Any]:
        """Without fields that the chosen rule does not read, and without the names of files of lists and of evaluation
        sets: the stage adds a hash of what these hold, or of what was found in them."""
        unused = {
            "connected_components": {"cells", "cell_iterations", "seed"},
            "bounded": {"cells", "cell_iterations", "seed"},
            "random": {"cells", "cell_iterations"},
            "semdedup": set(),
        }[self.rule]
        unchanged = {name for name, default in _SINCE_FIRST.items() if getattr(self, name) == default}
        left_out = {*unused, *unchanged, *_BY_CONTENT}
        aim = {"threshold": self.threshold or _FIRST_THRESHOLD, "target_removal": self.removal}
        return {name: value for name, value in {**super().content(), **aim}.items() if name not in left_out}
