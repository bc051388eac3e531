from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.core.errors import EmbeddingError
from pipeline.vectors.read import read_ids, read_vectors
from pipeline.vectors.write import EmbeddingWriter
from tests.oracles import unit


def test_ids_of_either_kind_have_statistics_and_vectors_none(tmp_path: Path) -> None:
    rows = unit(np.random.default_rng(0).normal(size=(5, 4)))
    for table, column, ids in (
        (schema.teacher_embeddings(4), "image_embedding", {"image_id": [3, 1, 2, 5, 4]}),
        (schema.caption_embeddings(4), "text_embedding", {"sample_id": [3, 1, 2, 5, 4], "image_id": [1, 1, 2, 2, 2]}),
    ):
        path = tmp_path / f"{column}.parquet"
        with EmbeddingWriter(path, table) as writer:
            others = {"image_text_similarity": [0.5] * 5} if column == "text_embedding" else {}
            writer.add({**ids, column: rows, **others})
        group = pq.read_metadata(path).row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        assert [part.path_in_schema for part in columns if part.is_stats_set] == list(ids)
        name = next(iter(ids))
        found = read_vectors(path, column=column, id_column=name)
        assert found.ids.tolist() == [1, 2, 3, 4, 5]
        assert np.array_equal(found.matrix[2], rows[0].astype(np.float16).astype(np.float32))
        assert read_ids(path, name).tolist() == ids[name]
    with pytest.raises(EmbeddingError, match="2 values of image_id stand more than once"):
        read_vectors(path, column="text_embedding", id_column="image_id")
