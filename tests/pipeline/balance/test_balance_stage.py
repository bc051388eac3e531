"""The balance as a stage, and how far a blocklist reaches, on the small finished run."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.balance.config import BalanceConfig
from pipeline.balance.stage import balance_pairs
from pipeline.core.errors import BlocklistError
from pipeline.storage.result import StageResult, read_result
from tests.conftest import SmallRun, run_balance, run_clusters, run_shards


def rows(root: Path, table: str) -> list[dict[str, Any]]:
    return [row for path in sorted(root.glob(f"{table}/*.parquet")) for row in pq.read_table(path).to_pylist()]


def ids(root: Path, table: str, id_: str = "image_id") -> set[int]:
    return {row[id_] for row in rows(root, table)}


def assert_every_caption_is_accounted_for(root: Path) -> None:
    """Balanced, removed, blocked and filtered pairs are all captions of embedded images, each once."""
    tables = ("balanced_pairs", "removed_pairs", "blocked_pairs", "filtered_pairs")
    found = Counter((row["sample_id"], row["image_id"]) for table in tables for row in rows(root, table))
    assert found == Counter((row["sample_id"], row["image_id"]) for row in rows(root, "caption_embeddings"))
    stats = read_result(root, "balance").stats
    assert stats["kept"] + stats["removed"] + stats["blocked"] + stats["filtered"] == stats["samples"]
    assert stats["pairs"] == found.total()
    groups = rows(root, "balance_groups")
    assert len(groups) == len(ids(root, "balance_groups")) == stats["kept"] + stats["removed"]
    assert {row["image_id"] for row in groups if row["kept"]} == ids(root, "balanced_pairs")


def rebalance(run: SmallRun, **changes: object) -> StageResult:
    config = BalanceConfig(**{**run.settings.balance.model_dump(), **changes})
    return balance_pairs(run.root, config, run.settings.query)


def blocked_run(run: SmallRun, blocklist: Path) -> SmallRun:
    balance = run.settings.balance.model_copy(update={"blocklist": [str(blocklist)]})
    return SmallRun(run.settings.model_copy(update={"balance": balance}))


def some_kept(run: SmallRun) -> list[dict]:
    return pq.read_table(run.root / "balanced_pairs").to_pylist()[:12]


def test_blocked_pairs_reach_no_later_table(copied: SmallRun, tmp_path: Path) -> None:
    kept = some_kept(copied)
    # Of a pair, of an image, and by URL: whatever is listed, its image goes with all its captions.
    by_id = {row["sample_id"] for row in kept[:3]} | {row["image_id"] for row in kept[3:6]}
    by_url = {row["url"] for row in kept[6:]}
    listed = tmp_path / "list.txt"
    listed.write_text("# by request\n\n" + "\n".join([*map(str, by_id), *by_url, "7", "https://nowhere.example/x"]))
    pairs = rows(copied.root, "source_pairs")
    blocked = {row["image_id"] for row in pairs if {row["sample_id"], row["image_id"]} & by_id or row["url"] in by_url}
    blocked &= ids(copied.root, "teacher_embeddings")
    run = blocked_run(copied, listed)
    result = run_balance(run.settings)
    run_clusters(run.settings)
    run_shards(run.settings)
    assert ids(run.root, "blocked_pairs") == blocked
    for table in ("balance_groups", "balanced_pairs", "removed_pairs", "cluster_assignments", "training_shards/index"):
        assert ids(run.root, table) and not ids(run.root, table) & blocked, table
    stats = read_result(run.root, "balance").stats
    assert stats["blocked"] == len(blocked) >= 12
    assert (stats["blocklist_entries"], stats["blocklist_unmatched"]) == (14, 2)
    assert stats["kept"] + stats["removed"] + stats["blocked"] == stats["samples"] == result.rows
    assert_every_caption_is_accounted_for(run.root)
    assert not (set(pq.read_table(run.root / "removed_pairs")["kept_image_id"].to_pylist()) & blocked)


def test_baseline_does_not_train_on_blocked_pairs(copied: SmallRun, tmp_path: Path) -> None:
    from training.config import StudentConfig
    from training.stage import train_baseline

    blocked = {row["image_id"] for row in some_kept(copied)}
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(row["sample_id"]) for row in some_kept(copied)))
    run_balance(blocked_run(copied, listed).settings)
    trained_on: list[set[int]] = []

    def stop(job: object, **_: object) -> None:
        trained_on.append(ids(job.index_folder, "."))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("training.stage.run_training", stop)
        train_baseline(copied.root, StudentConfig())
    assert trained_on == [ids(copied.root, "teacher_embeddings") - blocked]


def test_content_of_blocklists_decides_not_their_names(copied: SmallRun, tmp_path: Path) -> None:
    first, second = (row["sample_id"] for row in some_kept(copied)[:2])
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text(f"{first}\n")
    b.write_text(f"{second}\n")
    one = rebalance(copied, blocklist=[str(a), str(b)])
    assert one.computed == 1
    a.rename(tmp_path / "c.txt")
    assert rebalance(copied, blocklist=[str(b), str(tmp_path / "c.txt")]).computed == 0
    b.write_text(f"{first}\n")
    assert rebalance(copied, blocklist=[str(b)]).computed == 1
    with pytest.raises(BlocklistError, match=re.escape(str(a))):
        rebalance(copied, blocklist=[str(a)])


def test_fields_of_other_rules_recompute_nothing(copied: SmallRun) -> None:
    assert rebalance(copied, cells=3, seed=4).computed == 0
    assert rebalance(copied, rule="random", seed=4).computed == 1
    assert rebalance(copied, rule="random", seed=4, cells=3).computed == 0
    assert rebalance(copied, rule="random", seed=5).computed == 1


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["connected_components", "semdedup", "random"])
def test_checks_and_pictures_fit_every_rule_and_a_blocklist(copied: SmallRun, tmp_path: Path, rule: str) -> None:
    from assets.page.pictures import balance_pictures
    from assets.verdicts import one_row

    listed = tmp_path / "list.csv"
    with listed.open("w") as file:
        csv.writer(file).writerows([["sample_id"], *[[row["sample_id"]] for row in some_kept(copied)]])
    result = rebalance(copied, rule=rule, blocklist=[str(listed)], cells=4)
    found = one_row(
        copied.settings,
        "check_balance",
        values={"keep_per_group": 1},
        groups="balance_groups",
        balanced="balanced_pairs",
        removed="removed_pairs",
        blocked="blocked_pairs",
        filtered="filtered_pairs",
        captions="caption_embeddings",
    )
    assert (found["blocked"], found["kept"], found["removed"]) == (12, result.stats["kept"], result.stats["removed"])
    for name in ("groups_without_one_survivor", "kept_not_in_balanced", "removed_without_survivor", "missing"):
        assert found[name] == 0, name
    assert found["blocked_but_used"] == found["filtered_but_used"] == 0
    pictures = balance_pictures(result, copied.settings)
    assert set(pictures) == {"balanced_pairs", "balance_groups", "removed_pairs"}


def test_similarities_are_those_of_the_stored_embeddings(finished: SmallRun) -> None:
    images = {
        row["image_id"]: np.asarray(row["image_embedding"], float) for row in rows(finished.root, "teacher_embeddings")
    }
    cosines = {
        row["sample_id"]: float(np.dot(images[row["image_id"]], row["text_embedding"]))
        for row in rows(finished.root, "caption_embeddings")
    }
    kept = {row["sample_id"]: row["image_text_similarity"] for row in rows(finished.root, "balanced_pairs")}
    assert kept == pytest.approx({name: cosines[name] for name in kept}, abs=1e-5)
    stats = read_result(finished.root, "balance").stats
    for table, name in (("balanced_pairs", "similarity_kept"), ("removed_pairs", "similarity_removed")):
        assert stats[name] == pytest.approx(
            np.mean([cosines[one] for one in ids(finished.root, table, "sample_id")]), abs=1e-5
        )


def test_every_caption_is_in_one_table_of_pairs(copied: SmallRun, tmp_path: Path) -> None:
    from pipeline.heads.stage import score_images

    assert_every_caption_is_accounted_for(copied.root)
    score_images(copied.root, {})
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(row["sample_id"]) for row in some_kept(copied)))
    where = "width >= height AND length(caption) % 3 > 0"
    result = rebalance(copied, where=where, blocklist=[str(listed)], keep_by=["width DESC"], keep_per_group=2)
    assert min(result.stats[name] for name in ("kept", "removed", "blocked", "filtered", "filtered_pairs")) > 0
    assert_every_caption_is_accounted_for(copied.root)
    captions = {row["sample_id"]: row["caption"] for row in rows(copied.root, "source_pairs")}
    assert not [row for row in rows(copied.root, "balanced_pairs") if len(captions[row["sample_id"]]) % 3 == 0]
