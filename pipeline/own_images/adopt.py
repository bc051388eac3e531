"""``own_images`` to ``images``: of tars an index of where they lie; other images are packed into tars, as they are."""

import dataclasses
import hashlib
import io
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.errors import MissingInputError, brief
from pipeline.core.files import fingerprint_of
from pipeline.core.remote_tar import image_of, open_tar
from pipeline.core.tars import Place as InTar
from pipeline.download.resize import Resizer
from pipeline.own_images.config import OwnImages
from pipeline.own_images.find import place_of
from pipeline.own_images.folder import read_file
from pipeline.own_images.parquet import read_rows
from pipeline.own_images.samples import Header, image_header, not_an_image
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage
from pipeline.web.outcomes import SUCCESS

FAILED_TO_READ = "failed_to_read"
"""A status beside those of the download: the image was listed, and cannot be read now that it is packed."""

# Images whose bytes are held at a time.
_TOGETHER = 64


def adopt_images(root: Path, config: OwnImages, resizer: Resizer | None = None) -> StageResult:
    """Stage ``images`` for images that are there: a table and an index per shard, and a tar where none is adopted.

    Tars stay where they are: their samples are only pointed to, unless a ``resizer`` is given, through which then all
    images go. An image that fails has a status, as in a download.
    """
    root = Path(root)
    source = read_result(root, "source_pairs")
    own, pairs = ({path.stem: path for path in source.parquet(name)} for name in ("own_images", "source_pairs"))
    if not own:
        raise MissingInputError(f"stage 'source_pairs' under {root} was made from lists, not from images; run it again")
    # Of what these were before images were purged from them.
    own_digests, pairs_digests = source.file_digests("own_images"), source.file_digests("source_pairs")
    inputs = {
        shard: fingerprint_of(own_digests[shard], None if _adopted(path, resizer) else pairs_digests[shard])
        for shard, path in own.items()
    }
    resize = dataclasses.asdict(resizer) if resizer else None
    stage = Stage(root, "images", version=3, config={"own_images": True, "resize": resize}, inputs=inputs)

    def write(output: Output) -> None:
        table = parquet.read_table(own[output.shard])
        if _is_tar(table) and resizer is None:
            _point_to(table, output)
        else:
            captions = _first_captions(parquet.read_table(pairs[output.shard]))
            _Packing(root, config, resizer, output).pack(table, captions)

    return stage.each(write)


def _adopted(own: Path, resizer: Resizer | None) -> bool:
    """Whether a shard is pointed to; where images are packed, captions go with them."""
    return resizer is None and _is_tar(parquet.read_table(own, columns=["offset"]))


def _is_tar(table: pa.Table) -> bool:
    return bool(table["offset"].null_count == 0)


def _point_to(table: pa.Table, output: Output) -> None:
    """Write table and index of samples in a tar that stays where it is.

    With it goes what tells the tar from one that took its place: what is made from another tar is made anew.
    """
    identity = {"identity": str(table["identity"][0])}
    found = {"original_width": table["width"], "original_height": table["height"]}
    images = _columns(schema.IMAGES, table, status=[SUCCESS] * table.num_rows, **found)
    index = _columns(schema.TAR_INDEX, table, tar=table["path"])
    _write(output, *(made.replace_schema_metadata(identity) for made in (images, index)))


def _columns(wanted: pa.Schema, table: pa.Table, **given: Any) -> pa.Table:
    """The columns of a schema, from what is given, else from a table, else null."""
    rows = table.num_rows
    columns = [
        given[field.name]
        if field.name in given
        else table[field.name]
        if field.name in table.column_names
        else pa.nulls(rows, field.type)
        for field in wanted
    ]
    return pa.table(dict(zip(wanted.names, columns))).cast(wanted)


def _write(output: Output, images: pa.Table, index: pa.Table) -> None:
    parquet.write_table(index, output.path(f"images/index/{output.shard}.parquet"))
    parquet.write_table(images, output.path(f"images/{output.shard}.parquet"), compression="zstd")
    statuses = Counter(images["status"].to_pylist())
    adopted = statuses.pop(SUCCESS, 0)
    output.rows = images.num_rows
    output.stats = {"adopted": adopted, "failed": images.num_rows - adopted, **dict(sorted(statuses.items()))}


def _first_captions(pairs: pa.Table) -> dict[int, str]:
    """The caption of the smallest ``sample_id`` of each image, in whose order they are."""
    captions: dict[int, str] = {}
    for image_id, caption in zip(pairs["image_id"].to_pylist(), pairs["caption"].to_pylist()):
        captions.setdefault(image_id, caption)
    return captions


class _Packing:
    """The images of one shard on their way into a tar of ours."""

    def __init__(self, root: Path, config: OwnImages, resizer: Resizer | None, output: Output):
        self._root, self._config, self._resizer, self._output = root, config, resizer, output

    def pack(self, table: pa.Table, captions: dict[int, str]) -> None:
        shard = self._output.shard
        digits = max(4, len(str(table.num_rows - 1)))
        rows = [
            row
            | {"shard": shard, "key": f"{shard}{n:0{digits}d}"}
            | {"original_width": row["width"], "original_height": row["height"]}
            for n, row in enumerate(table.to_pylist())
        ]
        index: list[dict[str, Any]] = []
        with self._output.path(f"images/{shard}.tar").open("wb") as tar:
            for row, content in self._contents(rows):
                members = self._members(row, content, captions[row["image_id"]])
                if members:
                    index.append({"image_id": row["image_id"], "key": row["key"], **append(tar, row["key"], members)})
            tar.write(bytes(2 * tarfile.BLOCKSIZE))
            tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
        images = pa.Table.from_pylist([{name: row.get(name) for name in schema.IMAGES.names} for row in rows])
        _write(self._output, images.cast(schema.IMAGES), pa.Table.from_pylist(index, schema=schema.TAR_INDEX))

    def _contents(self, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes | Exception]]:
        for start in range(0, len(rows), _TOGETHER):
            some = rows[start : start + _TOGETHER]
            yield from zip(some, self._read(some))

    def _read(self, rows: list[dict[str, Any]]) -> list[bytes | Exception]:
        """Images as they lie there, or why one cannot be read."""
        first = rows[0]
        if first["row"] is not None:
            return read_rows(place_of(first["path"], self._root), [row["row"] for row in rows], self._config)
        if first["offset"] is None:
            return [read_file(place_of(row["path"], self._root)) for row in rows]
        reader = open_tar(self._root, first["shard"], first["path"])
        return [image_of(found) for found in reader.samples([InTar(row["offset"], row["size"]) for row in rows])]

    def _members(self, row: dict[str, Any], content: bytes | Exception, caption: str) -> dict[str, bytes]:
        """The members of a sample; none of one that fails, whose row says why."""
        row |= {"sha256": None, "width": None, "height": None}
        try:
            if isinstance(content, Exception):
                raise _FailedError(FAILED_TO_READ, brief(content))
            row["sha256"] = hashlib.sha256(content).hexdigest()
            header, content = self._stored(content)
        except _FailedError as error:
            row |= {"status": error.status, "error": str(error)}
            return {}
        row |= {"status": SUCCESS, "width": header.width, "height": header.height}
        told = {name: row[name] for name in ("image_id", "key", "url", "sha256", "width", "height")}
        return {
            header.extension: content,
            "txt": caption.encode(),
            "json": json.dumps(told | {"caption": caption}, ensure_ascii=False).encode(),
        }

    def _stored(self, content: bytes) -> tuple[Header, bytes]:
        """What is stored of an image: all as it is, or what the resizer makes of it."""
        if self._resizer is None:
            header = image_header(content)
            if header is None:
                raise _FailedError(FAILED_TO_READ, not_an_image(content))
            return header, content
        jpeg, width, height, _, _, fault = self._resizer(io.BytesIO(content))
        if jpeg is None or width is None or height is None:
            status, _, error = str(fault)[1:].partition("] ")
            raise _FailedError(status, error)
        return Header("jpg", width, height), jpeg


class _FailedError(Exception):
    """An image is not stored, with the status that it will have."""

    def __init__(self, status: str, error: str):
        super().__init__(error)
        self.status = status


def append(tar: IO[bytes], key: str, members: dict[str, bytes]) -> dict[str, int]:
    """Write a sample at the end of a tar; returns where it lies and what it sums to."""
    offset, checksum = tar.tell(), 0
    for extension, content in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size, info.mode = len(content), 0o444
        tar.write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE))
        checksum = zlib.crc32(content, zlib.crc32(extension.encode(), checksum))
    return {"offset": offset, "size": tar.tell() - offset, "crc32": checksum}
