"""A root that an earlier version has completed, when columns and settings had British names."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.balance.stage import _RENAMED, balance_pairs
from pipeline.core import parquet
from pipeline.core.errors import MissingInputError
from pipeline.storage import Stage, read_result
from pipeline.storage.verify import verify_root
from tests.conftest import SmallRun, run_clusters, run_shards

OLD_NAMES = {new: old for old, new in _RENAMED.items()}


def _as_it_was(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the balance's tables, statistics and marks the form that version 2 of the stage gave them."""
    for table in ("balance_groups", "removed_pairs"):
        path = run.root / table / f"{table}.parquet"
        content = pq.read_table(path)
        names = [OLD_NAMES.get(name, name) for name in content.column_names]
        pq.write_table(content.rename_columns(names), path, compression="zstd")
    earlier = _stage(run, monkeypatch, 2)
    fingerprints = {"balance": earlier._shard_fingerprint("balance"), "complete": earlier.fingerprint}
    for name, fingerprint in fingerprints.items():
        path = run.root / ".marks" / "balance" / f"{name}.json"
        mark = json.loads(path.read_text())
        del mark["version"]
        mark["fingerprint"] = fingerprint
        mark["files"] = {file: (run.root / file).stat().st_size for file in mark["files"]}
        mark["stats"] = {OLD_NAMES.get(key, key): value for key, value in mark["stats"].items()}
        path.write_text(json.dumps(mark))


def _stage(run: SmallRun, monkeypatch: pytest.MonkeyPatch, version: int) -> Stage:
    """The stage as the entry makes it, but of this version."""
    made: list[Stage] = []

    def note(*args: object, **options: object) -> Stage:
        made.append(Stage(*args, **{**options, "version": version}))  # type: ignore[arg-type]
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.balance.stage.Stage", note)
        with pytest.raises(InterruptedError):
            balance_pairs(run.root, run.settings.balance, run.settings.query)
    return made[0]


def test_tables_are_rewritten_and_nothing_is_computed(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    new = {
        table: pq.read_table(copied.root / table / f"{table}.parquet") for table in ("balance_groups", "removed_pairs")
    }
    digest = read_result(copied.root, "balance").digest
    _as_it_was(copied, monkeypatch)
    with pytest.raises(MissingInputError, match=r"completed by an earlier version.*run the stage again"):
        read_result(copied.root, "balance")
    result = balance_pairs(copied.root, copied.settings.balance, copied.settings.query)
    assert result.computed == 0 and result.digest == digest
    assert "max_distance_to_center" in result.stats
    assert all(pq.read_table(copied.root / table / f"{table}.parquet").equals(new[table]) for table in new)
    assert run_clusters(copied.settings).computed == run_shards(copied.settings).computed == 0
    assert balance_pairs(copied.root, copied.settings.balance, copied.settings.query).computed == 0
    # What was drawn is remembered beside the marks, in another form.
    (copied.root / ".marks" / "page").mkdir(exist_ok=True)
    (copied.root / ".marks" / "page" / "concepts.json").write_text('{"drawn": "from"}')
    # Their digest is that of the tables before; what they are now is known too.
    assert verify_root(copied.root).damage == []
    _verify_without_digest_of_files(copied.root)


def _verify_without_digest_of_files(root: Path) -> None:
    """What is not known of rewritten tables is not called damage; what is known of it still is."""
    path = root / ".marks" / "balance" / "balance.json"
    mark = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in mark.items() if name != "files_digest"}))
    verified = verify_root(root)
    assert verified.damage == [] and verified.unknown == sorted(mark["files"])
    groups = root / "balance_groups" / "balance_groups.parquet"
    whole = groups.read_bytes()
    groups.write_bytes(whole[:4] + bytes(200) + whole[204:])
    assert [item.file for item in verify_root(root).damage] == ["balance_groups/balance_groups.parquet"]
    # A table that has checksums was written by a version that notes what it has written.
    groups.write_bytes(whole)
    parquet.write_table(pq.read_table(groups), groups)
    path.write_text(json.dumps({**mark, "files_digest": "", "files": mark["files"] | _size(root, groups)}))
    verified = verify_root(root)
    assert len(verified.damage) == 1 and not verified.unknown


def _size(root: Path, path: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size}


def test_cut_off_in_the_middle_it_is_computed(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    _as_it_was(copied, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "_write_mark", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            balance_pairs(copied.root, copied.settings.balance, copied.settings.query)
    assert balance_pairs(copied.root, copied.settings.balance, copied.settings.query).computed == 1
    assert run_clusters(copied.settings).computed == 0


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_fingerprints_hold_the_first_names() -> None:
    from training.config import StudentConfig

    content = StudentConfig().content()["losses"]
    assert content["cluster"]["learnt"] is False and content["instance"]["learnt_temperature"] is False  # OLD


def test_a_config_with_an_old_name_is_told_the_new_one(tmp_path: Path) -> None:
    from assets.settings import parse_settings
    from pipeline.core.errors import ConfigError

    with pytest.raises(ConfigError, match="neighbours is called neighbors now"):  # OLD
        parse_settings({"neighbours": {}})  # OLD
