"""Several data sets in one code location: assets, settings and history of their own."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.data_set import clip_cid_assets
from assets.definitions import defs as of_the_demo
from assets.resources import SettingsResource, settings_resource
from assets.settings import Settings, parse_settings
from pipeline.core.errors import ConfigError
from pipeline.core.settings import overlaid
from tests.conftest import SmallRun, small_settings


def settings_of(root: Path) -> dict[str, Any]:
    return small_settings(root).model_dump(mode="json", exclude_defaults=True)


def test_two_data_sets_stand_side_by_side() -> None:
    both = dg.Definitions.merge(*(clip_cid_assets(name, {}) for name in ("cc12m", "own")))
    dg.Definitions.validate_loadable(both)
    graph, demo = both.resolve_asset_graph(), of_the_demo.resolve_asset_graph()
    for name in ("cc12m", "own"):
        for key in demo.get_all_asset_keys():
            mine, theirs = graph.get(key.with_prefix(name)), demo.get(key)
            assert mine.parent_keys == {parent.with_prefix(name) for parent in theirs.parent_keys}
            assert (mine.kinds, mine.description, mine.pools) == (theirs.kinds, theirs.description, theirs.pools)
            assert mine.group_name == f"{name}_{theirs.group_name}"
        for check in demo.asset_check_keys:
            found = dg.AssetCheckKey(check.asset_key.with_prefix(name), check.name)
            blocking = [graph.get_check_spec(found).blocking, demo.get_check_spec(check).blocking]
            assert blocking[0] == blocking[1]
        for job in ("clip_cid", "curate", "distill", "ablation"):
            ours = both.resolve_job_def(f"{name}_{job}").asset_layer.selected_asset_keys
            theirs = of_the_demo.resolve_job_def(job).asset_layer.selected_asset_keys
            assert ours == {key.with_prefix(name) for key in theirs}
    assert len(graph.get_all_asset_keys()) == 2 * len(demo.get_all_asset_keys())


def test_a_run_changes_single_fields_of_its_data_set() -> None:
    """Nested ones, presets, choices, sizes and lists."""
    given = {
        "balance": {"rule": "bounded", "threshold": 0.2, "keep_by": ["id"]},
        "student": {"steps": 9, "losses": {"preset": "best", "instance": {"weight": 2.0}}},
        "query": {"memory_limit": "3GB"},
    }
    run = {"balance": {"threshold": 0.3}, "student": {"losses": {"instance": {"temperature": 0.5}}}}
    seen: list[Settings] = []

    @dg.job(resource_defs={"settings": settings_resource(given)})
    def look() -> None:
        @dg.op
        def see(settings: SettingsResource) -> None:
            seen.append(settings.resolve())

        see()

    look.execute_in_process()
    look.execute_in_process(run_config={"resources": {"settings": {"config": run}}})
    assert seen == [parse_settings(given), parse_settings(overlaid(given, run))]


def test_a_run_has_the_settings_of_its_data_set_and_those_that_it_is_given(copied: SmallRun, tmp_path: Path) -> None:
    both = dg.Definitions.merge(
        clip_cid_assets("mine", settings_of(copied.root)), clip_cid_assets("other", {"root": str(tmp_path / "other")})
    )
    # One table, as somebody does who materializes it by itself in the UI.
    tables = ["balanced_pairs", "balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs"]
    job = both.resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey(["mine", table]) for table in tables]
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, asset_selection=selection)
        assert done.success
        made = {event.asset_key for event in done.get_asset_materialization_events()}
        assert made == {*selection}
        checked = done.get_asset_check_evaluations()
        assert len(checked) == 4 and all(check.passed for check in checked)
        config = {"resources": {"mine_settings": {"config": {"balance": {"target_removal": 1.5}}}}}
        with pytest.raises(ConfigError, match=r"balance.target_removal: Input should be less than 1, got 1.5"):
            job.execute_in_process(instance=instance, asset_selection=selection, run_config=config)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("my set", {}, "a data set's name has letters, digits and underscores.*got 'my set'"),
        ("mine", {"balance": {"threshold": 3}}, "balance.threshold: Input should be less than 2, got 3"),
        ("mine", {"ballance": {}}, "did you mean balance?"),
    ],
)
def test_what_is_wrong_is_said_when_the_location_is_loaded(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clip_cid_assets(name, settings)


def test_as_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of Dagster's layout, whose only file of definitions is a `defs.yaml`."""
    package = tmp_path / "laboratory"
    (package / "defs" / "cc12m").mkdir(parents=True)
    for folder in (package, package / "defs"):
        (folder / "__init__.py").touch()
    project = '[project]\nname = "laboratory"\n[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\n'
    (tmp_path / "pyproject.toml").write_text(project + 'root_module = "laboratory"\n')
    (package / "defs" / "cc12m" / "defs.yaml").write_text(
        "type: assets.component.ClipCid\nattributes: {name: cc12m, settings: {root: data/cc12m, student: {steps: 9}}}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "laboratory", None)
    monkeypatch.delitem(sys.modules, "laboratory")
    found = dg.load_from_defs_folder(path_within_project=tmp_path)
    assert dg.AssetKey(["cc12m", "student"]) in found.resolve_asset_graph().get_all_asset_keys()
    resources: Any = found.resources
    resolved = resources["cc12m_settings"].resolve()
    assert (resolved.root, resolved.student.steps) == ("data/cc12m", 9)
