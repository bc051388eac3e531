"""Files and modules that texts, comments and commands name are there."""

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
_ENDINGS = (".py", ".md", ".toml", ".yaml", ".sql")
_PATH = re.compile(r"\b((?:pipeline|training|assets|tests|benchmarks|docs)/[\w/-]+\.(?:py|sql|md|json))\b")
_MODULE = re.compile(r"(?<![\w./-])((?:pipeline|training|assets)(?:\.[a-z_]\w*)+)")
# What runs write: no files of the project.
_RESULTS = ("benchmarks/results/gpu/",)


def _files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    # The history tells of names that are gone.
    found = [PROJECT / name for name in listed.stdout.splitlines() if name != "CHANGELOG.md"]
    return [path for path in found if path.is_file() and (path.suffix in _ENDINGS or path.name == "Makefile")]


def _is_there(module: str) -> bool:
    """A package, a module, or what stands in one."""
    place = PROJECT
    for part in module.split("."):
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").exists():
            return True
        else:
            init = place / "__init__.py"
            return init.exists() and re.search(rf"\b{part}\b", init.read_text()) is not None
    return True


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="needs a git checkout, which knows what belongs to it")
def test_what_is_named_is_there() -> None:
    missing = []
    for path in _files():
        text = path.read_text()
        missing += [(path.name, name) for name in _PATH.findall(text) if not (PROJECT / name).exists()]
        missing += [(path.name, name) for name in _MODULE.findall(text) if not _is_there(name)]
    # `training.md` and the like are links within the docs.
    # caption_words is the stage that docs/adding-a-stage.md adds.
    others = re.compile(r"^benchmarks/results/gpu/|caption_words|\.(md|log|yaml|__path__|__file__)$")
    assert not [pair for pair in missing if not others.search(pair[1])]
