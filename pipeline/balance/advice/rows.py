"""What is said of one threshold."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class BorderPair:
    """Two images that are an edge of the forest, with the first caption of each, if it has one."""

    image_a: int
    image_b: int
    distance: float
    caption_a: str | None
    caption_b: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdRow:
    """One threshold by the rule ``connected_components``; shares are of all images where nothing else is said.

    ``largest_merge``: of the pairs that joined two groups between the threshold of the row before and this one, the
    largest size of the smaller of the two. ``beyond_share``: share of the removed images that lie farther than the
    threshold from the image that stands for them; none where nothing is removed. ``similarity_*``: mean cosine of
    images and their captions, none without embeddings of captions. ``sampled``: ``beyond_share`` and the similarities
    are estimates from a sample of the groups. ``under``: the pairs of longest distance up to the threshold, ``over``:
    those of shortest beyond it, each from the threshold on.
    """

    threshold: float
    removed: int
    kept: int
    removed_share: float
    largest_group: int
    largest_group_share: float
    largest_merge: int
    beyond_share: float | None
    similarity_kept: float | None
    similarity_removed: float | None
    sampled: bool
    under: list[BorderPair] = dataclasses.field(repr=False)
    over: list[BorderPair] = dataclasses.field(repr=False)
