"""A run config as a file: right as Dagster reads it, or refused with the line."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from assets.run_config import as_run_config, json_schema, read_run_config
from assets.settings import Settings
from pipeline.core.errors import ConfigError

PROFILES = sorted((Path(__file__).resolve().parents[2] / "profiles").glob("*.yaml"))
HEAD = "resources:\n  settings:\n    config:\n"


def read(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "run.yaml").write_text(text)
    return read_run_config(tmp_path / "run.yaml")


@pytest.mark.parametrize("path", PROFILES, ids=[path.stem for path in PROFILES])
def test_profiles_are_read_and_fit_the_schema(path: Path) -> None:
    settings = read_run_config(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())
    content = yaml.safe_load(as_run_config(settings))["resources"]["settings"]["config"]
    assert Settings.model_validate(content) == settings


def test_nothing_is_the_demo(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "resources:\n", HEAD):
        assert read(tmp_path, text) == Settings()


def test_scalars_are_what_people_mean_today(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        HEAD + "      root: no\n      student: {optimizer: {eps: 1e-6, learning_rate: 5e-4}, steps: 0100}\n"
        "      embeddings: {threads: 2}\n",
    )
    assert settings.root == "no" and settings.student.steps == 100
    assert (settings.student.optimizer.eps, settings.student.optimizer.learning_rate) == (1e-6, 5e-4)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (HEAD + "      root: a\n      query: {threads: 1}\n      root: b\n", 6, "root stands twice; first in line 4"),
        (HEAD + "      query: {threads: 1, threads: 2}\n", 4, "threads stands twice; first in line 4"),
        (HEAD + "      neighbors:\n        max_distanc: 0.3\n", 5, "did you mean max_distance?"),
        (HEAD + "      neighbours: {}\n", 4, "neighbours is called neighbors now"),
        (HEAD + "      neighbors:\n        max_distance: .nan\n", 5, "neighbors.max_distance"),
        (HEAD + "      balance:\n        cells: null\n", 5, "balance.cells"),
        (HEAD + "      images: {retry_statuses: [failed_to_download,\n         nonsense]}\n", 5, "retry_statuses.1"),
        (HEAD + "      query: 5\n", 4, "query"),
        (HEAD + "     root: a\n   b: c\n", 5, "no YAML"),
        ("resources: [1]\n", 1, "resources has to be a mapping"),
        ("root: data\n", 1, "root is not known here; settings stand under resources: settings: config:"),
        ("ops:\n  x: 1\n", 1, "ops is not known here"),
        ("- a\n", 1, "has to be a mapping"),
        ("a: b: c\n", 1, "no YAML"),
        ("x: *nobody\n", 1, "no YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "no YAML"),
        ("{[1]: 2}\n", 1, "a key is a text"),
    ],
)
def test_what_is_wrong_has_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path}/run.yaml:{line}: ") and message in str(refused.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_run_config(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_run_config(tmp_path / "missing.yaml")


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, HEAD + "      query: {threads: -1}\n      clusters: {clusters: many}\n")
    assert [line.partition(": ")[0][-1] for line in str(refused.value).splitlines()] == ["4", "5"]


def test_problems_come_in_the_order_of_their_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, HEAD + "      query: {threads: -1}\n" + "\n" * 7 + "      clusters: {clusters: many}\n")
    lines = [line.removeprefix(f"{tmp_path}/run.yaml:").partition(":")[0] for line in str(refused.value).splitlines()]
    assert lines == ["4", "12"]


def test_aliases_that_multiply_or_hold_themselves_are_refused_at_once(tmp_path: Path) -> None:
    laughs = "".join(f"      x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
    for text in ("      x0: &x0 [a]\n" + laughs, "      x: &x [*x]\n"):
        with pytest.raises(ConfigError, match="Extra inputs are not permitted"):
            read(tmp_path, HEAD + text)


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(json_schema()))["properties"]["resources"]
