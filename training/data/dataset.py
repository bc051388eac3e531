"""Training samples from WebDataset tars: exactly resumable batches, read and decoded only as far as terms need."""

import functools
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.clip.preprocessing import Preprocessing
from pipeline.clip.views import View, apply_view
from pipeline.core import parquet
from pipeline.core.errors import EmbeddingError, ShardError
from pipeline.core.remote_tar import image_of, open_tar
from pipeline.core.tars import TarReader, read_index
from training.data.held_out import HeldOut
from training.data.order import WINDOW_SHARDS
from training.losses.active import Needs

# A data set whose decoded samples fit is decoded once per process; a larger one is decoded anew in every epoch.
_CACHE_BYTES = 256 << 20
_PREFLIGHT_SHARDS = 16


class TrainingSet:
    """Samples of a shard folder by ``(shard, row)``, decoded for the student.

    ``folder`` holds ``<shard>.tar``, ``index`` holds ``<shard>.parquet`` (``schema.TAR_INDEX``). ``preprocessing``
    is the student's own, ``tokenizer`` maps a list of captions to ``(N, L)``. ``teacher_dim``: width that teacher
    embeddings must have; ``clusters``: number that labels must stay below; none leaves them unchecked. ``views``: views
    that each sample has, of which one at a time stands for its image; 1 for the image as it is. ``seed`` is that of the
    draw among an image's captions, which are those of the index (a column ``captions``), else of the member ``json``,
    else the member ``txt``, and decides which ``held_out_samples`` the set is without, or has alone if ``held_out``.
    Raises :class:`ShardError` if an index or tar is missing, :class:`ConfigError` if there are not as many samples.
    """

    def __init__(
        self,
        folder: Path,
        index: Path,
        *,
        needs: Needs,
        preprocessing: Preprocessing,
        tokenizer: Callable[[list[str]], Tensor],
        teacher_dim: int | None = None,
        clusters: int | None = None,
        views: int = 1,
        seed: int = 0,
        held_out_samples: int = 0,
        held_out: bool = False,
    ):
        self._indexes = sorted(index.glob("*.parquet"))
        if not self._indexes:
            raise ShardError(f"{index}: no index of training shards (<shard>.parquet) there")
        self._tars = [folder / f"{path.stem}.tar" for path in self._indexes]
        missing = [path for path, at in zip(self._tars, self._indexes) if not path.is_file() and not _elsewhere(at)]
        if missing:
            raise ShardError(f"{len(missing)} of {len(self._tars)} training shards are missing, e.g. {missing[0]}")
        rows = [self._rows(path) for path in self._indexes]
        self._held_out, self._is_held_out = HeldOut(rows, samples=held_out_samples, seed=seed), held_out
        self.shard_rows = self._held_out.rows(held_out)
        self.preprocessing, self._needs, self._tokenizer = preprocessing, needs, tokenizer
        self._teacher_dim, self._clusters, self.views, self._seed = teacher_dim, clusters, views, seed
        self._index = functools.lru_cache(maxsize=2 * WINDOW_SHARDS)(self._read_index)
        self._reader = functools.lru_cache(maxsize=2 * WINDOW_SHARDS)(self._open)
        self._cache: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._cacheable: bool | None = None

    def __len__(self) -> int:
        return sum(self.shard_rows)

    @property
    def shards(self) -> list[str]:
        """Their names, in the order of their numbers."""
        return [path.stem for path in self._indexes]

    def image_ids(self, shard: int) -> np.ndarray:
        """``(rows,)`` int64: the images of a shard."""
        return np.asarray(self._index(shard)[0])

    def sample(self, shard: int, row: int, view: int = 0, *, epoch: int = 0) -> dict[str, Any]:
        """One sample: ``image_id``, ``pixels`` (H, W, 3) uint8, ``text`` and what the terms need.

        Of several captions the one of this epoch is taken, with its teacher embedding. Where there are views, image and
        teacher embedding are those of number ``view``: the same cut, mirror and colors as the teacher was shown.

        Raises :class:`ShardError` that names the members found where one is missing or cannot be decoded, or that has a
        label without centroid, and :class:`EmbeddingError` for a teacher embedding that is not a finite vector of the
        teacher's width. Each names tar and key.
        """
        return self.samples([(shard, row, view)], epoch=epoch)[0]

    def samples(self, places: Sequence[tuple[int, int, int]], *, epoch: int = 0) -> list[dict[str, Any]]:
        """:meth:`sample` of each ``(shard, row, view)``, whose captions are tokenized in one go."""
        found = {place: self._cache.get(place) or self._read(*place) for place in places}
        new = [decoded for place, decoded in found.items() if place not in self._cache]
        drawn = {place: caption_of(decoded, self._seed, epoch) for place, decoded in found.items()}
        if new and self._all_fit(new[0]):
            self._tokenize([(decoded, number) for decoded in new for number in range(len(decoded["captions"]))])
            self._cache |= found
        else:
            self._tokenize([(found[place], number) for place, number in drawn.items()])
        return [_with_caption(found[place], drawn[place]) for place in places]

    def caption(self, shard: int, row: int) -> str:
        """The caption whose tokens :meth:`sample` gives in the first epoch; raises as that does."""
        decoded = self._read(shard, row, 0)
        return str(decoded["captions"][caption_of(decoded, self._seed, 0)])

    def sample_bytes(self) -> int:
        """Of a decoded sample: shapes are equal for all, so any one tells."""
        shard = next(shard for shard, rows in enumerate(self.shard_rows) if rows)
        return _bytes_of(self.sample(shard, 0))

    def _tokenize(self, wanted: Sequence[tuple[dict[str, Any], int]]) -> None:
        """Add tokens of captions, by number, to samples that lack them."""
        lacking = [(decoded, number) for decoded, number in wanted if number not in decoded["tokens"]]
        if lacking:
            tokens = self._tokenizer([decoded["captions"][number] for decoded, number in lacking])
            for (decoded, number), text in zip(lacking, tokens):
                decoded["tokens"][number] = text

    def _all_fit(self, decoded: dict[str, Any]) -> bool:
        """Whether the cache holds the whole set."""
        if self._cacheable is None:
            self._cacheable = len(self) * self.views * _bytes_of(decoded) <= _CACHE_BYTES
        return self._cacheable

    def _read(self, shard: int, row: int, view: int) -> dict[str, Any]:
        """A sample with all its ``captions``, their ``tokens`` to come, and a row of ``teacher_text`` for each."""
        image_id, key, offset, size, crc32, captions = (column[row] for column in self._index(shard))
        members, where = self._reader(shard).sample(int(offset), int(size), crc32), f"{self._tars[shard]}, key {key}"
        decoded = {"image_id": int(image_id), "tokens": {}, **self._decode(members, where, view, captions)}
        described = decoded.get("teacher_text")
        if described is not None and len(described) != len(decoded["captions"]):
            raise EmbeddingError(f"{where}: {len(described)} embeddings of {len(decoded['captions'])} captions")
        return decoded

    def _decode(self, members: dict[str, bytes], where: str, view: int, captions: list[str] | None) -> dict[str, Any]:
        try:
            image, embedding = _open_image(image_of(members)), "image.npy"
            if self.views > 1:
                image, embedding = _show(image, members["json"], where, view, self.views), "views.npy"
            decoded: dict[str, Any] = {
                "pixels": torch.from_numpy(self.preprocessing.pixels(image).copy()),
                "captions": captions or _captions(members),
            }
            if self._needs.teacher_image:
                number = view if self.views > 1 else None
                decoded["teacher_image"] = _read_embedding(members[embedding], where, self._teacher_dim, number)
            if self._needs.teacher_text:
                decoded["teacher_text"] = _read_embeddings(members["text.npy"], where, self._teacher_dim)
            if self._needs.cluster_id:
                decoded["cluster_id"] = _read_cluster_id(members["json"], where, self._clusters)
        except KeyError as error:
            names = ", ".join(sorted(members)) or "none"
            raise ShardError(f"{where}: member {error} is missing; members found: {names}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ShardError(f"{where}: cannot be decoded: {error}") from error
        return decoded

    def _read_index(self, shard: int) -> tuple[Any, ...]:
        table = read_index(self._indexes[shard])
        ids = table["image_id"].to_numpy()
        if len(np.unique(ids)) != len(ids):
            raise ShardError(f"{self._indexes[shard]}: an image_id occurs more than once in this shard")
        table = table.filter(pa.array(self._held_out.mask(shard, ids) == self._is_held_out))
        ids = table["image_id"].to_numpy()
        places = table["offset"].to_numpy(), table["size"].to_numpy(), table["crc32"].to_pylist()
        captions = table["captions"].to_pylist() if "captions" in table.column_names else [None] * len(ids)
        return ids, table["key"].to_pylist(), *places, captions

    @staticmethod
    def _rows(path: Path) -> int:
        with parquet.reading(path):
            return int(pq.read_metadata(path).num_rows)

    def _open(self, shard: int) -> TarReader:
        path = self._tars[shard]
        # Images that were there before are read where they lie.
        tar = None if path.is_file() else _elsewhere(self._indexes[shard])
        return TarReader(path) if tar is None else open_tar(path.parent.parent, path.stem, tar)


def preflight(samples: TrainingSet) -> None:
    """Decode a few samples from all over the data, before anything slow or dear is started.

    Raises :class:`ShardError` if there is none, and what :meth:`TrainingSet.sample` raises.
    """
    filled = [shard for shard, rows in enumerate(samples.shard_rows) if rows]
    if not filled:
        raise ShardError("the training shards hold no sample")
    step = -(-len(filled) // _PREFLIGHT_SHARDS)
    for shard in filled[::step]:
        for row in {0, samples.shard_rows[shard] - 1}:
            samples.sample(shard, row)


def caption_of(decoded: Mapping[str, Any], seed: int, epoch: int) -> int:
    """Which of its captions an image has in an epoch: each in turn, from one that seed and id decide."""
    count = len(decoded["captions"])
    if count == 1:
        return 0
    first = int.from_bytes(hashlib.blake2b(f"{seed}:{decoded['image_id']}".encode(), digest_size=8).digest(), "little")
    return (first + epoch) % count


def _with_caption(decoded: dict[str, Any], number: int) -> dict[str, Any]:
    """What the loader is given: one of the captions, and its embedding."""
    sample = {name: value for name, value in decoded.items() if name not in ("captions", "tokens")}
    sample["text"] = decoded["tokens"][number]
    if "teacher_text" in decoded:
        sample["teacher_text"] = decoded["teacher_text"][number]
    return sample


def _captions(members: Mapping[str, bytes]) -> list[str]:
    found = json.loads(members["json"]).get("captions") if "json" in members else None
    return found or [members["txt"].decode()]


def _elsewhere(index: Path) -> str | None:
    """Where the tar of an index lies, if the index says so."""
    table = read_index(index)
    return table["tar"][0].as_py() if table.num_rows else None


def _bytes_of(decoded: dict[str, Any]) -> int:
    tokens = sum(text.nbytes for text in decoded.get("tokens", {}).values())
    return tokens + sum(value.nbytes for value in decoded.values() if isinstance(value, Tensor))


def _open_image(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data))


def _show(image: Any, facts: bytes, where: str, view: int, views: int) -> Any:
    """The view of an image that the teacher was shown."""
    made = json.loads(facts).get("views", [])
    if len(made) != views:
        raise ShardError(f"{where}: its .json has {len(made)} views, the manifest says {views}")
    return apply_view(image.convert("RGB"), View(**made[view]))


def _read_embedding(data: bytes, where: str, teacher_dim: int | None, view: int | None = None) -> Tensor:
    """A vector; or row ``view`` of a matrix with a row for each view."""
    try:
        vector = _read_npy(data)
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        raise EmbeddingError(f"{where}: teacher embedding is not an .npy array: {error}") from error
    if view is not None and vector.ndim == 2 and view < len(vector):
        vector = vector[view]
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise EmbeddingError(f"{where}: teacher embedding of shape {vector.shape} is not a finite vector")
    if teacher_dim is not None and len(vector) != teacher_dim:
        raise EmbeddingError(f"{where}: teacher embedding has shape {vector.shape}, expected ({teacher_dim},)")
    return torch.from_numpy(vector)


def _read_embeddings(data: bytes, where: str, teacher_dim: int | None) -> Tensor:
    """A row for each caption; a vector is that of the only one."""
    try:
        matrix = _read_npy(data)
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        raise EmbeddingError(f"{where}: teacher embedding is not an .npy array: {error}") from error
    if matrix.ndim not in (1, 2) or not matrix.size or not np.isfinite(matrix).all():
        raise EmbeddingError(f"{where}: teacher embedding of shape {matrix.shape} is not a finite vector")
    if teacher_dim is not None and matrix.shape[-1] != teacher_dim:
        raise EmbeddingError(f"{where}: teacher embedding has shape {matrix.shape}, expected ({teacher_dim},)")
    return torch.from_numpy(np.atleast_2d(matrix))


def _read_npy(data: bytes) -> np.ndarray:
    """``numpy.load``, which takes longer to parse a header than to read a vector: equal headers are parsed once."""
    length = 10 + int.from_bytes(data[8:10], "little")
    dtype, shape = _npy_header(data[:length])
    if dtype is None or len(data) - length != dtype.itemsize * math.prod(shape):
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    return np.frombuffer(data, dtype, offset=length).reshape(shape).copy()


@functools.lru_cache(maxsize=64)
def _npy_header(header: bytes) -> tuple[np.dtype[Any] | None, tuple[int, ...]]:
    """Type and shape of a plain vector of format 1.0; no type for any other array."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        return None, ()
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    return (None if fortran or dtype.hasobject else dtype), shape


def _read_cluster_id(data: bytes, where: str, clusters: int | None) -> int:
    content = json.loads(data)
    if "cluster_id" not in content:
        raise ShardError(f"{where}: its .json has no cluster_id, only {', '.join(sorted(content))}")
    cluster_id = int(content["cluster_id"])
    if clusters is not None and not 0 <= cluster_id < clusters:
        # Divided centroids would not notice: none of the ranks would hold the label's.
        raise ShardError(f"{where}: cluster_id {cluster_id} is none of the {clusters} centroids")
    return cluster_id
