"""The steps of the benchmark, each with a table in ``benchmarks/results/emoji/<step>.json``."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.emoji import styles, tables
from benchmarks.emoji.catalog import VENDORS, Emoji, read_catalog
from benchmarks.emoji.corpus import write_metadata
from benchmarks.emoji.draw import REQUIREMENT, draw
from benchmarks.emoji.evaluation_sets import write_evaluation_sets
from benchmarks.emoji.packages import Package, fetch, read_packages, unpack
from benchmarks.run import RESULTS, machine
from pipeline.core.errors import PipelineError
from pipeline.core.files import fingerprint_of, write_text_atomically
from training.evaluation import read_evaluation_set

PROJECT = Path(__file__).resolve().parents[2]
DATA = PROJECT / "data" / "emoji"
"""Where the configs look for it, from the project's folder."""

STYLES = {
    "emoji_openmoji": ("openmoji", "color/svg", styles.openmoji),
    "emoji_fluent": ("@iconify-json/fluent-emoji-flat", "", styles.iconify),
}
"""Of each evaluation set that is a style: its package, the folder in it, and what reads that."""

# Of how the evaluation sets are drawn; a new one draws them anew.
_DRAWING = 1


def corpus() -> tables.Rows:
    """Fetch the packages, and write captions and evaluation sets."""
    packages = read_packages()
    vendors = {vendor: packages[f"emoji-datasource-{vendor}"] for vendor in VENDORS}
    for vendor, package in vendors.items():
        _unpacked(package, DATA / "images" / vendor, f"img/{vendor}/64")
    catalog = read_catalog(
        _unpacked(vendors["apple"], DATA / "unpacked" / "datasource") / "emoji.json",
        _unpacked(packages["emojibase-data"], DATA / "unpacked" / "cldr", "en") / "data.json",
    )
    licenses = {vendor: package.license for vendor, package in vendors.items()}
    images = write_metadata(DATA / "images", catalog, licenses)
    trained = [{"set": vendor, "images": images[vendor], "license": licenses[vendor]} for vendor in vendors]
    return trained + _evaluation_sets(catalog, packages)


def teacher() -> tables.Rows:
    """Train the teacher on the pairs."""
    _run("clip_cid", "teacher.yaml")
    # Of its own run it is the student.
    return [row | {"model": "teacher"} for row in tables.accuracies(DATA / "teacher", ["student"])]


def student() -> tables.Rows:
    """The whole pipeline with that teacher."""
    _run("clip_cid", "student.yaml")
    return tables.data(DATA / "student") + tables.accuracies(DATA / "student", ["teacher", "student", "baseline"])


def ablation() -> tables.Rows:
    """The grid of data and losses, on the same root."""
    _run("ablation", "student.yaml")
    return tables.ablation(DATA / "student")


STEPS: dict[str, Callable[[], tables.Rows]] = {step.__name__: step for step in (corpus, teacher, student, ablation)}


def do(name: str, output: Path = RESULTS / "emoji") -> None:
    """Do a step, print its rows and keep them."""
    rows = STEPS[name]()
    print(f"\n{name} ({machine()})")
    for row in rows:
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    content = {"machine": machine(), "command": f"python -m benchmarks.emoji --only {name}", "rows": rows}
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _unpacked(package: Package, target: Path, folder: str = "") -> Path:
    unpack(fetch(package, DATA / "packages"), target, folder)
    return target


def _evaluation_sets(catalog: list[Emoji], packages: dict[str, Package]) -> tables.Rows:
    folder, mark = DATA / "evaluation", DATA / "evaluation.fingerprint"
    pinned = [(package.name, package.integrity) for package in packages.values()]
    fingerprint = fingerprint_of(_DRAWING, REQUIREMENT, pinned)
    if not mark.exists() or mark.read_text() != fingerprint:
        drawings = {
            name: read(_unpacked(packages[package], DATA / "unpacked" / name, part))
            for name, (package, part, read) in STYLES.items()
        }
        write_evaluation_sets(folder, catalog, drawings, draw)
        write_text_atomically(mark, fingerprint)
    sets = [read_evaluation_set(path) for path in sorted(folder.iterdir())]
    return [{"set": found.name, "images": len(found.test), "classes": len(found.classnames)} for found in sets]


def _run(job: str, config: str) -> None:
    command = [sys.executable, "-m", "clip_cid", "run", job, "-c", str(Path(__file__).with_name(config))]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, check=False, cwd=PROJECT, env=environment)
    if done.returncode:
        raise PipelineError(f"{config}: the job {job} ended with status {done.returncode}; its log above says why")
