"""A folder of images and captions beside them: listed once, read where no URL names an image."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.core.errors import SourceError, brief
from pipeline.own_images.attributes import carry, told_of
from pipeline.own_images.config import CAPTION_KEYS, EXTENSIONS, OwnImages
from pipeline.own_images.find import Place, Source, is_foreign
from pipeline.own_images.samples import name_samples, samples_table, texts_of, url_of

_TABLES = ("metadata.jsonl", "metadata.csv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """An image in a folder: ``key`` is its path from there, ``told`` what a table of the folder says of it, ``text``
    the file with its caption."""

    key: str
    image: Place | None
    text: Place | None = None
    told: Mapping[str, Any] | None = None


def list_pictures(folder: Source, carried: Sequence[str] = ()) -> tuple[list[Picture], dict[str, int]]:
    """Images of a folder and of those below it by name, and counts of other files and of rows that say of an image that
    has one already something else in a carried column, of which the first row decides.

    Raises :class:`SourceError` for a table of captions that cannot be read.
    """
    root = folder.path.rstrip("/") + "/"
    files = {place.path.removeprefix(root): place for place in folder.files if not is_foreign(place.path)}
    told: dict[str, dict[str, Any]] = {}
    conflicts = 0
    tables = [name for name in files if PurePosixPath(name).name in _TABLES]
    for name in tables:
        beside = PurePosixPath(name).parent
        for row in _rows(files[name]):
            if not isinstance(row.get("file_name"), str):
                raise SourceError(f"{files[name].name}: no file_name in {list(row)[:8]}; it names the image of a row")
            key = (beside / row["file_name"]).as_posix()
            # A file that stands there twice has the captions of both rows.
            first = told.setdefault(key, row)
            if first is not row:
                conflicts += any(row.get(column) != first.get(column) for column in carried)
                told[key] = _joined(first, row, carried)
    texts = {name.removesuffix(".txt"): place for name, place in files.items() if name.endswith(".txt")}
    images = {name: place for name, place in files.items() if PurePosixPath(name).suffix.lower()[1:] in EXTENSIONS}
    pictures = [
        Picture(key=name, image=images.get(name), text=texts.get(name.rpartition(".")[0]), told=told.get(name))
        for name in sorted({*images, *told})
    ]
    used = {picture.text.path for picture in pictures if picture.text}
    passed_over = len(folder.files) - len(images) - len(used) - len(tables)
    return pictures, {"files_passed_over": passed_over, "attribute_conflicts": conflicts}


def folder_samples(
    connection: duckdb.DuckDBPyConnection,
    pictures: Sequence[Picture],
    config: OwnImages,
    types: Mapping[str, str],
    *,
    shard: str,
) -> tuple[pa.Table, dict[str, int]]:
    """The samples of some pictures of a folder, and how many have each carried column."""
    rows = [_row(picture, config) for picture in pictures]
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    table = samples_table({**columns, "number": list(range(len(rows)))}, shard=shard, rows=len(rows))
    table, counts = carry(connection, table, told_of([picture.told or {} for picture in pictures], list(types)), types)

    def read(numbers: Sequence[int]) -> list[bytes | Exception]:
        return [read_file(image) for number in numbers if (image := pictures[number].image)]

    return name_samples(table, read), counts


def read_file(place: Place) -> bytes | Exception:
    """A small file, or why it cannot be read."""
    try:
        with place.open() as file:
            return file.read()
    except OSError as error:
        return error


def _row(picture: Picture, config: OwnImages) -> dict[str, Any]:
    told = picture.told or {}
    captions, error = texts_of(told, config.caption_columns) or texts_of(told, CAPTION_KEYS), None
    if not captions and picture.text is not None:
        content = read_file(picture.text)
        try:
            if isinstance(content, Exception):
                raise content
            text = content.decode("utf-8-sig").strip(" \t\r\n")
            captions = [text] if text else []
        except (OSError, UnicodeDecodeError) as fault:
            error = f"its txt cannot be read: {brief(fault)}"
    unused = None
    if picture.image is None:
        unused = "no_image"
    elif error:
        unused = "failed_to_read"
    elif not captions:
        unused = "no_caption"
    return {
        "key": picture.key,
        "path": picture.image.name if picture.image else None,
        "extension": PurePosixPath(picture.key).suffix[1:],
        "url": url_of(told, config.url_keys),
        "captions": captions,
        "unused": unused,
        "error": error,
    }


def _rows(table: Place) -> Iterator[dict[str, Any]]:
    try:
        with table.open() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
            if table.path.endswith(".csv"):
                reader = csv.DictReader(stream, strict=True)
                for row in reader:
                    if None in row or None in row.values():
                        raise SourceError(f"{table.name}: line {reader.line_num} has other fields than the first one")
                    yield dict(row)
                return
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _object(line, f"{table.name}: line {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table.name}: cannot be read: {brief(error)}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{where}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SourceError(f"{where}: no object, but {line.strip()[:40]!r}")
    return found


def _joined(first: dict[str, Any], second: dict[str, Any], carried: Sequence[str]) -> dict[str, Any]:
    """Both rows of one file: what is text in both becomes a list, what is carried stays."""
    joined = dict(first)
    for name, value in second.items():
        if name not in carried and value != joined.get(name):
            joined[name] = [*_listed(joined.get(name)), *_listed(value)]
    return joined


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
