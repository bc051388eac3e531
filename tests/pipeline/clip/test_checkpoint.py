"""Weights are found in whatever a training program has wrapped them in; anything else is named in a line."""

import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.clip.checkpoint import check_weights, looks_like_a_path, read_checkpoint
from pipeline.core.errors import ConfigError

STATE = {"logit_scale": torch.ones(()), "visual.conv1.weight": torch.arange(4.0), "text.ln.bias": torch.zeros(2)}


def _named(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {}}},
        {"epoch": 3, "module": _named("module."), "ds_config": {}},
        {"state_dict": _named("model.") | {"loss.temperature": torch.ones(1)}, "pytorch-lightning_version": "2"},
        {"model": _named("_orig_mod.")},
        _named("module._orig_mod."),
        {"state_dict": _named("clip_module.")},
        {"logit_scale": STATE["logit_scale"], "visual._orig_mod.conv1.weight": STATE["visual.conv1.weight"]}
        | {"text.ln.bias": STATE["text.ln.bias"]},
        {"state_dict": _named("model.") | _named("ema.")},
    ],
)
def test_the_models_own_names_come_out(tmp_path: Path, content: dict) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    found = read_checkpoint(path)
    assert found.keys() == STATE.keys() and all(found[name].equal(value) for name, value in STATE.items())


def test_a_file_is_read_as_what_it_is_not_as_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    safetensors.torch.save_file(_named("module."), path)
    check_weights(path)
    assert read_checkpoint(path).keys() == STATE.keys()


def test_what_names_no_single_model_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    both = _named("student.") | _named("teacher.")
    torch.save(both, path)
    assert read_checkpoint(path).keys() == both.keys()


class _Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("unpickled"),))


def test_nothing_is_unpickled_but_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": STATE, "extra": _Evil()}, "evil.pt")
    with pytest.raises(ConfigError, match=r"evil.pt cannot be read as weights") as refused:
        read_checkpoint(Path("evil.pt"))
    assert len(str(refused.value)) < 600 and "\n" not in str(refused.value)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"", "a.pt is an empty file, not a file of weights"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("a.bin", b"<html>404</html>" + b" " * 10**6, "is a web page"),
        ("a.pt", b'{"embed_dim": 3}', "is a JSON file, not a file of weights"),
        ("a.safetensors", safetensors.torch.save(STATE)[:-3], "a.safetensors is damaged"),
        ("missing.pt", None, "no checkpoint file '.*missing.pt'"),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refused:
        check_weights(tmp_path / name)
    assert len(str(refused.value)) < 400


def test_files_without_weights_by_name_are_refused(tmp_path: Path) -> None:
    for number, (content, message) in enumerate([({"epoch": 3}, "but epoch"), ([1], "but list"), ({}, "but nothing")]):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(ConfigError, match=message):
            read_checkpoint(tmp_path / f"{number}.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        read_checkpoint(tmp_path / "other.pt")


def test_tags_are_told_from_paths() -> None:
    assert not any(map(looks_like_a_path, ("openai", "laion2b_s34b_b79k", "datacomp.xl")))
    assert all(map(looks_like_a_path, ("mine.pt", "runs/last", "a.CKPT", "model.json")))
