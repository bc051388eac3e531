"""The rows of ``training_metrics`` and ``training_evaluations``: appended to one file while the run goes on, a Parquet
table each once it has ended."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.files import move_into_place, write_text_atomically
from training.evaluation.small import parts_of

log = logging.getLogger(__name__)

_INTEGERS = ("step", "samples_seen")


class MetricsWriter:
    """Appends rows to a JSONL file that others may follow; each row is flushed at once.

    ``resume_step``: rows after it are dropped, since their steps will be done again. The file is replaced by a new
    one, so that a follower can tell this run's rows from what was there before.
    """

    def __init__(self, path: Path, *, resume_step: int):
        self._path = path
        kept = [row for row in read_rows(path) if row["step"] <= resume_step]
        write_text_atomically(path, "".join(_line(row) for row in kept))
        self._file = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of the file; a last line without its end is still being written, or was cut by a kill."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").split("\n")[:-1]
    rows = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    return [row for row in rows if row is not None]


def _parse(line: str, where: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
        return row if row["step"] is not None else None
    except (ValueError, TypeError, KeyError):
        # Rows only tell of the run: it goes on without one.
        log.warning("%s: damaged, this row of metrics is left out", where)
        return None


def is_evaluation(row: Mapping[str, Any]) -> bool:
    """Whether a row has measures of evaluation, whose names are paths, rather than the terms of a step."""
    return any("/" in name for name in row)


def write_evaluations(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows of evaluations as Parquet, ``schema.TRAINING_EVALUATIONS``."""
    found = []
    for row in rows:
        for measure, value in row.items():
            if measure != "step":
                task, dataset, metric = parts_of(measure)
                found.append((row["step"], task, dataset, metric, value))
    names = schema.TRAINING_EVALUATIONS.names
    _write([dict(zip(names, one)) for one in found], schema.TRAINING_EVALUATIONS, path)


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows as Parquet, terms after the loss; the file appears whole or not at all."""
    first = schema.TRAINING_METRICS[:3]
    last = [name for name in schema.TRAINING_METRICS[3:] if any(name in row for row in rows)]
    terms = [name for name in rows[0] if name not in schema.TRAINING_METRICS]
    fields = [
        # A step that was skipped since fp16 overflowed has no gradient norm.
        pa.field(name, pa.int64() if name in _INTEGERS else pa.float64(), nullable=name == "gradient_norm")
        for name in (*first, *terms, *last)
    ]
    _write(rows, pa.schema(fields), path)


def _write(rows: list[dict[str, Any]], columns: pa.Schema, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    parquet.write_table(pa.Table.from_pylist(rows, schema=columns), temporary)
    move_into_place({path: temporary})


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
