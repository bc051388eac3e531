"""Heads: what they compute, against float64 and torch, and what is refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save_file

from pipeline.core.errors import ConfigError
from pipeline.heads import HeadConfig, Heads, read_heads

AESTHETIC = (1024, 128, 64, 16, 1)


def linear(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    weight = rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
    return weight.astype(np.float32), rng.normal(size=outputs).astype(np.float32)


def saved(path: Path, layers: list[tuple[np.ndarray, np.ndarray]], names: list[str]) -> Path:
    tensors = {}
    for name, (weight, bias) in zip(names, layers):
        tensors |= {f"{name}weight": weight, f"{name}bias": bias}
    save_file(tensors, str(path))
    return path


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def oracle(vectors: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]], config: HeadConfig) -> np.ndarray:
    """In float64, with torch's own activations."""
    x = torch.from_numpy(vectors.astype(np.float64))
    x = torch.nn.functional.normalize(x) if config.normalize else x
    for number, (weight, bias) in enumerate(layers):
        if number and config.activation != "none":
            x = getattr(torch.nn.functional, config.activation)(x)
        x = x @ torch.from_numpy(weight.astype(np.float64)).T + torch.from_numpy(bias.astype(np.float64))
    if config.index is not None:
        return x.softmax(1)[:, config.index].numpy()
    return (x.sigmoid() if config.output == "sigmoid" else x)[:, 0].numpy()


def test_a_linear_head_by_hand(tmp_path: Path) -> None:
    save_file({"weight": np.array([[2.0, -1.0]], np.float32), "bias": np.array([0.5], np.float32)}, str(tmp_path / "h"))
    (head,) = read_heads({"h": HeadConfig(weights=str(tmp_path / "h"))}, width=2)
    # (3, 4) of length 5 is (0.6, 0.8).
    assert np.allclose(head.score(np.array([[3.0, 4.0]])), [2 * 0.6 - 0.8 + 0.5])
    (plain,) = read_heads({"h": HeadConfig(weights=str(tmp_path / "h"), normalize=False)})
    assert plain.score(np.array([[3.0, 4.0]])).tolist() == [2.5] and plain.width == 2


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softmax:1"])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "tanh", "sigmoid"])
def test_scores_are_those_of_float64(tmp_path: Path, activation: str, output: str) -> None:
    rng = np.random.default_rng(0)
    widths = [32, 24, 12, 2 if output.startswith("softmax") else 1]
    layers = [linear(rng, outputs, inputs) for inputs, outputs in itertools.pairwise(widths)]
    path = saved(tmp_path / "h.safetensors", layers, ["layers.0.", "layers.2.", "layers.10."])
    config = HeadConfig(weights=str(path), activation=activation, output=output)  # type: ignore[arg-type]
    (head,) = read_heads({"h": config}, width=32)
    vectors = unit(rng, 50, 32)
    scores = head.score(vectors)
    assert scores.dtype == np.float32
    assert np.allclose(scores, oracle(vectors, layers, config), rtol=0, atol=2e-6)
    parts = np.concatenate([head.score(part) for part in np.array_split(vectors, 7)])
    assert np.allclose(parts, scores, rtol=0, atol=2e-6)


def test_the_aesthetic_predictor_of_five_layers_and_dropout_between(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    widths = (768, *AESTHETIC)
    layers = [linear(rng, outputs, inputs) for inputs, outputs in itertools.pairwise(widths)]
    path = saved(tmp_path / "h.safetensors", layers, [f"layers.{number}." for number in (0, 2, 4, 6, 7)])
    config = HeadConfig(weights=str(path))
    (head,) = read_heads({"aesthetic": config}, width=768)
    vectors = unit(rng, 20, 768)
    assert np.allclose(head.score(vectors), oracle(vectors, layers, config), rtol=0, atol=1e-5)
    assert [weight.shape for weight, _ in head.layers] == [(1, 768)]


F32 = np.float32
WRONG = [
    ({"weight": np.ones((1, 3), F32)}, {}, r"tensor weight \[1, 3\] takes 3 numbers, the teacher's embeddings have 4"),
    ({"weight": np.ones((2, 4), F32)}, {}, r"weight \[2, 4\] gives 2 numbers; output: softmax:i"),
    ({"weight": np.ones((2, 4), F32)}, {"output": "softmax:2"}, r"softmax:2, but weight \[2, 4\] gives 2 numbers"),
    (
        {"0.weight": np.ones((3, 4), F32), "2.weight": np.ones((1, 2), F32)},
        {},
        r"tensor 2.weight \[1, 2\] takes 2 numbers, 0.weight \[3, 4\] gives 3",
    ),
    ({"weight": np.ones((1, 4), F32), "bias": np.ones(2, F32)}, {}, r"tensor bias \[2\] does not fit weight \[1, 4\]"),
    ({"bias": np.ones(1, F32)}, {}, "bias without weight"),
    ({"0.weight": np.ones(4, F32)}, {}, r"tensor 0.weight \[4\] is of no linear layer"),
    ({"bn.running_mean": np.ones(4, F32)}, {}, r"tensor bn.running_mean \[4\] is of no linear layer"),
    ({"weight": np.ones((1, 4), np.int8)}, {}, "tensor weight is I8; save it as float32"),
    ({"weight": np.full((1, 4), np.nan, F32)}, {}, "weight.*not finite"),
    ({"weight": np.full((1, 4), 1e300)}, {}, "weight.*not finite"),
    (
        {"fc.weight": np.ones((4, 4), F32), "out.weight": np.ones((1, 4), F32)},
        {},
        "not to be told from fc.weight, out.weight; number them",
    ),
    ({}, {}, "no tensor"),
]


@pytest.mark.parametrize(("tensors", "settings", "found"), WRONG)
def test_what_is_no_chain_of_layers_is_refused_by_tensor_and_shape(
    tmp_path: Path, tensors: dict[str, np.ndarray], settings: dict[str, str], found: str
) -> None:
    path = tmp_path / "h.safetensors"
    save_file(tensors, str(path))
    with pytest.raises(ConfigError, match=rf"^embeddings.heads.h: \S+/h.safetensors.*{found}") as error:
        read_heads({"h": HeadConfig(weights=str(path), **settings)}, width=4)
    assert "\n" not in str(error.value)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (tmp_path.joinpath("ran").write_text, ("x",))

    torch.save({"weight": Evil()}, tmp_path / "a.pth")
    (tmp_path / "b.safetensors").write_bytes(b"<!doctype html>")
    save_file({"weight": np.ones((1, 4), F32)}, str(tmp_path / "c.safetensors"))
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "c.safetensors").read_bytes()[:-3])
    messages = {
        "a.pth": "may run code and is not read; save its tensors with safetensors",
        "b.safetensors": "a web page",
    }
    messages |= {"c.safetensors": "damaged", "d.safetensors": "cannot be read: No such file"}
    for name, message in messages.items():
        with pytest.raises(ConfigError, match=message):
            read_heads({"h": HeadConfig(weights=str(tmp_path / name))})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("heads", "found"),
    [
        ({"caption": {}}, "a column caption is there already"),
        ({"Width": {}}, "a column width is there already"),
        ({"image_embedding": {}}, "there already"),
        ({"nsfw score": {}}, "no name of a column"),
        ({"a": {}, "A": {}}, "a and A differ in case alone"),
        ({"a": {"output": "softmax"}}, "String should match"),
        ({"a": {"output": "softmax:-1"}}, "String should match"),
        ({"a": {"activation": "swish"}}, "Input should be"),
        ({"a": {"weights": ""}}, "at least 1 character"),
        ({"a": {"weight": "x"}}, "Extra inputs"),
    ],
)
def test_settings_that_are_none_are_refused(heads: dict[str, dict[str, str]], found: str) -> None:
    adapter: TypeAdapter[dict[str, HeadConfig]] = TypeAdapter(Heads)
    with pytest.raises(ValidationError, match=found):
        adapter.validate_python({name: {"weights": "x"} | head for name, head in heads.items()})
    assert adapter.validate_python({"aesthetic": {"weights": "x"}})["aesthetic"].normalize
