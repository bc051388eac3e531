"""The built-in corpus as a stage, and the wiring that lets the word ``demo`` stand for it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.settings import DEMO
from pipeline.demo.config import DemoConfig
from pipeline.download.config import ImagesConfig
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage

HOST = "demo.test"
"""Host in the corpus's URLs; a reserved name that no resolver knows, mapped to the loopback server."""


def make_corpus(root: Path, config: DemoConfig) -> StageResult:
    """Stage ``demo``: list, images, evaluation set and ground truth, under ``<root>/demo``."""
    content = {name: value for name, value in config.content().items() if name != "teacher"}
    stage = Stage(root, "demo", version=2, config=content, inputs={"corpus": "built in"})

    def write(output: Output) -> None:
        from pipeline.demo.corpus import write_corpus

        folder = output.path("demo/pairs.parquet").parent
        write_corpus(folder, config)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            output.path(f"demo/{path.relative_to(folder)}")
        output.rows = config.pairs

    return stage.each(write)


def resolve_lists(lists: list[str], root: Path, config: DemoConfig) -> list[str]:
    """The lists, with ``demo`` replaced by the corpus's, which is made first if need be."""
    if DEMO in lists:
        make_corpus(root, config)
        storage_of(root).fetch(["demo/pairs.parquet"])
    return [str(root / "demo" / "pairs.parquet") if name == DEMO else name for name in lists]


def resolve_datasets(datasets: list[str], root: Path, config: DemoConfig) -> list[Path]:
    """The evaluation sets, with ``demo`` replaced by the corpus's held-out one."""
    if DEMO in datasets:
        make_corpus(root, config).folder(f"demo/evaluation/{DEMO}")
    return [root / "demo" / "evaluation" / DEMO if name == DEMO else Path(name) for name in datasets]


@contextlib.contextmanager
def reachable(lists: list[str], root: Path, config: ImagesConfig) -> Iterator[ImagesConfig]:
    """While the block lasts, the corpus is served on loopback and the downloader is told where."""
    if DEMO not in lists:
        yield config
        return
    from pipeline.demo.server import serve

    read_result(root, "demo").folder("demo/images")
    with serve(root / "demo") as address:
        yield config.model_copy(update={"connect_to": {**config.connect_to, HOST: address}})


def teacher_identity(config: DemoConfig) -> Any:
    """What decides the demo's teacher: its settings, the seed and the model config."""
    model = json.loads((Path(__file__).parent / "models" / "demo-teacher.json").read_text())
    return [config.seed, config.teacher.content(), model]
