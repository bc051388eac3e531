"""Rows as JSON lines, appended as they come; from them one JSON and one Markdown table."""

import json
import platform
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS


class Rows:
    """The file of rows. Several processes append to it, one after another."""

    def __init__(self, path: Path):
        self.path = path

    def start(self, *, command: str) -> None:
        """Begin anew, with the machine and the command."""
        self.path.unlink(missing_ok=True)
        self.add({"part": "machine", "status": "measured", "command": command, **machine()})

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and show it. A line is one write, so that an end at any moment leaves whole lines."""
        line = json.dumps(row)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def failures(self) -> list[dict[str, Any]]:
        return [row for row in self.read() if row["status"] == "failed"]


def machine() -> dict[str, Any]:
    """What the figures are measured on."""
    import torch

    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": torch.get_num_threads(),
        "gpu": "none",
    }
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = "none"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_memory_gb": round(properties.total_memory / 1e9, 1)}
        found |= {"cuda": torch.version.cuda, "multiprocessors": properties.multi_processor_count}
    return found


def write_report(rows: Rows, folder: Path) -> None:
    """``report.json`` and ``report.md`` beside the rows."""
    read = rows.read()
    head, found = read[0], read[1:]
    (folder / "report.json").write_text(json.dumps({"machine": head, "rows": found}, indent=1) + "\n")
    text = [f"# Measured on {head['gpu']}", "", *(f"- {key}: {value}" for key, value in head.items() if key != "part")]
    for name, part in PARTS.items():
        mine = [row for row in found if row["part"] == name]
        if mine:
            text += ["", f"## {name}: {part.what}", "", *_tables(mine)]
    (folder / "report.md").write_text("\n".join(text) + "\n")


def _tables(rows: list[dict[str, Any]]) -> list[str]:
    """One table for each run of rows that have the same columns."""
    lines: list[str] = []
    columns: list[str] = []
    for row in rows:
        shown = {key: value for key, value in row.items() if key not in ("part", "at_s")}
        if list(shown) != columns:
            columns = list(shown)
            lines += [""] * bool(lines) + [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines.append(
            "| " + " | ".join(str(value).replace("|", "/").replace("\n", " ") for value in shown.values()) + " |"
        )
    return lines
