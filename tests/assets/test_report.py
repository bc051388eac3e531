"""The report of a root: what is in it, that nothing of the data can act in it, and that no failure is hidden by it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from assets.definitions import defs
from assets.page.report import Provenance, write_report
from assets.page.report.document import table, text
from assets.page.report.provenance import threshold_source, without_credentials
from assets.settings import Settings
from clip_cid.app import app
from pipeline.core import schema
from pipeline.storage.result import read_result
from pipeline.storage.roots import open_root
from pipeline.storage.stage import Stage
from tests.conftest import SmallRun, small_settings
from tests.s3 import Store

HOSTILE = "<script>alert('x')</script><img src=https://evil.example/a.png> & \u202eolleh"
TIME = re.compile(r"<time>.*?</time>")


class Parsed(HTMLParser):
    """Elements, what they would fetch or link to, and the text between them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def page_of(root: Path) -> str:
    return (root / "report.html").read_text(encoding="utf-8")


def made(root: Path, name: str, tables: dict[str, pa.Table], stats: dict[str, Any] | None = None) -> None:
    """A complete stage that has made these tables."""
    stage = Stage(root, name, version=9, config=None, inputs={name: 0})
    with stage.running():
        with stage.output(name) as output:
            for place, rows in tables.items():
                pq.write_table(rows, output.path(f"{place}/{place}.parquet"))
            output.rows, output.stats = sum(map(len, tables.values())), stats or {}
        stage.finish()


def small(root: Path) -> Path:
    """A root of which a single stage is complete."""
    pairs = pa.table({"sample_id": [1], "image_id": [1], "url": ["http://a.example/1"], "caption": [HOSTILE]})
    stats = {"listed": 4, "unusable": 1, "exact_repeats": 0, "bad_lines": 2, "images": 1, "pairs": 1}
    made(root, "source_pairs", {"source_pairs": pairs.cast(schema.SOURCE_PAIRS)}, stats)
    return root


def evaluated(root: Path, digest: str) -> None:
    rows = [
        {"model": model, "task": "zero_shot", "dataset": "<b>birds", "metric": "top1", "value": value, "samples": 9}
        for model, value in (("teacher", 0.7551), ("student", 0.4333))
    ]
    table_ = pa.Table.from_pylist(rows, schema=schema.EVALUATION)
    made(root, "evaluation", {"evaluation": table_}, {"models": {"student": digest}, "skipped": {"cars": "no <test>"}})


def trained(root: Path) -> None:
    names = [*schema.TRAINING_METRICS, "contrastive"]
    rows = [dict.fromkeys(names, 10.0 / step) | {"step": step, "samples_seen": 32 * step} for step in (1, 2, 4)]
    made(root, "student", {"training_metrics": pa.Table.from_pylist(rows)}, {"steps": 4, "samples_seen": 128})


def recaption(root: Path) -> None:
    """Give the pairs a caption that would act if it were no text."""
    mark = root / ".marks/source_pairs/complete.json"
    content = json.loads(mark.read_text())
    for path in (root / "source_pairs").glob("*.parquet"):
        found = pq.read_table(path)
        place = found.column_names.index("caption")
        pq.write_table(found.set_column(place, "caption", pa.array([HOSTILE] * len(found))), path)
        content["files"][f"source_pairs/{path.name}"] = path.stat().st_size
    mark.write_text(json.dumps(content))


def test_everything_of_a_root_is_in_one_file_that_cannot_act(copied: SmallRun) -> None:
    recaption(copied.root)
    trained(copied.root)
    evaluated(copied.root, read_result(copied.root, "student").digest)
    run = Provenance.of_job("clip_cid", ["source_pairs", "balanced_pairs", "student", "evaluation"], copied.settings)
    written = write_report(copied.settings, run=run)
    page = page_of(copied.root)
    parsed = Parsed(page)
    assert written.sections == (
        *("Balance", "Clusters", "Training", "Evaluation", "Refused", "Time and cost", "Config", "Versions"),
    )
    assert written.place == str((copied.root / "report.html").resolve()) and written.bytes == len(page.encode())
    # Nothing is fetched and nothing runs, whatever the captions say.
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(parsed.tags)
    assert all(target.startswith(("data:image/jpeg;base64,", "#")) for target in parsed.targets)
    assert "default-src 'none'" in page and "\u202e" not in page
    assert "<script>alert('x')</script>" in parsed.text and "<b>birds" in parsed.text and "no <test>" in parsed.text
    # Figures are those of the tables.
    balance = read_result(copied.root, "balance").stats
    for said in (f"{balance['kept']:,}", f"{balance['removed']:,}", f"{balance['threshold']:.4g}", "75.5%", "43.3%"):
        assert said in parsed.texts, said
    assert "Threshold: solved for balance.target_removal 0.3" in parsed.text
    assert "clusters: of an earlier run; the job clip_cid does not make it." in parsed.text
    assert "neighbors.max_distance" in parsed.texts and "failed_to_resize" in parsed.text
    assert parsed.tags.count("img") == 8
    assert "alarm" not in re.findall(r'class="(\w+)"', page)
    # Again, from what was left with the root, and without drawing anything.
    before = {path: path.stat().st_mtime_ns for path in (copied.root / "pictures").iterdir()}
    assert write_report(Settings(root=str(copied.root))).digest == written.digest
    assert TIME.sub("", page_of(copied.root)) == TIME.sub("", page)
    assert {path: path.stat().st_mtime_ns for path in (copied.root / "pictures").iterdir()} == before
    # A student that was trained anew is not the one that was measured.
    evaluated(copied.root, "another")
    write_report(copied.settings)
    assert "The evaluation below is of an earlier student" in page_of(copied.root)


def test_what_a_root_lacks_is_left_out_or_said(tmp_path: Path) -> None:
    root = small(tmp_path / "root")
    written = write_report(Settings(root=str(root)))
    assert written.sections == ("Refused", "Time and cost", "Config", "Versions") and written.open == {}
    said = Parsed(page_of(root)).text
    assert "Of 4 that were listed, 1 pairs are used." in said and "bad lines" in said
    assert said.count("Not known: no job has left") == 2
    # Begun and not finished.
    (root / ".marks/images").mkdir()
    assert list(write_report(Settings(root=str(root))).open) == ["images"]
    assert "Not complete: images. stage 'images' is not complete" in Parsed(page_of(root)).text
    # Never begun, by a job that should have.
    settings = small_settings(root)
    run = Provenance.of_job("curate", ["source_pairs", "balanced_pairs", "baseline", "report"], settings)
    assert list(write_report(settings, run=run).open) == ["images", "balance", "baseline"]


def test_a_section_that_cannot_be_made_takes_no_other_with_it(tmp_path: Path) -> None:
    root = small(tmp_path / "root")
    evaluated(root, "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assets.page.report.results.evaluation_section", _fails)
        written = write_report(Settings(root=str(root)))
    assert "Evaluation" in written.sections
    assert "This section could not be made: no <disk>" in Parsed(page_of(root)).text


def _fails(*_: object) -> None:
    raise OSError("no <disk>")


def job(root: Path, *steps: str, **changes: Any) -> dg.ExecuteInProcessResult:
    config = small_settings(root, **changes).model_dump(mode="json")
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_job_def("curate").execute_in_process(
            run_config={"resources": {"settings": {"config": config}}},
            asset_selection=[dg.AssetKey(step) for step in steps],
            instance=instance,
            raise_on_error=False,
        )


def test_a_job_ends_with_it(tmp_path: Path) -> None:
    root = small(tmp_path / "root")
    result = job(root, "report")
    (event,) = result.asset_materializations_for_node("report")
    assert event.metadata["report"].value == str(root / "report.html")
    assert "Settings and versions of the job curate" in Parsed(page_of(root)).text


def test_a_failed_stage_is_not_hidden(tmp_path: Path) -> None:
    root = small(tmp_path / "root")
    write_report(Settings(root=str(root)))
    result = job(root, "source_pairs", "report", source={"lists": ["missing<b>.parquet"]})
    assert not result.success
    said = Parsed(page_of(root)).text
    assert "The last run failed at source_pairs: list 'missing<b>.parquet': no such file" in said


def test_every_job_ends_with_the_report() -> None:
    for name in ("clip_cid", "curate", "distill", "ablation"):
        found = defs.resolve_job_def(name)
        order = [node.name for node in found.nodes_in_topological_order]
        assert "report" in order
        last = {"clip_cid": "evaluation", "curate": "balance", "distill": "evaluation", "ablation": "ablation_results"}
        assert order.index(last[name]) < order.index("report")


def test_in_a_bucket(s3: Store) -> None:
    root = open_root(s3.url, s3.machine("a"))
    small(root)
    written = write_report(Settings(root=s3.url, storage=s3.machine("a")))
    assert written.place == f"{s3.url}/report.html"
    assert s3.read("report.html").startswith(b"<!doctype html>")
    assert "endpoint_url" not in s3.read("report.html").decode()


def command(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], prog_name="clip-cid")
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_the_command(tmp_path: Path) -> None:
    root = small(tmp_path / "root")
    assert command(root) == f"report: {root / 'report.html'}\n"
    assert "no stage has been at work there" in command(tmp_path / "none", code=1)
    assert not (tmp_path / "none").exists()


def test_the_command_writes_pictures(tmp_path: Path) -> None:
    root, folder = small(tmp_path / "root"), tmp_path / "pictures"
    evaluated(root, "x")
    assert f"pictures: 4 files in {folder}\n" in command(root, "--pictures", folder)
    names = {f"evaluation-{theme}.{ending}" for theme in ("light", "dark") for ending in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in (root / "pictures").iterdir()] == ["evaluation.png"]
    assert "exists; --overwrite replaces it" in command(root, "--pictures", folder, code=2)


def test_no_credentials_are_shown() -> None:
    values = Settings().model_dump(mode="json")
    values["storage"]["options"] = {"key": "AKIA", "secret": "hush", "nested": {"token": "hush"}}
    values["source"]["lists"] = ["https://me:hush@lists.example/a.parquet?X-Signature=hush&b=1", "demo"]
    shown = without_credentials(values)
    assert "hush" not in json.dumps(shown) and "AKIA" not in json.dumps(shown)
    assert shown["source"]["lists"] == ["https://lists.example/a.parquet?(not shown)", "demo"]
    assert values["storage"]["options"]["secret"] == "hush"


@pytest.mark.parametrize(
    ("balance", "used", "said"),
    [
        ({"threshold": 0.25}, 0.25, "given as balance.threshold"),
        ({"threshold": 0.25}, 0.3, "not known: the last job had 0.25, this balance is of another"),
        ({"target_removal": 0.5}, 0.3, "solved for balance.target_removal 0.5"),
        ({}, 0.3, "solved for 0.437, the share that the paper removed: no threshold and no share were given"),
    ],
)
def test_what_set_the_threshold(balance: dict[str, float], used: float, said: str) -> None:
    run = Provenance.of_job("curate", [], Settings.model_validate({"balance": balance}))
    assert threshold_source(run, {"threshold": used}) == said
    assert threshold_source(None, {"threshold": used}).startswith("not known")


def test_values_as_text() -> None:
    assert text("<&\"'>") == "&lt;&amp;&quot;&#x27;&gt;"
    assert text(12345) == "12,345" and text(0.123456) == "0.1235" and text(None) == "" and text(True) == "true"
    assert "<td>&lt;b&gt;</td>" in table(("<i>",), [("<b>",)]) and "<th>&lt;i&gt;</th>" in table(("<i>",), [])
