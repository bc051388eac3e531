"""The command for GPUs without one: every part runs tiny, and one that fails or hangs costs only itself."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.report import Rows, write_report

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
def test_every_part_runs_tiny_on_a_cpu(tmp_path: Path) -> None:
    how = ("--tiny", "--device", "cpu", "--minutes", "14")
    arguments = [sys.executable, "-m", "benchmarks.gpu", *how, "--output", str(tmp_path)]
    done = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    assert [row["part"] for row in rows if row["status"] == "took"] == list(PARTS)
    for name in PARTS:
        found = [row for row in rows if row["part"] == name]
        assert any(row["status"] in ("measured", "needs CUDA") for row in found), found
    # All tests of the folder that the command names, each of which is marked.
    (collected,) = [row for row in rows if row["part"] == "tests" and "collected" in row]
    assert collected["ok"] and collected["collected"] > 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows"] == rows[1:] and f"## {next(iter(PARTS))}" in (tmp_path / "report.md").read_text()


def test_a_part_that_hangs_is_ended_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.start(command="test")
    before = _processes()
    # It starts a process of its own, which imports torch before it has anything to say.
    command._run("tests", rows, limit_s=0.5, device="cpu", tiny=True)
    command._run("kmeans", rows, limit_s=120, device="cpu", tiny=True)
    hung, took, *rest = rows.read()[1:]
    assert hung == {"part": "tests", "status": "failed", "error": "not done after 0 s"} and took["status"] == "took"
    assert rest[0]["part"] == "kmeans" and rest[0]["status"] == "measured"
    assert rows.failures() == [hung]
    left = {pid for pid in _processes() - before if b"benchmarks.gpu" in _command_line(pid)}
    # What the parts are forked from stays; nothing that it has forked does.
    assert [b"forkserver" in _command_line(pid) for pid in left] == [True]
    assert not psutil.Process(left.pop()).children()


def _processes() -> set[int]:
    return set(psutil.pids())


def _command_line(pid: int) -> bytes:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_part_that_raises_is_reported_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import child

    monkeypatch.setitem(PARTS, "broken", Part(module="no_such_module", limit_s=1, what="nothing"))
    monkeypatch.setattr(
        sys, "argv", ["child", "broken", str(tmp_path / "rows.jsonl"), str(tmp_path), "cpu", "9", "--tiny"]
    )
    assert child.main() == 1
    (row,) = Rows(tmp_path / "rows.jsonl").read()
    assert row["status"] == "failed" and "no_such_module" in row["error"]


def test_the_report_holds_what_came_and_has_a_table_for_rows_alike(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.start(command="test")
    for number in (1, 2):
        rows.add({"part": "kernel", "status": "measured", "lost": number})
    write_report(rows, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| status | lost |\n|---|---|\n| measured | 1 |\n| measured | 2 |" in text


def test_there_is_no_full_size_on_a_cpu(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--output", str(tmp_path)]
    done = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--tiny" in done.stderr


def test_no_test_needs_a_gpu_elsewhere() -> None:
    others = [path for path in (PROJECT / "tests").rglob("test_*.py") if path.parent.name != "gpu"]
    assert not [path for path in others if "mark." + "gpu" in path.read_text()]
