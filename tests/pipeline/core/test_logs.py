"""In processes of their own, since pytest gives root handlers of its own."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]

# `managed` has a handler as Dagster gives it; `logging.info` is what open_clip calls.
LINES = """
import logging, sys
{before}
managed = logging.getLogger("pipeline")
managed.setLevel(logging.INFO)
managed.addHandler(logging.StreamHandler())
logging.info("of root")
for logger in (managed, logging.getLogger("pipeline.storage"), logging.getLogger("stranger")):
    logger.info(f"{{logger.name}} informs")
    logger.warning(f"{{logger.name}} warns")
logging.warning("root warns")
"""
ONCE = ["pipeline informs", "pipeline warns", "pipeline.storage informs", "pipeline.storage warns"]
OTHERS = ["stranger warns", "root warns"]


def written(before: str) -> list[str]:
    command = [sys.executable, "-c", LINES.format(before=before)]
    return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stderr.splitlines()


def test_without_it_a_library_makes_lines_come_twice() -> None:
    assert [line for line in written("") if "pipeline" in line][:2] == [
        "pipeline informs",
        "INFO:pipeline:pipeline informs",
    ]


def test_a_line_comes_once_and_no_warning_is_lost() -> None:
    assert written("from pipeline.core.logs import keep_root_quiet; keep_root_quiet()") == ONCE + OTHERS


def test_a_job_keeps_root_quiet() -> None:
    assert written("import assets.definitions") == ONCE + OTHERS


def test_handlers_of_the_user_stay() -> None:
    before = "logging.basicConfig(format='mine: %(message)s')\nfrom pipeline.core.logs import keep_root_quiet"
    assert "mine: root warns" in written(f"{before}\nkeep_root_quiet()")
