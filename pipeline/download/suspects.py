"""What a worker was fetching when it was lost, so that the sample to blame can be found, and left alone from then on.

A worker that decodes elsewhere may still be lost: to a sample that it fetches. Beats are a second apart, which is too
long to tell which, so it writes down what it asks for before it does, in ``<shard>.asked``: a line per URL, and one
more when the call has ended. What was written survives the process, however that ends.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.web.opener import Fetched, GuardedOpener
from pipeline.web.outcomes import LOST, SampleError
from pipeline.web.rules import Guard


class NotingOpener(GuardedOpener):
    """Asks for none of ``refused`` (URL, and what came of it), and notes in a file ``asked``, if any, what it asks for.

    Use as a context manager.
    """

    def __init__(self, guard: Guard, refused: Mapping[str, str], asked: Path | None):
        super().__init__(guard)
        self._refused = refused
        # Unbuffered: a line is the kernel's before the URL is asked for.
        self._asked = asked.open("wb", buffering=0) if asked else None

    def __enter__(self) -> "NotingOpener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asked is not None:
            self._asked.close()

    def open(self, fullurl: Any, data: None = None, timeout: Any = None) -> Fetched:
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        if url in self._refused:
            raise SampleError(LOST, "fetching cost its worker", f"it {self._refused[url]}")
        self._note(1, url)
        try:
            return super().open(fullurl, data, timeout)
        finally:
            self._note(-1, url)

    def _note(self, change: int, url: str) -> None:
        # A full disk shows where the shard itself is written.
        with contextlib.suppress(OSError):
            if self._asked is not None:
                self._asked.write(json.dumps([change, url]).encode() + b"\n")


def left_unanswered(folder: Path, shard: str) -> list[str]:
    """The URLs that the last worker of a shard was asking for at its end; none if it did not note them."""
    path = folder / f"{shard}.asked"
    asked = Counter[str]()
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            change, url = json.loads(line)
        except ValueError:
            # Cut short by what ended the worker, or by a full disk.
            continue
        asked[url] += change
    return sorted(url for url, times in asked.items() if times > 0)


def write_suspects(source: Path, urls: Sequence[str], target: Path) -> None:
    """A list of these URLs, each as an image of its own.

    Their rows are not looked up, since urllib may spell a URL otherwise than its list does.
    """
    row = pq.read_table(source).slice(0, 1)
    table = pa.concat_tables([row] * len(urls))
    columns = {"url": pa.array(urls, pa.string()), "image_id": pa.array(range(len(urls)), pa.int64())}
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, target)
