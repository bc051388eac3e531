"""The thresholds that are looked at, and the one that is proposed: the largest before groups chain.

Groups count as chained at a threshold t where one of two things is so:

1. More than ``tolerance`` of the removed images lie farther than t from the image that stands for them. Two images are
   near-duplicates if they are within t, so each of these has gone by a chain, not by being near to what is kept. Three
   such images or fewer say nothing.
2. A pair within t has joined two groups that each hold more than a hundredth of all images, and 20 at least. Copies of
   one image join a group one by one; groups of that size that meet are of different things, or nearly so.

What is proposed is the largest threshold without a sign of it at itself or any smaller one; of those that remove the
same images, the smallest. Both signs can be read without knowing what the images show, which is their limit: they say
that groups are tight, not that two images within t are the same thing. For that there are the pairs at the border.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.balance.advice.rows import ThresholdRow

TOLERANCE = 0.1
"""Share of the removed images that may be farther than the threshold from what stands for them."""

_FEW_BEYOND = 3
_LARGE_SHARE, _LARGE_IMAGES = 0.01, 20
_BY_DISTANCE, _BY_SHARE = 8, 8


def first_thresholds(distances: np.ndarray, reach: float) -> list[float]:
    """Eight thresholds evenly up to the reach, and up to eight that each remove as many images more.

    ``distances`` (E,): of the forest, ascending. Edges of length zero are not counted for the second: every threshold
    has them. Nor are thresholds that nearly stand among the first. All have three digits, to be written down.
    """
    positive = distances[distances > 0]
    # A forest of which nobody knows how far it was searched.
    end = reach if reach < 2 else float(distances[-1]) if len(positive) else 1.0
    even = [min(rounded(end * step / _BY_DISTANCE), end) for step in range(1, _BY_DISTANCE + 1)]
    places = {-(-len(positive) * step // (_BY_SHARE + 1)) - 1 for step in range(1, _BY_SHARE + 1) if len(positive)}
    shares = {min(rounded(float(positive[place])), end) for place in places}
    fresh = {threshold for threshold in shares if min(abs(threshold - other) for other in even) > end / 100}
    return sorted(threshold for threshold in {*even, *fresh} if 0 < threshold < 2)


def rounded(threshold: float) -> float:
    """To three digits."""
    return float(f"{threshold:.3g}")


def chaining(row: ThresholdRow, merge: int, images: int, tolerance: float) -> str | None:
    """What shows that groups have chained at a threshold, or none; ``merge``: the largest up to it, from zero on."""
    beyond = row.beyond_share or 0.0
    if beyond > tolerance and round(beyond * row.removed) > _FEW_BEYOND:
        about = "about " if row.sampled else ""
        return (
            f"{about}{beyond:.1%} of the removed images lie farther than that from the image that stands for "
            f"them, which is more than {100 * tolerance:g}%"
        )
    if merge >= _LARGE_IMAGES and merge > _LARGE_SHARE * images:
        return f"a single pair has joined {merge:,} images ({merge / images:.1%} of all) to a group as large or larger"
    return None


def first_chained(rows: Sequence[ThresholdRow], images: int, tolerance: float) -> tuple[int, str] | None:
    """The first of rows, by ascending threshold, at which groups have chained, and what shows it."""
    merge = 0
    for number, row in enumerate(rows):
        merge = max(merge, row.largest_merge)
        sign = chaining(row, merge, images, tolerance)
        if sign:
            return number, sign
    return None


def propose(rows: Sequence[ThresholdRow], images: int, tolerance: float) -> tuple[float | None, str]:
    """The proposed threshold, or none, and a sentence that says why."""
    if not any(row.removed for row in rows):
        return None, f"no threshold up to {rows[-1].threshold:g} removes an image: there is nothing to balance"
    found = first_chained(rows, images, tolerance)
    free = rows[: found[0]] if found else rows
    if not free or not free[-1].removed:
        assert found is not None
        return None, (
            f"no threshold is free of chaining: {rows[found[0]].threshold:g} is the smallest here that removes images, "
            f"and there {found[1]}"
        )
    last = free[-1]
    row = next(row for row in free if row.removed == last.removed)
    if found:
        same = "" if row is last else f", of those up to {last.threshold:g}, which remove the same, the smallest"
        return row.threshold, (
            f"{row.threshold:g} is the largest threshold here before groups chain{same}: at "
            f"{rows[found[0]].threshold:g}, {found[1]}"
        )
    same = "" if row is last else f"; {last.threshold:g} removes no image more"
    return row.threshold, (
        f"groups do not chain up to {last.threshold:g}, the largest threshold here{same}; look at the pairs, since "
        "what is near need not be the same"
    )
