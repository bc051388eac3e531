"""A folder to a Hub that answers on loopback, and every way in which it may say no."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, HubError
from pipeline.hub import plan_push, push_folder
from tests import hub as hubs

CARD = "---\nlicense: mit\ntags:\n- clip\n---\n# x\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hubs.Hub]:
    from huggingface_hub import constants

    with hubs.serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        # Its own protocol of transfer is that of one service.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", served.token)
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "data").mkdir(parents=True)
    (made / "README.md").write_text(CARD)
    (made / "data" / "large.bin").write_bytes(bytes(range(256)) * 20)
    (made / "data" / "small.bin").write_bytes(b"small")
    for hidden in (".git/config", ".DS_Store", "data/.hidden"):
        (made / hidden).parent.mkdir(exist_ok=True)
        (made / hidden).write_text("x")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    names = ("README.md", "data/large.bin", "data/small.bin")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_was_planned_is_what_arrives(hub: hubs.Hub, folder: Path, kind: str) -> None:
    plan = plan_push(folder, "me/thing", kind=kind)
    assert not hub.calls, "a plan opens no connection"
    assert plan.files == {name: len(content) for name, content in contents(folder).items()}
    assert "license: mit" in plan.front_matter and plan.hints == []
    url = push_folder(plan)
    prefix = "datasets/" if kind == "dataset" else ""
    assert url == f"{hub.url}/{prefix}me/thing/commit/{'c' * 40}"
    assert hub.private == {f"{prefix}me/thing": False}
    assert hub.files == {f"main:{name}": content for name, content in contents(folder).items()}
    assert {"batch", "object"} <= set(hub.calls), "the large file goes beside the commit"


def test_a_private_repository_and_a_branch(hub: hubs.Hub, folder: Path) -> None:
    push_folder(plan_push(folder, "me/thing", kind="model", revision="v1"), private=True)
    assert hub.private == {"me/thing": True} and hub.branches == {"v1"}
    assert set(hub.files) == {f"v1:{name}" for name in contents(folder)}
    # Again: it is there, and it is private.
    push_folder(plan_push(folder, "me/thing", kind="model"), private=True)
    assert set(hub.files) > {f"main:{name}" for name in contents(folder)}


def test_nothing_that_should_be_private_goes_to_a_public_one(hub: hubs.Hub, folder: Path) -> None:
    hub.private["me/thing"] = False
    with pytest.raises(HubError, match="me/thing is there already and is public: nothing was sent"):
        push_folder(plan_push(folder, "me/thing", kind="model"), private=True)
    assert not hub.files and not hub.objects


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        ("create", 403, "the token may not write there"),
        ("create", 404, "no such place"),
        ("preupload", 403, "the token may not write there"),
        ("commit", 400, "the Hub refused it"),
        ("batch", 413, "the Hub refused it"),
        ("object", 403, "the token may not write there"),
    ],
)
def test_a_refusal_is_one_line(hub: hubs.Hub, folder: Path, call: str, status: int, said: str) -> None:
    hub.refuse[call] = (status, "because\tof hf_secret")
    with pytest.raises(HubError, match=rf"^me/thing: .*{said}.*{status}") as caught:
        push_folder(plan_push(folder, "me/thing", kind="model"))
    assert "\n" not in str(caught.value) and hub.token not in str(caught.value)
    assert not hub.files


def test_another_token_none_or_no_network(hub: hubs.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    plan = plan_push(folder, "me/thing", kind="model")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(HubError, match="does not know the token") as caught:
        push_folder(plan)
    assert "hf_other" not in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="no token for the Hub: `hf auth login`"):
        push_folder(plan)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="me/thing: cannot be sent: ConnectError") as caught:
        push_folder(plan)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("repo", ["a/b/c", "me/", "me/th ing", "-x/y", "me/x..y", ""])
def test_names_that_the_hub_would_not_take(folder: Path, repo: str) -> None:
    with pytest.raises(ConfigError, match="no name of a repository") as caught:
        plan_push(folder, repo, kind="model")
    assert "\n" not in str(caught.value)


def test_folders_that_should_not_go(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no files to push"):
        plan_push(tmp_path / "empty", "me/thing", kind="model")
    (folder / "link").symlink_to(folder / "README.md")
    assert "link" in plan_push(folder, "me/thing", kind="model").files
    (tmp_path / "secret").write_text("x")
    (folder / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="out leads out of the folder"):
        plan_push(folder, "me/thing", kind="model")
    (tmp_path / "root" / ".marks").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"is a root.*`clip-cid export dataset`"):
        plan_push(tmp_path / "root", "me/thing", kind="dataset")


@pytest.mark.parametrize(
    ("card", "hint"),
    [
        (None, r"there is no README\.md"),
        ("# Only text", "has no YAML at its head"),
        ("---\ntags: [x]\n---\n", "gives no license"),
        ("---\nlicense: [\n---\n", None),
        ("---\n- a\n---\n", None),
        ("---\nmodel-index: 3\n---\n", None),
    ],
)
def test_cards_that_say_too_little_or_nothing(folder: Path, card: str | None, hint: str | None) -> None:
    (folder / "README.md").unlink()
    if card is not None:
        (folder / "README.md").write_text(card)
    if hint is not None:
        (found,) = plan_push(folder, "me/thing", kind="model").hints
        assert hint.replace("\\", "") in found
        return
    with pytest.raises(ConfigError, match=r"README\.md: the YAML at its head is no metadata") as caught:
        plan_push(folder, "me/thing", kind="model")
    assert "\n" not in str(caught.value)
