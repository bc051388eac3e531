"""Run img2dataset, with the guard in each of its workers, in a process of its own: ``python -m pipeline.fetch JOB``.

A process of its own because img2dataset takes over SIGINT, prints, and imports libraries that ask the network for
updates; and because a process group can be ended whole.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

from img2dataset.downloader import Downloader  # noqa: TID253

from pipeline.guard import Guard
from pipeline.processes import die_with_parent

_JOB_VARIABLE = "CLIP_CID_FETCH_JOB"


class GuardedDownloader(Downloader):
    """img2dataset's worker, which fetches through the guard. Pickled by name, so every worker process gets it."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.guard = Guard(**json.loads(Path(os.environ[_JOB_VARIABLE]).read_text())["guard"])

    def __call__(self, row: Any) -> Any:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.guard.install()
        return super().__call__(row)


def main(job_path: str) -> None:
    os.environ[_JOB_VARIABLE] = job_path
    # Not `from img2dataset import main`: the package has a function of that name in the module's place.
    img2dataset_main = importlib.import_module("img2dataset.main")
    img2dataset_main.Downloader = GuardedDownloader  # type: ignore[attr-defined]
    img2dataset_main.download(**json.loads(Path(job_path).read_text())["download"])


if __name__ == "__main__":
    # Under its real name, so that workers can import GuardedDownloader.
    from pipeline.fetch import main as imported_main

    imported_main(sys.argv[1])
