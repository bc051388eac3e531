"""One tar to its samples: nothing of it is copied, and images are read only where no URL names them."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import query
from pipeline.own_images.attributes import Told, carry
from pipeline.own_images.config import CAPTION_KEYS, OwnImages
from pipeline.own_images.find import Place
from pipeline.own_images.headers import Contents, read_contents, tar_bytes
from pipeline.own_images.samples import literal, mark_unused, name_samples, samples_table

# Of a JSON or txt member at most so much is read: what is larger is neither.
_TEXT_BYTES = 16 << 20
# Where a key has an ending twice: the first members of each ending, the second ones, and so on; and whether a sample is
# another of its key.
_RUN = (
    "CASE WHEN key IN (FROM repeated_keys) THEN row_number() OVER (PARTITION BY key, code ORDER BY number) ELSE 1 END"
)
# Texts and kinds of what is carried along.
_CARRIED = (
    "list_transform({values}, lambda value: value ->> '$') AS texts,\n       "
    "list_transform({values}, lambda value: json_type(value)) AS kinds,"
)
_LATER = "row_number() OVER (PARTITION BY key ORDER BY number) > 1"


def tar_samples(
    connection: duckdb.DuckDBPyConnection, place: Place, config: OwnImages, types: Mapping[str, str], *, shard: str
) -> tuple[pa.Table, dict[str, int]]:
    """The samples of a tar in its order, and counts of what else was in it.

    A sample is what shares a key, as in WebDataset the name up to the first dot of its last part, whether its members
    lie side by side or not. Its place is that of the image alone, since captions lie in tables. Of members of one name
    the first is of the sample, and the others are listed as a repeated key.
    Raises :class:`SourceError` for what is no tar.
    """
    with tar_bytes(place) as data:
        contents = read_contents(data, place)
        found = _samples(connection, data, contents, config, list(types))
        images = found["image"].combine_chunks().fill_null(0).to_numpy()
        starts, sizes, offsets = (
            values[images] if len(values) else np.zeros(0, np.int64)
            for values in (contents.starts, contents.sizes, contents.offsets)
        )
        ends = starts + (sizes + 511 & -512)
        none = pc.is_null(found["image"])
        table = samples_table(
            {
                **{name: found[name] for name in _FOUND},
                "number": pa.array(np.arange(found.num_rows)),
                "path": pa.array([place.name] * found.num_rows, pa.string()),
                "offset": pc.if_else(none, None, pa.array(offsets)),
                "size": pc.if_else(none, None, pa.array(ends - offsets)),
            },
            shard=shard,
            rows=found.num_rows,
        )
        table = _refuse_empty(table, sizes)
        table, carried = carry(connection, table, _told(found, len(types)), types)
        table = name_samples(table, lambda rows: [data[starts[row] : starts[row] + sizes[row]] for row in rows])
    counts = carried | {"files_passed_over": len(contents.names) - int(pc.sum(found["members"]).as_py() or 0)}
    if not contents.finished:
        counts["tars_without_end"] = 1
    if contents.fault:
        counts["tars_cut_short"] = 1
        if contents.cut is None:
            table = pa.concat_tables([table, _rest(table, place, contents.fault, shard)])
    return table, counts


_FOUND = ("key", "extension", "url", "sha256", "width", "height", "captions", "unused", "error")


def _rest(table: pa.Table, place: Place, fault: str, shard: str) -> pa.Table:
    """A row for what comes after a damaged header, of which nothing is known."""
    columns = {"number": [table.num_rows], "path": [place.name], "unused": ["cut_short"], "error": [fault]}
    return samples_table(columns, shard=shard, rows=1)


def _refuse_empty(table: pa.Table, sizes: np.ndarray) -> pa.Table:
    empty = pc.and_(pc.is_null(table["unused"]), pa.array(sizes == 0))
    return mark_unused(table, empty, "failed_to_read", "its image has no bytes")


def _told(found: pa.Table, columns: int) -> Told:
    places = [(place, sign, name) for place in range(columns) for sign, name in (("v", "texts"), ("k", "kinds"))]
    return {f"{sign}{place}": pc.list_element(found[name], place) for place, sign, name in places}


def _samples(
    connection: duckdb.DuckDBPyConnection, data: Any, contents: Contents, config: OwnImages, carried: Sequence[str]
) -> pa.Table:
    """Samples, each with the number of the member that is its image."""
    connection.register("members", _members(data, contents))
    connection.execute(query.sql("pipeline.own_images", "texts_of"))
    found = _grouped(connection, config, carried, run="1", later="false")
    repeated = found.filter(found["repeated"])["key"]
    if len(repeated):
        connection.register("repeated_keys", pa.table({"key": repeated}))
        found = _grouped(connection, config, carried, run=_RUN, later=_LATER)
    if contents.cut is not None:
        found = mark_unused(found, pc.equal(found["unused"], "cut_short"), "cut_short", contents.fault or "")
    return found


def _grouped(
    connection: duckdb.DuckDBPyConnection, config: OwnImages, carried: Sequence[str], *, run: str, later: str
) -> pa.Table:
    keys = ["sha256", "width", "height", *config.url_keys, *config.caption_columns, *CAPTION_KEYS, *carried]
    urls = 3 + len(config.url_keys)
    captions = urls + len(config.caption_columns)
    others = captions + len(CAPTION_KEYS)
    text = query.sql("pipeline.own_images", "tar_samples").format(
        run=run,
        later=later,
        keys="[" + ", ".join(_pointer(key) for key in keys) + "]",
        urls=f"found[4:{urls}]",
        captions=f"found[{urls + 1}:{captions}]",
        others=f"found[{captions + 1}:{others}]",
        carried=_CARRIED.format(values=f"found[{others + 1}:]") if carried else "",
    )
    return connection.sql(text).to_arrow_table()


def _members(data: Any, contents: Contents) -> pa.Table:
    """Names of members, and of those that are text what they say without space around it; last the one in which the
    tar stops."""
    lower = pc.utf8_lower(contents.names)
    is_text = pc.or_(pc.ends_with(lower, ".json"), pc.ends_with(lower, ".txt"))
    texts: list[bytes | None] = [None] * len(contents.names)
    for number in np.flatnonzero(is_text.to_numpy(zero_copy_only=False) & (contents.sizes <= _TEXT_BYTES)).tolist():
        start = int(contents.starts[number])
        texts[number] = data[start : start + int(contents.sizes[number])].strip()
    names, cut = contents.names, [False] * len(texts)
    if contents.cut is not None:
        names = pa.concat_arrays([names, pa.array([contents.cut], pa.string())])
        texts, cut = [*texts, None], [*cut, True]
    decoded, bad = _decoded(texts)
    return pa.table({"number": np.arange(len(texts)), "name": names, "content": decoded, "bad": bad, "cut": cut})


def _decoded(texts: list[bytes | None]) -> tuple[pa.Array, list[bool]]:
    """Texts, and which of them are not UTF-8."""
    try:
        return pa.array(texts, pa.binary()).cast(pa.string()), [False] * len(texts)
    except pa.ArrowInvalid:
        decoded = [None if text is None else text.decode(errors="surrogateescape") for text in texts]
        bad = [text is not None and any("\udc80" <= sign <= "\udcff" for sign in text) for text in decoded]
        return pa.array([None if wrong else text for text, wrong in zip(decoded, bad)], pa.string()), bad


def _pointer(key: str) -> str:
    """A JSON pointer (RFC 6901) to a key of the outermost object, as a literal of SQL."""
    return literal("/" + key.replace("~", "~0").replace("/", "~1"))
