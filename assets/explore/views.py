"""What each page shows, as plain values; templates draw it, and know nothing of tables."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from assets.explore.drawing import Curve, Tree, curve, tree
from assets.explore.explorer import Explorer
from assets.explore.forest import Forest

GROUPS, PAIRS, ON_SHEET, ON_PAGE = 8, 4, 8, 48
"""Groups of a kind, pairs on each side of the threshold, images of a group on a sheet and on its own page."""

_CANDIDATES, _MEASURED = 24, 300
_FOUND, _NEAR, _CLUSTERS, _OF_CLUSTER, _GAPS = 60, 24, 40, 24, 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with its first caption; ``distance`` to the one that stays, ``kept`` whether it is that one, none where
    that is not known."""

    image: int
    caption: str | None = None
    distance: float | None = None
    kept: bool | None = None
    note: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """``reach``: of the images that were ``measured``, the distance of the farthest to the one that stays; none without
    embeddings."""

    image: int
    size: int
    reach: float | None
    measured: int
    pictures: list[Picture]

    @property
    def more(self) -> int:
        return self.size - len(self.pictures)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images that an edge of the forest joins."""

    left: Picture
    right: Picture
    distance: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtThreshold:
    """What a threshold does; ``grouped``: images in groups of two or more."""

    threshold: float
    removed: int
    images: int
    groups: int
    grouped: int
    largest_size: int
    curve: Curve
    under: list[Pair]
    over: list[Pair]
    largest: list[Group]
    widest: list[Group]

    @property
    def kept(self) -> int:
        return self.images - self.removed

    @property
    def share(self) -> float:
        return self.removed / max(self.images, 1)


class Views:
    """The pages of one opened root."""

    def __init__(self, explorer: Explorer):
        self._explorer, self._queries = explorer, explorer.queries

    def sections(self) -> list[tuple[str, str]]:
        """Names and titles of the pages whose tables are there."""
        tables = self._explorer.tables
        there = (
            ("pairs", "Worst pairs", {"caption_embeddings", "source_pairs"}),
            ("clusters", "Clusters", {"cluster_assignments"}),
            ("student", "Student", {"cluster_accuracy"}),
            ("leaks", "Leaks", {"evaluation_leaks"}),
            ("download", "Download", {"images"}),
        )
        return [(name, title) for name, title, needed in there if needed <= tables.files.keys()]

    def at(self, threshold: float) -> AtThreshold:
        """Needs a forest."""
        forest = self._forest()
        groups = forest.groups(threshold)
        under, over = forest.border(threshold, PAIRS)
        first, candidates = groups.largest(GROUPS), groups.longest(_CANDIDATES)
        # Most of the candidates are among the largest.
        made = {n: self._group(forest, groups.start[n], groups.end[n]) for n in {*first, *candidates}}
        largest, longest = [made[n] for n in first], [made[n] for n in candidates]
        # Without embeddings all of them stay in the order of their edges' lengths.
        widest = sorted(longest, key=lambda group: -(group.reach or 0))[:GROUPS]
        captions = self._queries.captions(
            [image for a, b, _ in (*under, *over) for image in (a, b)]
            + [picture.image for group in (*largest, *widest) for picture in group.pictures]
        )
        return AtThreshold(
            threshold=threshold,
            removed=forest.removed(threshold),
            images=forest.images,
            groups=len(groups),
            grouped=int(groups.size.sum()),
            largest_size=int(groups.size.max(initial=1)),
            curve=curve(forest, threshold),
            under=[_pair(pair, captions) for pair in under],
            over=[_pair(pair, captions) for pair in over],
            largest=[_with_captions(group, captions) for group in largest],
            widest=[_with_captions(group, captions) for group in widest],
        )

    def group(self, image: int, threshold: float) -> tuple[Group, Tree] | None:
        """The group that an image is in; none if it is alone."""
        forest = self._forest()
        place = forest.place_of(image)
        groups = forest.groups(threshold)
        number = None if place is None else groups.at(place)
        if number is None:
            return None
        start, end = int(groups.start[number]), int(groups.end[number])
        group = self._group(forest, start, end, shown=ON_PAGE)
        captions = self._queries.captions(picture.image for picture in group.pictures)
        return _with_captions(group, captions), tree(forest, start, end)

    def image(self, image: int) -> dict[str, Any] | None:
        """All that is known of one; none if no table has it."""
        facts = self._queries.facts(image)
        captions = self._queries.captions_of(image)
        stored = self._explorer.images is not None and image in self._explorer.images
        if not stored and not captions and not any(facts.values()):
            return None
        near = self._explorer.vectors.nearest(image, _NEAR) if self._explorer.vectors else []
        return {
            "captions": captions,
            "near": self._pictures(near),
            "stored": stored,
            "grouped": self._grouped(image),
            **facts,
        }

    def search(self, text: str) -> list[Picture]:
        """The first of the images with a caption that has all words."""
        return [Picture(image=row["image_id"], caption=row["caption"]) for row in self._queries.search(text, _FOUND)]

    def worst_pairs(self) -> list[Picture]:
        return [
            Picture(image=row["image_id"], caption=row["caption"], note=f"{row['similarity']:.3f}")
            for row in self._queries.worst_pairs(_FOUND)
        ]

    def clusters(self, page: int) -> dict[str, Any]:
        """The largest first, some at a time."""
        rows = self._queries.clusters(_CLUSTERS + 1, page * _CLUSTERS)
        captions = self._queries.captions(row["image_id"] for row in rows)
        shown = [row | {"caption": captions.get(row["image_id"])} for row in rows[:_CLUSTERS]]
        return {"rows": shown, "page": page, "more": len(rows) > _CLUSTERS}

    def cluster(self, cluster: int) -> dict[str, list[Picture]] | None:
        """Its images nearest to the center and farthest from it; none if it has none."""
        found = {
            name: self._queries.cluster(cluster, _OF_CLUSTER, nearest=name == "nearest")
            for name in ("nearest", "farthest")
        }
        if not found["nearest"]:
            return None
        return {
            name: self._pictures((row["image_id"], row["distance"]) for row in rows) for name, rows in found.items()
        }

    def download(self) -> list[dict[str, Any]]:
        return self._queries.download()

    def leaks(self) -> dict[str, Any]:
        rows = self._queries.leaks(_FOUND)
        captions = self._queries.captions(row["image_id"] for row in rows)
        shown = [row | {"caption": captions.get(row["image_id"])} for row in rows]
        return {"rows": shown, "found": self._queries.count("evaluation_leaks")}

    def student(self) -> dict[str, Any]:
        rows = self._queries.gaps(_GAPS)
        typical = self._queries.typical([row["cluster_id"] for row in rows])
        captions = self._queries.captions(typical.values())
        shown = [
            row | {"image": typical.get(row["cluster_id"]), "caption": captions.get(typical.get(row["cluster_id"], 0))}
            for row in rows
        ]
        return {"rows": shown, "stats": self._explorer.tables.stats.get("cluster_accuracy", {})}

    def _grouped(self, image: int) -> int | None:
        """How many images the group has that an image is in by default; none if it is alone or there is no forest."""
        forest = self._explorer.forest
        place = None if forest is None else forest.place_of(image)
        if forest is None or place is None:
            return None
        groups = forest.groups(self._explorer.default_threshold())
        number = groups.at(place)
        return None if number is None else int(groups.size[number])

    def _forest(self) -> Forest:
        assert self._explorer.forest is not None
        return self._explorer.forest

    def _pictures(self, found: Iterable[tuple[int, float]]) -> list[Picture]:
        rows = list(found)
        captions = self._queries.captions(image for image, _ in rows)
        return [Picture(image=image, caption=captions.get(image), distance=distance) for image, distance in rows]

    def _group(self, forest: Forest, start: int, end: int, *, shown: int = ON_SHEET) -> Group:
        """The image that stays, then the farthest ones, as the balance decides by its default rule.

        Of more images than are measured some are taken, evenly spread over the row of leaves.
        """
        size = int(end - start)
        few = forest.members(start, end)
        if size > _MEASURED:
            few = few[np.linspace(0, size - 1, _MEASURED).astype(np.int64)]
        found = self._explorer.vectors.center(few) if self._explorer.vectors else None
        if found is None:
            pictures = [Picture(image=int(image)) for image in few[:shown]]
            return Group(image=int(few.min()), size=size, reach=None, measured=0, pictures=pictures)
        ids, center, far = found
        order = [number for number in np.lexsort((ids, -far)) if ids[number] != center]
        pictures = [
            Picture(image=center, kept=True if size <= _MEASURED else None),
            *(Picture(image=int(ids[number]), distance=float(far[number]), kept=False) for number in order),
        ]
        return Group(
            image=int(forest.members(start, end).min()),
            size=size,
            reach=float(far.max()),
            measured=len(ids),
            pictures=pictures[:shown],
        )


def _pair(pair: tuple[int, int, float], captions: Mapping[int, str]) -> Pair:
    a, b, distance = pair
    left, right = (Picture(image=image, caption=captions.get(image)) for image in (a, b))
    return Pair(left=left, right=right, distance=distance)


def _with_captions(group: Group, captions: Mapping[int, str]) -> Group:
    pictures: Sequence[Picture] = group.pictures
    return dataclasses.replace(
        group,
        pictures=[dataclasses.replace(picture, caption=captions.get(picture.image)) for picture in pictures],
    )
