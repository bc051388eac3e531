"""The emoji benchmark on an invented package of three emoji; no network, no npm."""

import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from assets.run_config import read_run_config
from benchmarks.emoji import packages, steps, styles, tables
from benchmarks.emoji.captions import PROMPTS, captions_of
from benchmarks.emoji.catalog import Emoji, code_of, read_catalog
from benchmarks.emoji.corpus import write_metadata
from benchmarks.emoji.evaluation_sets import SIZE, SUBGROUPS, trimmed, write_evaluation_sets
from benchmarks.emoji.packages import Package, fetch, integrity_of, read_packages, unpack
from pipeline.balance.report import BalanceReport
from pipeline.core.errors import ConfigError, DownloadError, SourceError
from pipeline.core.query import QueryConfig
from pipeline.own_images import OwnImages, import_own_pairs
from pipeline.source.config import SourceConfig
from pipeline.storage.stage import Output, Stage
from training.evaluation import read_evaluation_set

HAND, DARK_HAND, FLAG, CAT = "1F44B", "1F44B-1F3FF", "2691", "1F408"


def _entry(unified: str, name: str, category: str, subgroup: str, **more: Any) -> dict[str, Any]:
    shown = {f"has_img_{vendor}": True for vendor in ("apple", "facebook", "google", "twitter")}
    own = {"unified": unified, "image": f"{unified.lower()}.png", **shown}
    return {"name": name, "short_names": [name.lower()], "category": category, "subcategory": subgroup, **own, **more}


DATASOURCE = [
    _entry(HAND, "WAVE", "People & Body", "hand-fingers-open", short_names=["wave", "waving_hand"]),
    _entry(f"{FLAG}-FE0F", "FLAG", "Flags", "flag", has_img_apple=False),
    _entry(CAT, "CAT", "Animals & Nature", "animal-mammal"),
]
DATASOURCE[0]["skin_variations"] = {"1F3FF": _entry(DARK_HAND, "", "", "")}
CLDR = [
    {
        "hexcode": HAND,
        "label": "waving hand",
        "tags": ["bye", "hello"],
        "skins": [{"hexcode": DARK_HAND, "label": "waving hand: dark skin tone"}],
    },
    {"hexcode": FLAG, "label": "flag"},
    {"hexcode": CAT, "label": "cat", "tags": ["animal", "animals", "cats", "kitten", "pet"]},
]


@pytest.fixture
def catalog(tmp_path: Path) -> list[Emoji]:
    return _catalog(tmp_path, CLDR)


def _catalog(folder: Path, cldr: list[dict[str, Any]]) -> list[Emoji]:
    (folder / "emoji.json").write_text(json.dumps(DATASOURCE))
    (folder / "data.json").write_text(json.dumps(cldr))
    return read_catalog(folder / "emoji.json", folder / "data.json")


def _tarball(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 86400
            tar.addfile(member, io.BytesIO(content))
    return path


def _png(box: tuple[int, int, int, int] = (0, 0, 8, 8), color: str = "red", size: int = 8) -> bytes:
    image = Image.new("RGBA", (size, size))
    image.paste(color, box)
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def test_catalog_joins_lists_whatever_their_selectors_and_names_every_skin_tone(catalog: list[Emoji]) -> None:
    assert [emoji.code for emoji in catalog] == [HAND, DARK_HAND, FLAG, CAT]
    assert code_of("0023-fe0f-20e3") == "0023-20E3"
    dark = catalog[1]
    assert (dark.skin_tone, dark.name) == ("dark", "waving hand: dark skin tone")
    assert dark.keywords == ("bye", "hello") and dark.subgroup == "hand-fingers-open"
    assert catalog[2].vendors == ("facebook", "google", "twitter")


def test_a_name_without_its_skin_tone_gets_it(tmp_path: Path) -> None:
    cldr = [{**CLDR[0], "skins": [{"hexcode": DARK_HAND, "label": "waving hand"}]}, *CLDR[1:]]
    assert _catalog(tmp_path, cldr)[1].name == "waving hand: dark skin tone"


def test_an_emoji_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"data\.json: no name for {CAT}, 'CAT' of .*emoji\.json"):
        _catalog(tmp_path, CLDR[:2])


def test_captions_follow_the_templates_without_repeats(catalog: list[Emoji]) -> None:
    assert captions_of(catalog[1], "apple") == [
        "waving hand: dark skin tone",
        "an emoji of waving hand: dark skin tone",
        "waving hand: dark skin tone: bye, hello",
        "hand fingers open: waving hand: dark skin tone",
        "the waving hand: dark skin tone emoji by Apple",
        "wave, dark skin tone",
        "waving hand, dark skin tone",
    ]
    # No keywords, and a short name that is the name.
    assert captions_of(catalog[2], "google") == ["flag", "an emoji of flag", "flag: flag", "the flag emoji by Google"]
    assert captions_of(catalog[3], "google")[2] == "cat: animal, animals, cats, kitten"


def test_the_corpus_is_read_as_own_images(tmp_path: Path, catalog: list[Emoji]) -> None:
    folder = tmp_path / "images"
    for place, vendor in enumerate(("apple", "google")):
        (folder / vendor).mkdir(parents=True)
        for number, emoji in enumerate(catalog):
            content = _png(color=f"#0{place}{number}")
            (folder / vendor / emoji.image).write_bytes(content)
    licenses = {"apple": "© Apple", "google": "Apache-2.0"}
    assert write_metadata(folder, catalog, licenses) == {"apple": 3, "google": 4}
    written = (folder / "metadata.jsonl").stat()
    write_metadata(folder, catalog, licenses)
    assert (folder / "metadata.jsonl").stat().st_ino == written.st_ino

    columns = ["unicode", "vendor", "license"]
    source = SourceConfig(images=[str(folder)], images_format="folder", caption_column="text", columns=columns)
    import_own_pairs(tmp_path / "root", OwnImages.of(source), QueryConfig())
    pairs = [
        row for path in (tmp_path / "root/source_pairs").glob("*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    expected = sorted(
        caption
        for vendor in licenses
        for emoji in catalog
        if vendor in emoji.vendors
        for caption in captions_of(emoji, vendor)
    )
    assert sorted(pair["caption"] for pair in pairs) == expected
    # Apple's flag, which the catalog does not say it has.
    unused = pq.read_table(next((tmp_path / "root/unused_images").glob("*.parquet"))).to_pylist()
    assert [row["reason"] for row in unused] == ["no_caption"]
    attributes = pq.read_table(next((tmp_path / "root/source_attributes").glob("*.parquet"))).to_pylist()
    assert {(row["vendor"], row["license"]) for row in attributes} == set(licenses.items())


def test_an_image_that_a_vendor_lacks_is_named(tmp_path: Path, catalog: list[Emoji]) -> None:
    (tmp_path / "google").mkdir()
    with pytest.raises(SourceError, match=r"google: no 1f44b\.png, waving hand"):
        write_metadata(tmp_path, catalog, {"google": "Apache-2.0"})


def test_pinned_packages_have_versions_hashes_and_licenses() -> None:
    for package in read_packages().values():
        assert package.version.count(".") == 2 and package.license
        assert package.integrity.startswith("sha512-") and len(package.integrity) == 95


def _package(integrity: str = "sha512-no") -> Package:
    return Package(name="@scope/set", version="1.2.3", integrity=integrity, license="MIT")


def test_a_package_is_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tarball = _tarball(tmp_path / "served.tgz", {"package/a.png": b"a"})
    calls = []

    def pack(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        Path(command[-1], "scope-set-1.2.3.tgz").write_bytes(tarball.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.shutil, "which", lambda name: name)
    monkeypatch.setattr(packages.subprocess, "run", pack)
    package = _package(integrity_of(tarball))
    assert fetch(package, tmp_path / "here").read_bytes() == tarball.read_bytes()
    assert fetch(package, tmp_path / "here") == tmp_path / "here" / "scope-set-1.2.3.tgz"
    assert [call[:3] for call in calls] == [["npm", "pack", "@scope/set@1.2.3"]]

    with pytest.raises(SourceError, match=r"integrity sha512-.*==, expected sha512-no; removed"):
        fetch(_package(), tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_what_npm_cannot_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"^npm is needed to fetch @scope/set and is not on the PATH: install Node\.js$"
    ):
        fetch(_package(), tmp_path)
    monkeypatch.setattr(packages.shutil, "which", lambda name: name)
    for output, reason in (('{"error": {"summary": "No match"}}', "No match"), ("", "status 1, and no word of why")):
        failed = subprocess.CompletedProcess([], 1, output)
        monkeypatch.setattr(packages.subprocess, "run", lambda *_, done=failed, **__: done)
        with pytest.raises(DownloadError, match=rf"^npm pack @scope/set@1\.2\.3: {reason}$"):
            fetch(_package(), tmp_path)


def test_one_folder_of_a_package_is_unpacked_whole_with_its_times(tmp_path: Path) -> None:
    files = {
        "package/img/64/a.png": b"a",
        "package/img/64/b.png": b"b",
        "package/img/32/a.png": b"c",
        "package/x": b"d",
    }
    tarball = _tarball(tmp_path / "set.tgz", files)
    unpack(tarball, tmp_path / "a" / "images", "img/64")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a/images").iterdir()} == {
        "a.png": b"a",
        "b.png": b"b",
    }
    assert (tmp_path / "a/images/a.png").stat().st_mtime == 86400
    unpack(tmp_path / "gone.tgz", tmp_path / "a" / "images", "img/64")
    unpack(tarball, tmp_path / "a" / "top")
    assert [path.name for path in (tmp_path / "a").rglob("x")] == ["x"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["images", "top"]


def test_what_cannot_be_unpacked_leaves_nothing(tmp_path: Path) -> None:
    tarball = _tarball(tmp_path / "set.tgz", {"package/a.png": b"a"})
    with pytest.raises(SourceError, match=r"set\.tgz: no files in package/img"):
        unpack(tarball, tmp_path / "a" / "images", "img")
    with tarfile.open(tarball, "w:gz") as tar:
        link = tarfile.TarInfo("package/a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(SourceError, match=r"set\.tgz: .*absolute"):
        unpack(tarball, tmp_path / "a" / "images")
    tarball.write_bytes(tarball.read_bytes()[:40])
    with pytest.raises(SourceError, match=r"set\.tgz: "):
        unpack(tarball, tmp_path / "a" / "images")
    assert list((tmp_path / "a").iterdir()) == []


def test_styles_are_svg_by_code(tmp_path: Path) -> None:
    (tmp_path / "2691-FE0F.svg").write_text("<svg/>")
    assert styles.openmoji(tmp_path) == {FLAG: "<svg/>"}
    icons = {
        "icons": {"cat": {"body": "<path/>"}, "hand": {"body": "<g/>", "width": 16}},
        "aliases": {"right": {"parent": "hand", "hFlip": True}},
        "width": 32,
        "height": 32,
    }
    (tmp_path / "icons.json").write_text(json.dumps(icons))
    (tmp_path / "chars.json").write_text(json.dumps({"1f408": "cat", "1f44b": "right"}))
    found = styles.iconify(tmp_path)
    assert found[CAT].endswith('viewBox="0 0 32 32"><path/></svg>')
    assert 'viewBox="0 0 16 32"><g transform="translate(16 0) scale(-1 1)"><g/></g>' in found[HAND]
    (tmp_path / "chars.json").write_text(json.dumps({"1f408": "dog"}))
    with pytest.raises(SourceError, match="cannot draw 'dog': no such icon"):
        styles.iconify(tmp_path)


def test_a_drawing_fills_a_white_square() -> None:
    with Image.open(io.BytesIO(trimmed(_png((100, 40, 132, 56), "red", 256)))) as image:
        assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
        # 32 x 16 pixels in a square of 34: twice as wide as high, in the middle.
        red = [(x, y) for x in range(SIZE) for y in range(SIZE) if image.getpixel((x, y))[1] < 128]  # type: ignore[index]
        assert {min(x for x, _ in red), SIZE - 1 - max(x for x, _ in red)} <= {1, 2}
        assert {min(y for _, y in red), SIZE - 1 - max(y for _, y in red)} <= {16, 17, 18}
        assert image.getpixel((0, 0)) == (255, 255, 255)


def test_evaluation_sets_hold_what_both_styles_have_and_are_read_back(tmp_path: Path, catalog: list[Emoji]) -> None:
    shown = {"emoji_one": {HAND: "h1", DARK_HAND: "d1", CAT: "c1", FLAG: "f1"}, "emoji_two": {CAT: "c2", HAND: "h2"}}

    def draw(drawings: Sequence[str], size: int) -> list[bytes]:
        return [_png((0, 0, 32, 32), {"1": "red", "2": "blue"}[name[1]], size) for name in drawings]

    counts = write_evaluation_sets(tmp_path, catalog, shown, draw)
    assert counts == {"emoji_one": 2, "emoji_two": 2, "emoji_subgroups": 2}
    two = read_evaluation_set(tmp_path / "emoji_two")
    assert two.classnames == ("waving hand", "cat") and two.templates == PROMPTS and two.train is None
    assert two.test.labels == (0, 1)
    together = read_evaluation_set(tmp_path / "emoji_subgroups")
    assert together.classnames == ("animal mammal", "hand fingers open")
    assert together.test.labels == (1, 0, 1, 0)
    colors = [Image.open(io.BytesIO(member.read())).getpixel((32, 32)) for member in together.test.images]
    assert colors == [(255, 0, 0)] * 2 + [(0, 0, 255)] * 2


def test_tables_are_those_of_the_roots(tmp_path: Path) -> None:
    rows = {
        "evaluation": [
            {"dataset": "one", "model": model, "task": task, "metric": metric, "value": value}
            for model in ("student", "teacher")
            for task, metric, value in (("zero_shot", "top1", 0.25), ("zero_shot", "top5", 0.5), ("other", "top1", 0.9))
        ],
        "ablation": [
            {"dataset": "one", "data": "all", "losses": "both", "task": "zero_shot", "metric": "top1", "value": value}
            for value in (0.1, 0.3)
        ],
    }

    def write(output: Output) -> None:
        for table, content in rows.items():
            pq.write_table(pa.Table.from_pylist(content), output.path(f"{table}/all.parquet"))

    def balance(output: Output) -> None:
        write(output)
        output.stats = dict.fromkeys(BalanceReport.__dataclass_fields__, 4) | {"threshold": 0.43216}

    Stage(tmp_path, "balance", version=4, config=None, inputs={"all": 1}).each(balance)
    assert tables.data(tmp_path) == [dict.fromkeys(tables._COUNTS, 4) | {"threshold": 0.4322}]
    assert tables.accuracies(tmp_path, ["student"]) == [
        {"dataset": "one", "model": "student", "top1_percent": 25.0, "top5_percent": 50.0}
    ]
    cell = {"dataset": "one", "data": "all", "losses": "both", "top1_percent": 20.0, "deviation": 14.14, "seeds": 2}
    assert tables.ablation(tmp_path) == [cell]


def test_the_configs_fit_one_another_and_the_steps() -> None:
    teacher, student = (
        read_run_config(steps.PROJECT / f"benchmarks/emoji/{name}.yaml") for name in ("teacher", "student")
    )
    assert Path(student.teacher.model) == Path(teacher.root) / "student"
    assert student.source == teacher.source and student.evaluation == teacher.evaluation
    for path in (teacher.root, student.root, *teacher.source.images, *teacher.evaluation.datasets):
        assert (steps.PROJECT / path).is_relative_to(steps.DATA)
    names = [Path(path).name for path in teacher.evaluation.datasets]
    assert names == [*steps.STYLES, SUBGROUPS]
