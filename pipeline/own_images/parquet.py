"""Rows of a Parquet file with images, as Hugging Face writes them, or with bytes in a column."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import SourceError, brief
from pipeline.own_images.attributes import Told, carry, plain
from pipeline.own_images.config import CAPTION_KEYS, EXTENSIONS, OwnImages
from pipeline.own_images.find import Place
from pipeline.own_images.samples import name_samples, samples_table, texts_of, url_of


def count_rows(place: Place, config: OwnImages) -> int:
    """Raises :class:`SourceError` for what is no Parquet file, or has no images or no captions."""
    try:
        with place.open() as file:
            parquet = pq.ParquetFile(file)
            _columns(parquet.schema_arrow, place, config)
            return int(parquet.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"images {place.name}: no readable Parquet file: {brief(error)}") from error


def parquet_samples(
    connection: duckdb.DuckDBPyConnection,
    place: Place,
    span: tuple[int, int],
    config: OwnImages,
    types: Mapping[str, str],
    *,
    shard: str,
) -> tuple[pa.Table, dict[str, int]]:
    """The samples of some rows of a file, and how many have each carried column. Images are read where no URL names
    them."""
    start, stop = span
    with place.open() as file:
        opened = pq.ParquetFile(file)
        names = _columns(opened.schema_arrow, place, config)
        path = f"{config.image_column}.path"
        has_path = pa.types.is_struct(opened.schema_arrow.field(config.image_column).type)
        told = _read(opened, start, stop, [*names, path] if has_path else names).to_pylist()
        there = [name for name in types if name in opened.schema_arrow.names]
        beside = _read(opened, start, stop, there) if there else None
    rows = [_row(values, config) for values in told]
    columns = {name: [row[name] for row in rows] for name in ("extension", "url", "captions", "unused")}
    numbers = list(range(start, stop))
    table = samples_table(
        {
            **columns,
            "number": list(range(len(rows))),
            "key": [f"{number:09d}" for number in numbers],
            "path": [place.name] * len(rows),
            "row": numbers,
        },
        shard=shard,
        rows=len(rows),
    )
    table, counts = carry(connection, table, _told(beside, list(types), len(rows)), types)

    def read(wanted: Sequence[int]) -> list[bytes | Exception]:
        return read_rows(place, [numbers[number] for number in wanted], config)

    return name_samples(table, read), counts


def read_rows(place: Place, rows: Sequence[int], config: OwnImages) -> list[bytes | Exception]:
    """The images of some rows, ascending, as they are; what has none says so."""
    with place.open() as file:
        opened = pq.ParquetFile(file)
        is_struct = pa.types.is_struct(opened.schema_arrow.field(config.image_column).type)
        column = f"{config.image_column}.bytes" if is_struct else config.image_column
        table = _read(opened, rows[0], rows[-1] + 1, [column])
        values = table[config.image_column]
        if is_struct:
            values = pc.struct_field(values, "bytes")
        contents = values.take(pa.array([row - rows[0] for row in rows])).to_pylist()
    return [content or ValueError("its row holds no bytes") for content in contents]


def _told(beside: pa.Table | None, names: Sequence[str], rows: int) -> Told:
    """Carried values in the types of the file, which are each of one kind."""
    told: dict[str, Any] = {}
    for place, name in enumerate(names):
        there = beside is not None and name in beside.column_names
        values = beside[name] if beside is not None and there else pa.nulls(rows, pa.string())
        told[f"v{place}"] = values.cast(plain(values.type))
        told[f"k{place}"] = pa.array(["" if there else None] * rows, pa.string())
    return told


def _row(values: dict[str, Any], config: OwnImages) -> dict[str, Any]:
    image = values.get(config.image_column)
    ending = PurePosixPath((image or {}).get("path") or "").suffix.lower()[1:] if isinstance(image, dict) else ""
    captions = texts_of(values, config.caption_columns) or texts_of(values, CAPTION_KEYS)
    return {
        # As it is called, if it is; what it is, its bytes say when they are packed.
        "extension": ending if ending in EXTENSIONS else "image",
        "url": url_of(values, config.url_keys),
        "captions": captions,
        "unused": None if captions else "no_caption",
    }


def _read(opened: pq.ParquetFile, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Rows of a file, of whose groups only those are read in which they lie."""
    groups: list[int] = []
    first = before = 0
    for group in range(opened.metadata.num_row_groups):
        count = opened.metadata.row_group(group).num_rows
        if first < stop and first + count > start:
            if not groups:
                before = first
            groups.append(group)
        first += count
    return opened.read_row_groups(groups, columns=list(columns)).slice(start - before, stop - start)


def _columns(schema: pa.Schema, place: Place, config: OwnImages) -> list[str]:
    """Names of the columns that say something of an image."""
    image = config.image_column
    if image not in schema.names:
        raise SourceError(f"images {place.name}: no column {[image]}; it has {schema.names}; set source.image_column")
    type_ = schema.field(image).type
    inner = type_.field("bytes").type if pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0 else type_
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise SourceError(f"images {place.name}: column {image!r} holds {type_}, neither bytes nor a struct with bytes")
    captions = [name for name in (*config.caption_columns, *CAPTION_KEYS) if name in schema.names]
    if not captions:
        raise SourceError(
            f"images {place.name}: no column {config.caption_columns} with captions; it has {schema.names}; set "
            "source.caption_column"
        )
    return list(dict.fromkeys([*captions, *(name for name in config.url_keys if name in schema.names)]))
