"""Cells of earlier grids: which of them stay on the disk, and those that an earlier version has left."""

import time
from pathlib import Path

import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.files import fingerprint_of
from pipeline.storage.completion import COMPLETE, Mark, damaged, read_marks
from pipeline.storage.damage import shards_with_marks
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Stage

TABLE, CELLS, GRID = "ablation", "ablation_cells", "grid"
"""The table of the current grid, that of all cells that there are, and the one shard of the first."""

KEPT = 1000
"""So many cells of other grids stay: a Parquet file of some kilobytes each. Their models do not."""

_MEASURED = "measured"


def cells_stage(root: Path, fingerprints: dict[str, str]) -> Stage:
    """The stage ``ablation_cells``: ``fingerprints`` says of each cell of the grid what it is made from, by
    :func:`shard_name`. Those of other grids stay, the newest :data:`KEPT` of them."""
    return Stage(root, CELLS, version=1, config=None, inputs=fingerprints, keep=_newest)


def shard_name(cell: str, fingerprint: str) -> str:
    """A cell's name on the disk: those of two grids may differ in what their names do not say."""
    return f"{cell}-{fingerprint[:8]}"


def fingerprint(identity: object, cell: str, made_from: object) -> str:
    """Of a cell, as its mark has it since the first version of the ablation, so that older ones are known again.

    ``identity``: what it is measured by; ``cell``: `<data>-<losses>-<seed>`; ``made_from``: data and student.
    """
    return fingerprint_of(fingerprint_of(TABLE, 1, identity), cell, made_from)


def measured_now() -> dict[str, float]:
    """For the statistics of a cell's mark: by it the newest are told."""
    return {_MEASURED: round(time.time())}


def _newest(others: dict[str, Mark]) -> list[str]:
    return sorted(others, key=lambda shard: others[shard].stats.get(_MEASURED, 0))[-KEPT:]


def adopt_earlier(root: Path) -> None:
    """Take over the cells of a root whose table ``ablation`` was still made of a file for each."""
    storage = storage_of(root)
    marks = read_marks(storage, TABLE, set(shards_with_marks(storage, TABLE)) - {COMPLETE, GRID})
    sizes = storage.sizes(name for mark in marks.values() for name in mark.files)
    whole = {cell: mark for cell, mark in marks.items() if not damaged(mark, sizes)}
    if not whole:
        return
    storage.fetch(name for mark in whole.values() for name in mark.files)
    tables = {cell: _as_now(root / next(iter(mark.files))) for cell, mark in whole.items()}
    cells = {shard_name(f"{cell}-{table['steps'][0]}", whole[cell].fingerprint): cell for cell, table in tables.items()}
    stage = cells_stage(root, {name: whole[cell].fingerprint for name, cell in cells.items()})
    with stage.running():
        for name in stage.pending():
            with stage.output(name) as output:
                parquet.write_table(tables[cells[name]], output.path(f"{CELLS}/{name}.parquet"))
                output.rows, output.stats = tables[cells[name]].num_rows, whole[cells[name]].stats


def _as_now(path: Path) -> pa.Table:
    """A cell was measured at its end alone, and nobody noted how long its training took up to there."""
    table = parquet.read_table(path)
    rows = [{**row, "step": row["steps"]} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=schema.ABLATION_CELLS)
