"""Parquet of embeddings, in one layout; ``benchmarks/parquet_layout.py`` compares it with others."""

import types
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from pipeline.core import parquet, schema


class EmbeddingWriter:
    """Writes tables of one schema to a file, in row groups of :data:`pipeline.core.schema.EMBEDDING_ROW_GROUP` rows."""

    def __init__(self, path: Path, table_schema: pa.Schema):
        self.schema, self._path = table_schema, path
        self._held: list[pa.Table] = []
        self.rows = 0

    def __enter__(self) -> Self:
        ids = [field.name for field in self.schema if field.type == pa.int64()]
        # Vectors do not repeat and hardly compress: a dictionary and statistics would only cost time.
        self._writer = parquet.writer(
            self._path, self.schema, compression="zstd", use_dictionary=False, write_statistics=ids
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: types.TracebackType | None) -> None:
        if kind is None:
            self._flush(at_least=1)
        self._writer.close()

    def add(self, columns: dict[str, Any]) -> None:
        """Rows by column name; vectors are matrices (rows, width), stored as float16."""
        table = pa.Table.from_arrays([_column(columns[field.name], field) for field in self.schema], schema=self.schema)
        self._held.append(table)
        self.rows += table.num_rows
        self._flush(at_least=schema.EMBEDDING_ROW_GROUP)

    def _flush(self, *, at_least: int) -> None:
        held = sum(table.num_rows for table in self._held)
        if held < at_least:
            return
        table = pa.concat_tables(self._held)
        # Whole groups now, the rest with what comes next: only the last group of a file is smaller.
        whole = held - held % schema.EMBEDDING_ROW_GROUP or held
        self._writer.write_table(table.slice(0, whole), row_group_size=schema.EMBEDDING_ROW_GROUP)
        self._held = [table.slice(whole)] if whole < held else []
        if at_least == 1:
            self._flush(at_least=1)


def _column(values: Any, field: pa.Field) -> pa.Array:
    if pa.types.is_fixed_size_list(field.type):
        matrix = np.ascontiguousarray(values, dtype=np.float16)
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=field.type)
    return pa.array(values, field.type)
