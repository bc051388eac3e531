"""Run benchmarks in turn: ``make bench`` for all, ``python -m benchmarks.run NAME...`` for some.

Each prints its rows and writes ``<name>.json`` with the machine and the command beside them, into
``benchmarks/results`` or the folder given by ``--output``. What needs a GPU is ``python -m benchmarks.gpu``.
"""

import argparse
import importlib
import json
import platform
from pathlib import Path
from typing import Any

import psutil

BENCHMARKS = (
    "near_duplicates",
    "bipartite",
    "memory",
    "million",
    "balance",
    "download",
    "download_memory",
    "cluster_head",
    "global_batch",
    "training_step",
    "openmp_spin",
    "encoder",
    "embedding",
    "parquet_layout",
    "lists",
    "adopt",
    "checksums",
    "leaks",
    "rules",
    "explore",
    "demo",
)
"""Modules of this package, each with ``measure() -> list[dict]``."""

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


def run(name: str, output: Path) -> None:
    """Run one benchmark, print its rows and keep them."""
    rows: list[dict[str, Any]] = importlib.import_module(f"benchmarks.{name}").measure()
    print(f"\n{name} ({machine()})")
    for row in rows:
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    content = {"machine": machine(), "command": f"python -m benchmarks.run {name}", "rows": rows}
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; none means all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        run(name, arguments.output)


if __name__ == "__main__":
    main()
