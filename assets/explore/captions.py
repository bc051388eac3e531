"""First captions in a file of their own, any of which can be read: a query would scan all of them for a few."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class CaptionFile:
    """Of each image the caption whose pair has the smallest id; thread-safe, since every read names its position. Holds
    20 bytes an image."""

    def __init__(self, batches: Iterable[pa.RecordBatch], path: Path):
        """Copies ``caption`` to ``path``; ``batches``: ``sample_id, image_id, caption``, none of them null, in any
        order."""
        samples, images, sizes = (list[np.ndarray]() for _ in range(3))
        with path.open("wb") as file:
            for batch in batches:
                samples.append(batch.column("sample_id").to_numpy().copy())
                images.append(batch.column("image_id").to_numpy().copy())
                texts = batch.column("caption")
                sizes.append(pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.int32))
                file.write("".join(texts.to_pylist()).encode())
        nothing = [np.empty(0, np.int64)]
        sample, image, size = (np.concatenate([*nothing, *parts]) for parts in (samples, images, sizes))
        start = np.cumsum(size) - size
        order = np.lexsort((sample, image))
        first = order[np.flatnonzero(np.diff(image[order], prepend=image[order][:1] - 1))]
        self.ids, self._start, self._size = image[first], start[first], size[first].astype(np.int32)
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def of(self, images: Iterable[int]) -> dict[int, str]:
        """The caption of each image that has one."""
        wanted = np.unique(np.array(list(images), np.int64))
        if not len(self.ids):
            return {}
        place = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        return {
            int(self.ids[at]): os.pread(self._file, int(self._size[at]), int(self._start[at])).decode()
            for at in place[self.ids[place] == wanted]
        }
