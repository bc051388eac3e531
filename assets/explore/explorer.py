"""One root, opened: its tables, its forest, its embeddings and images, as they were when it was opened."""

import contextlib
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow.parquet as pq

from assets.explore.forest import Forest
from assets.explore.images import Images
from assets.explore.queries import Queries
from assets.explore.tables import find_tables, relations, signature
from assets.explore.vectors import VectorFile
from pipeline.balance.threshold import reach_of
from pipeline.core.errors import MissingInputError
from pipeline.core.query import QueryConfig
from pipeline.storage.roots import storage_of


class Explorer:
    """What of a root there is to see; ``forest``, ``vectors`` and ``images`` are none where their tables are missing.

    Nothing under the root is written. Raises :class:`pipeline.core.errors.PipelineError` for a root of which nothing is
    there yet, or whose tables are damaged.
    """

    def __init__(self, root: Path, query_config: QueryConfig | None = None):
        self.root = root
        self.signature = signature(root)
        self.tables = find_tables(root)
        if not self.tables.files:
            place = storage_of(root).uri("").rstrip("/")
            raise MissingInputError(f"{place}: no table of a root is there yet; a run makes them")
        files = self.tables.files
        self._open = contextlib.ExitStack()
        try:
            # First: it needs most while it is made, and little when it is.
            self.forest = self._forest()
            connection = self._open.enter_context(relations(self.tables, query_config or QueryConfig()))
            scratch = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="explore-")))
            self.queries = Queries(connection, files, scratch)
            self.vectors: VectorFile | None = None
            if "teacher_embeddings" in files:
                self.vectors = VectorFile(files["teacher_embeddings"], scratch / "vectors")
            self.images = Images(root, files["index"]) if "index" in files else None
        except BaseException:
            self.close()
            raise

    @property
    def chosen(self) -> float | None:
        """The threshold of the root's balance, if the forest that is there now reaches it."""
        found = self.tables.stats.get("balance", {}).get("threshold")
        return float(found) if found is not None and self.forest and found <= self.forest.reach else None

    def default_threshold(self) -> float:
        """That of the balance, or else half of what the forest reaches."""
        if self.forest is None:
            return 0.0
        return self.forest.reach / 2 if self.chosen is None else self.chosen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was written to the temporary folder."""
        self._open.close()

    def _forest(self) -> Forest | None:
        files = self.tables.files.get("near_duplicates")
        if not files:
            return None
        # Of a forest whose embeddings are gone, the stage knows how many there were.
        rows = self.tables.stats.get("near_duplicates", {}).get("samples") or sum(
            pq.read_metadata(path).num_rows for path in self.tables.files.get("teacher_embeddings", [])
        )
        return Forest.read(files[0], images=int(rows), reach=reach_of(files[0]))
