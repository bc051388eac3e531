"""Each config of the guide, as it stands there, on small data that lies where it says."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from assets.run_config import read_run_config
from assets.settings import Settings
from pipeline.core.settings import DEMO
from pipeline.demo.server import serve
from pipeline.demo.stage import HOST
from pipeline.download.resize import Resizer
from pipeline.heads.stage import score_images
from pipeline.own_images import OwnImages, adopt_images, import_own_pairs
from pipeline.storage.result import read_result
from tests.conftest import (
    SMALL,
    SmallRun,
    run_balance,
    run_clusters,
    run_embeddings,
    run_images,
    run_shards,
    run_source,
    run_teacher,
)
from tests.integration.job import Job
from tests.integration.stages import train_student

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((PROJECT / "profiles" / "guide").glob("*.yaml"))
PAGES = [PROJECT / "docs" / "guide.md", *sorted((PROJECT / "docs" / "guide").glob("*.md"))]
SIZES = {"processes": 1, "threads": 8, "image_size": 64, "timeout_s": 60}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths of the configs begin in the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(name: str, **more: Any) -> Settings:
    """A config of the guide: what it says of data, captions, filters and losses, with the sizes of a small run."""
    values = yaml.safe_load((PROJECT / "profiles" / "guide" / f"{name}.yaml").read_text())
    given = values["resources"]["settings"]["config"]
    own = {"teacher", "embeddings", "clusters"}
    # A teacher of a few steps puts all images close together, so a share is asked for.
    share = {} if given["balance"]["threshold"] < 0.001 else {"threshold": None, **SMALL["balance"]}
    smaller: dict[str, Any] = {
        "demo": SMALL["demo"],
        "source": given["source"] | SMALL["source"],
        "images": given.get("images", {}) | SIZES,
        "neighbors": given.get("neighbors", SMALL["neighbors"]),
        "balance": given["balance"] | share,
        "clusters": SMALL["clusters"] | ({"clusters": 1} if given["clusters"]["clusters"] == 1 else {}),
        "checks": SMALL["checks"],
        "shards": SMALL["shards"],
        "student": {"losses": given["student"].get("losses", {})} | SMALL["student"] | {"steps": 4, "ranks": 1},
    }
    rest = {section: value for section, value in given.items() if section not in smaller and section not in own}
    return Settings.model_validate(rest | smaller | more)


def run(settings: Settings, teacher: Path | None = None) -> dict[str, Any]:
    """All stages up to the training shards, with the teacher of another root; the counts of ``source_pairs``."""
    root = settings.path
    if settings.source.images:
        own = OwnImages.of(settings.source)
        counts = import_own_pairs(root, own, settings.query).stats
        adopt_images(root, own, Resizer(**settings.images.resizing()) if settings.source.resize else None)
    else:
        counts = run_source(settings).stats
        run_images(settings)
    if teacher is not None:
        (root / "teacher").symlink_to(teacher / "teacher")
        (root / ".marks" / "teacher").symlink_to(teacher / ".marks" / "teacher")
        assert run_teacher(settings).computed == 0
    run_embeddings(settings)
    score_images(root, settings.embeddings.heads)
    for stage in (run_balance, run_clusters, run_shards):
        stage(settings)
    return counts


def samples(settings: Settings) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Of each sample of the training shards what its json says, and the embeddings of its captions."""
    for path in sorted((settings.path / "training_shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, content in members.items():
            if name.endswith(".json"):
                yield json.loads(content), np.load(io.BytesIO(members[name.replace(".json", ".text.npy")]))


def kept(settings: Settings) -> set[str]:
    urls = pq.read_table(settings.path / "balanced_pairs", columns=["url"])["url"]
    return set(urls.to_pylist())


@pytest.fixture(scope="module")
def listed(finished: SmallRun) -> Iterator[list[dict[str, str]]]:
    """Rows of URL and caption whose images are there, and a server that has them."""
    images = pa.concat_tables(pq.read_table(path) for path in sorted((finished.root / "images").glob("*.parquet")))
    there = {row["url"] for row in images.to_pylist() if row["status"] == "success"}
    rows = pq.read_table(finished.root / "demo" / "pairs.parquet").to_pylist()
    found = {row["URL"]: {"url": row["URL"], "caption": row["TEXT"]} for row in rows if row["URL"] in there}
    yield list(found.values())[:100]


@pytest.fixture
def served(finished: SmallRun) -> Iterator[dict[str, Any]]:
    with serve(finished.root / "demo") as address:
        yield {"connect_to": {HOST: address}}


def downloading(name: str, served: Mapping[str, Any]) -> Settings:
    settings = small(name)
    return settings.model_copy(update={"images": settings.images.model_copy(update=dict(served))})


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_each_config_is_valid_and_stands_in_the_guide(path: Path) -> None:
    read_run_config(path)
    blocks = [block for page in PAGES for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]
    assert blocks.count(path.read_text()) == 1
    assert path.read_text().startswith(f"# {path.relative_to(PROJECT)}: ")


def test_the_config_of_the_readme_is_one_of_them() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert blocks == [(PROJECT / "profiles" / "guide" / "tars.yaml").read_text()]


def test_laion_with_scores(finished: SmallRun, listed: list[dict[str, str]], served: dict[str, Any]) -> None:
    number = np.arange(len(listed))
    table = {
        "URL": [row["url"] for row in listed],
        "TEXT": [row["caption"] for row in listed],
        "similarity": pa.array(np.where(number % 5, 0.31 + number / 1000, 0.2), pa.float32()),
        "pwatermark": np.where(number % 7, 0.1, 0.9),
        "punsafe": [None if n == 1 else 0.01 for n in number],
    }
    Path("laion").mkdir()
    pq.write_table(pa.table(table).slice(0, 60), "laion/part-0.parquet")
    pq.write_table(pa.table(table).slice(60), "laion/part-1.parquet")
    settings = downloading("laion", served)
    counts = run(settings, finished.root)
    wanted = {row["url"]: n for n, row in enumerate(listed) if n % 5 and n % 7 and n != 1}
    assert counts["filtered"] == len(listed) - len(wanted)
    assert kept(settings) < set(wanted)
    groups = pa.concat_tables(
        pq.read_table(path) for path in sorted((settings.path / "balance_groups").glob("*.parquet"))
    ).to_pylist()
    ids = pa.concat_tables(pq.read_table(path) for path in (settings.path / "source_pairs").glob("*.parquet"))
    place = {row["image_id"]: wanted[row["url"]] for row in ids.to_pylist()}
    for group in {row["group_id"] for row in groups}:
        members = [row for row in groups if row["group_id"] == group]
        (stays,) = [row["image_id"] for row in members if row["kept"]]
        assert place[stays] == max(place[row["image_id"]] for row in members)


def test_cc12m_without_a_header(finished: SmallRun, listed: list[dict[str, str]], served: dict[str, Any]) -> None:
    Path("cc12m.tsv").write_text("".join(f"{row['url']}\t{row['caption']}\n" for row in listed))
    settings = downloading("cc12m", served)
    assert run(settings, finished.root)["pairs"] == len(listed)
    assert kept(settings) < {row["url"] for row in listed}


def test_coco_with_several_captions(finished: SmallRun, listed: list[dict[str, str]], served: dict[str, Any]) -> None:
    lines = [{"url": row["url"], "captions": [row["caption"], f"a picture of {row['url']}"]} for row in listed]
    Path("coco.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = downloading("coco", served)
    counts = run(settings, finished.root)
    assert counts["pairs"] == 2 * counts["images"] == 2 * len(listed)
    found = list(samples(settings))
    assert all(len(told["captions"]) == len(text) >= 2 for told, text in found)
    # Those of the images that a kept one stands for are its own too.
    assert sum(len(told["captions"]) for told, _ in found) > 2 * len(found)


def test_tars_of_img2dataset(finished: SmallRun) -> None:
    Path("cc3m").mkdir()
    for number, path in enumerate(sorted((finished.root / "images").glob("*.tar"))):
        shutil.copy(path, f"cc3m/{number:05d}.tar")
    settings = small("tars")
    run(settings, finished.root)
    assert len(list(samples(settings))) == len(kept(settings)) > 0
    assert not list((settings.path / "images").glob("*.tar"))


def pictures(finished: SmallRun) -> list[tuple[bytes, str]]:
    with tarfile.open(min((finished.root / "images").glob("*.tar"))) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return [
        (found[name], found[name.replace(".jpg", ".txt")].decode()) for name in sorted(found) if name.endswith("jpg")
    ]


def test_hugging_face_parquet(finished: SmallRun) -> None:
    Path("captioned/data").mkdir(parents=True)
    found = pictures(finished)
    for number, some in enumerate((found[:70], found[70:])):
        table = {
            "image": [{"bytes": image, "path": "x.jpg"} for image, _ in some],
            "caption": [caption for _, caption in some],
            "alt_text": [caption.upper() for _, caption in some],
        }
        pq.write_table(pa.table(table), f"captioned/data/train-{number:05d}-of-00002.parquet")
    settings = small("hugging_face")
    run(settings, finished.root)
    for told, text in samples(settings):
        assert len(told["captions"]) == len(text) >= 2


def test_embeddings_alone() -> None:
    generator = np.random.default_rng(0)
    apart = generator.standard_normal((150, 32))
    vectors = np.concatenate([apart, apart[:50] + 0.01 * generator.standard_normal((50, 32))])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = {"url": [f"https://x/{n}" for n in range(200)], "caption": [f"number {n}" for n in range(200)]}
    pq.write_table(pa.table({**names, "image_embedding": list(vectors.astype(np.float32))}), "embedded.parquet")
    (commands,) = re.findall(r"```sh\n(clip-cid import .*?)```", PAGES[0].read_text(), re.DOTALL)
    # Those of this checkout and this Python.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": path}
    script = commands.replace("--clusters 1000", "--clusters 8")
    subprocess.run(["bash", "-euc", script], check=True, env=environment)
    verdicts = pq.read_table("balanced/balance_groups.parquet")["kept"].to_pylist()
    assert (verdicts.count(True), verdicts.count(False)) == (150, 50)
    assert pq.read_table("clusters/cluster_assignments.parquet").num_rows == 150


def test_queries_of_the_guide_run(finished: SmallRun) -> None:
    connection = duckdb.connect()
    connection.execute((finished.root / "catalog.sql").read_text())
    queries = [query for page in PAGES for query in re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)]
    (removed,), (images,) = ([connection.sql(query).fetchall()] for query in queries)
    assert 0 < removed[-1][1] < 1 and images[0][0] > 0


def photos(finished: SmallRun) -> None:
    """A folder as people have one: formats, depths and sizes mixed, one image without a caption."""
    for number, (content, caption) in enumerate(pictures(finished)):
        path = Path("photos", f"{number % 3}", f"{number:04d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 4:
            path.with_suffix(".jpg").write_bytes(content)
        else:
            Image.open(io.BytesIO(content)).resize((150, 100)).save(path.with_suffix(".png"))
        if number:
            path.with_suffix(".txt").write_text(f"{caption}\n")


def evaluation_set(finished: SmallRun, folder: Path) -> None:
    """As the page of the layout says: four classes, both splits, two tars in ``test``, two captions an image."""
    folder.mkdir(parents=True)
    (folder / "classnames.txt").write_text("cat\ndog\nfox\nowl\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")
    found = pictures(finished)[:24]
    for split, tars in {"train": [found[:8]], "test": [found[8:16], found[16:]]}.items():
        (folder / split).mkdir()
        (folder / split / "nshards.txt").write_text(f"{len(tars)}\n")
        (folder / split / "count.txt").write_text(f"{sum(map(len, tars))}\n")
        for number, some in enumerate(tars):
            with tarfile.open(folder / split / f"{number}.tar", "w") as tar:
                for key, (content, caption) in enumerate(some):
                    members = {"jpg": content, "cls": str(key % 4).encode(), "txt": f"{caption}\nan image".encode()}
                    for extension, data in members.items():
                        member = tarfile.TarInfo(f"{key:06d}.{extension}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))


def test_a_folder_teaches_a_teacher_and_then_a_student(finished: SmallRun, here: Path) -> None:
    """Both runs on one root, the second as a job, to a student of as many ranks as by default, that is evaluated."""
    photos(finished)
    evaluation_set(finished, Path("evaluation/mine"))
    first = small("teacher")
    assert first.teacher.model == DEMO
    counts = run(first, finished.root)
    assert counts["no_caption"] == 1
    train_student(first)
    losses = pq.read_table(first.path / "training_metrics").column_names
    assert [name for name in losses if name.startswith(("contrastive", "cluster", "instance"))] == ["contrastive"]
    found = read_result(first.path, "images").digest
    shutil.copytree(first.path / "student", "teachers/photos")

    second = small("folder", teacher={"model": "teachers/photos"})
    second = second.model_copy(update={"student": second.student.model_copy(update={"ranks": None})})
    assert second.path == first.path and second.source.content() == first.source.content()
    for name in ("teacher", ".marks/teacher"):
        (first.path / name).unlink()
    job = Job(here)
    job.configure_with(second.model_dump(mode="json"))
    job.run()
    assert read_result(second.path, "images").digest == found
    info = json.loads((second.path / "teacher" / "teacher.json").read_text())
    assert info["name"] == "teachers/photos"
    (snippet,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/guide/evaluation-sets.md").read_text(), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippet, "evaluation-sets.md", "exec"), {})
    assert printed.getvalue() == "mine 4 classes 16 images 8\n"
    rows = pq.read_table(second.path / "evaluation").to_pylist()
    assert {(row["model"], row["task"]) for row in rows} == {
        (model, task) for model in ("teacher", "student") for task in ("zero_shot", "linear_probe", "retrieval")
    }
    assert {row["dataset"] for row in rows} == {"mine"}
