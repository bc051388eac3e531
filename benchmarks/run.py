"""Run every benchmark in turn: ``make bench``. Each prints a table and writes ``benchmarks/results/<name>.json``."""

import importlib
import json
import platform
from pathlib import Path
from typing import Any

import psutil

BENCHMARKS = ("near_duplicates", "rerun")
RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """What the figures were measured on."""
    memory = psutil.virtual_memory().total / 2**30
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{psutil.cpu_count()} x {name}, {memory:.0f} GiB"


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    for name in BENCHMARKS:
        rows: list[dict[str, Any]] = importlib.import_module(f"benchmarks.{name}").measure()
        print(f"\n{name} ({machine()})")
        for row in rows:
            print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
        content = {"machine": machine(), "command": "make bench", "rows": rows}
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
