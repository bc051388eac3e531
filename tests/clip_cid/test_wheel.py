"""The wheel in an environment of its own, outside the checkout: what it holds, what runs, what type checkers see."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallRun
from tests.shared import made_once, plain_embeddings

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("clip_cid", "pipeline", "training", "assets")

pytestmark = pytest.mark.slow


def run(folder: Path, *command: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def build(folder: Path) -> None:
    """Build the wheel from what belongs to the project, and install it beside the libraries that are here."""
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(folder, *pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", symlinks=True, with_pip=False)
    python = folder / "env" / "bin" / "python"
    run(folder, *pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # The libraries, but not the checkout: paths in .pth files of a folder that was named in one are not followed.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "wheel", build)


def test_everything_that_is_read_is_in_it(environment: Path) -> None:
    (wheel,) = environment.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(PROJECT).as_posix()
        for package in PACKAGES
        for ending in ("py", "sql", "json", "typed", "html", "css", "js")
        for path in (PROJECT / package).rglob(f"*.{ending}")
    }
    assert not wanted - names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)


def test_the_command_and_the_modules_are_the_wheels(environment: Path, tmp_path: Path) -> None:
    version = run(tmp_path, str(environment / "env/bin/clip-cid"), "--version")
    assert re.fullmatch(r"clip-cid \d+\.\d+\.\d+\n", version)
    code = "import assets.definitions, clip_cid, pipeline, training; print(pipeline.__file__)"
    place = run(tmp_path, str(environment / "env/bin/python"), "-c", code).strip()
    assert place.startswith(str(environment / "env"))


def test_balanced_embeddings_in_two_commands(environment: Path, finished: SmallRun, tmp_path: Path) -> None:
    plain_embeddings(finished.root, tmp_path / "embeddings")
    readme = (PROJECT / "README.md").read_text()
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "clip-cid forest" in block]
    for line in commands.strip().splitlines():
        assert line.startswith("clip-cid ")
        run(tmp_path, str(environment / "env/bin/clip-cid"), *line.split()[1:])
    assert (tmp_path / "balanced" / "removed_pairs.parquet").exists()


def test_snippets_run_and_have_types(environment: Path, finished: SmallRun, tmp_path: Path) -> None:
    plain_embeddings(finished.root, tmp_path / "embeddings")
    (snippet,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "snippet.py").write_text(snippet)
    python = str(environment / "env/bin/python")
    run(tmp_path, python, "snippet.py")
    wrong = snippet.replace("max_distance=0.6", 'max_distance="0.6"')
    (tmp_path / "wrong.py").write_text(wrong)
    # Of what the snippet calls, the types of torch and the like are not asked for, and take minutes to read.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*,scipy.*,numpy.*,dagster.*]\nfollow_imports = skip\n")
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, "--follow-imports=silent"]
    found = subprocess.run(
        [*mypy, "snippet.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    ).stdout
    assert re.search(r'^wrong\.py:\d+: error: Argument "max_distance" .* has incompatible type "str"', found, re.M)
    assert "snippet.py" not in found


def _faces() -> list[str]:
    """Packages with a public face."""
    found = []
    for path in sorted(PROJECT.glob("*/*/__init__.py")):
        package = ".".join(path.relative_to(PROJECT).parts[:-1])
        if package.split(".")[0] in PACKAGES and "__all__" in path.read_text():
            found.append(package)
    return found


@pytest.mark.parametrize("package", _faces())
def test_every_public_name_is_there_and_explained(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        thing: Any = getattr(module, name)
        assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), f"{package}.{name}"


def test_every_public_function_is_in_the_reference() -> None:
    pages = "".join(path.read_text() for path in (PROJECT / "docs" / "reference").glob("*.md"))
    # A function that lies in a module of its own name is named with it, or the page would have the module.
    named = re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)
    listed = {*named, *(re.sub(r"\.(\w+)\.\1$", r".\1", name) for name in named)}
    for package in _faces():
        tree = ast.parse((PROJECT / package.replace(".", "/") / "__init__.py").read_text())
        (names,) = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ]
        # Sections of the settings have a page of their own.
        missing = {f"{package}.{name}" for name in names if not name.endswith("Config")} - listed
        assert not missing
