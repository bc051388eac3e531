"""Heads: layers out of a safetensors file, and the numbers that they give."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clip.file_kind import SAFETENSORS, TORCH, kind_of
from pipeline.core.errors import ConfigError, brief
from pipeline.heads.config import HeadConfig

_FLOATS = ("F16", "F32", "F64")
_CONVERT = (
    "save its tensors with safetensors: save_file({name: t.contiguous() for name, t in torch.load(path, "
    "weights_only=True).items()}, 'head.safetensors') of safetensors.torch"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """``layers``: a matrix (O, I) and a bias (O,) each, float32, from the embedding's width to one number or more."""

    name: str
    config: HeadConfig
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def width(self) -> int:
        """The width of embedding that the head takes."""
        return int(self.layers[0][0].shape[1])

    def score(self, vectors_ND: np.ndarray) -> np.ndarray:
        """A float32 for each embedding."""
        from scipy import special

        x = vectors_ND.astype(np.float32)
        if self.config.normalize:
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        for number, (weight, bias) in enumerate(self.layers):
            x = _activated(x, self.config.activation) if number else x
            x = x @ weight.T + bias
        if self.config.index is not None:
            return np.asarray(special.softmax(x, axis=1)[:, self.config.index])
        x = x[:, 0]
        return np.asarray(special.expit(x)) if self.config.output == "sigmoid" else x


def read_heads(heads: Mapping[str, HeadConfig], *, width: int | None = None) -> list[Head]:
    """All heads, by name; ``width``: of the embeddings that they are for, if it is known.

    Raises :class:`ConfigError` that names the head, the tensor and its shape, for what is no chain of linear layers.
    """
    return [_read_head(name, heads[name], width) for name in sorted(heads)]


def check_heads(heads: Mapping[str, HeadConfig], *, width: int | None = None) -> None:
    """Raise what :func:`read_heads` raises; for the start of a run, whose embeddings are yet to be made."""
    read_heads(heads, width=width)


def _read_head(name: str, config: HeadConfig, width: int | None) -> Head:
    path, what = Path(config.weights), f"embeddings.heads.{name}"
    try:
        with _opened(path, what) as file:
            shapes = {tensor: _shape(file, tensor, f"{what}: {path}") for tensor in file.keys()}  # noqa: SIM118
            prefixes = _prefixes(shapes, f"{what}: {path}")
            _check_chain(prefixes, shapes, config, width, f"{what}: {path}")
            layers = tuple(_layer(file, prefix, shapes) for prefix in prefixes)
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be read: {error.strerror or error}") from error
    for prefix, layer in zip(prefixes, layers):
        if not all(np.isfinite(part).all() for part in layer):
            raise ConfigError(f"{what}: {path}, {prefix}weight or {prefix}bias: not finite as float32")
    return Head(name=name, config=config, layers=_folded(layers) if config.activation == "none" else layers)


def _opened(path: Path, what: str) -> Any:
    from safetensors import SafetensorError, safe_open

    kind = kind_of(path)
    if kind == TORCH:
        raise ConfigError(f"{what}: {path} is {kind}, which may run code and is not read; {_CONVERT}")
    if kind != SAFETENSORS:
        raise ConfigError(f"{what}: {path} is {kind}, not {SAFETENSORS}")
    try:
        return safe_open(str(path), framework="numpy")
    except SafetensorError as error:
        raise ConfigError(f"{what}: {path} is damaged: {brief(error)}") from error


def _shape(file: Any, tensor: str, where: str) -> list[int]:
    part = file.get_slice(tensor)
    shape: list[int] = part.get_shape()
    kind = tensor.rpartition(".")[2]
    if kind not in ("weight", "bias") or len(shape) != (2 if kind == "weight" else 1) or 0 in shape:
        raise ConfigError(
            f"{where}: tensor {tensor} {shape} is of no linear layer, which has a `weight` of two dimensions and a "
            "`bias` of one; other layers are not computed here"
        )
    if part.get_dtype() not in _FLOATS:
        raise ConfigError(f"{where}: tensor {tensor} is {part.get_dtype()}; save it as float32")
    return shape


def _prefixes(shapes: Mapping[str, list[int]], where: str) -> list[str]:
    """What stands before `weight` in the name of each layer, in the order of the numbers in it."""
    prefixes = sorted({tensor.removesuffix("weight").removesuffix("bias") for tensor in shapes}, key=_natural)
    if not prefixes:
        raise ConfigError(f"{where}: no tensor in it")
    lost = [prefix for prefix in prefixes if f"{prefix}weight" not in shapes]
    if lost:
        raise ConfigError(f"{where}: tensor {lost[0]}bias without {lost[0]}weight")
    # Of names such as `fc` and `out` nobody knows which comes first.
    if len({tuple(part for part in _natural(prefix) if isinstance(part, str)) for prefix in prefixes}) > 1:
        weights = ", ".join(f"{prefix}weight" for prefix in prefixes)
        raise ConfigError(
            f"{where}: the order of its layers is not to be told from {weights}; number them: layers.0.weight, "
            "layers.1.weight, ..."
        )
    return prefixes


def _natural(name: str) -> list[str | int]:
    """Texts and numbers by turns, so that 10 comes after 2."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]


def _check_chain(
    prefixes: list[str], shapes: Mapping[str, list[int]], config: HeadConfig, width: int | None, where: str
) -> None:
    given, giver = width, "the teacher's embeddings have"
    for prefix in prefixes:
        weight, bias = f"{prefix}weight", f"{prefix}bias"
        outputs, inputs = shapes[weight]
        if given is not None and inputs != given:
            raise ConfigError(f"{where}: tensor {weight} {shapes[weight]} takes {inputs} numbers, {giver} {given}")
        if bias in shapes and shapes[bias] != [outputs]:
            raise ConfigError(f"{where}: tensor {bias} {shapes[bias]} does not fit {weight} {shapes[weight]}")
        given, giver = outputs, f"{weight} {shapes[weight]} gives"
    if config.index is None and given != 1:
        raise ConfigError(f"{where}: {giver} {given} numbers; output: softmax:i takes one of several")
    if config.index is not None and config.index >= (given or 0):
        raise ConfigError(f"{where}: output: {config.output}, but {giver} {given} numbers, counted from 0")


def _layer(file: Any, prefix: str, shapes: Mapping[str, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    def parts() -> Iterator[np.ndarray]:
        for name in (f"{prefix}weight", f"{prefix}bias"):
            if name in shapes:
                with np.errstate(over="ignore"):
                    yield file.get_tensor(name).astype(np.float32)
            else:
                yield np.zeros(shapes[f"{prefix}weight"][0], np.float32)

    weight, bias = parts()
    return weight, bias


def _folded(layers: tuple[tuple[np.ndarray, np.ndarray], ...]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Layers with nothing between them are one, multiplied out in float64: seven times as fast for five of them."""
    (weight, bias), *others = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]
    for next_weight, next_bias in others:
        weight, bias = next_weight @ weight, next_weight @ bias + next_bias
    return ((weight.astype(np.float32), bias.astype(np.float32)),)


def _activated(x: np.ndarray, name: str) -> np.ndarray:
    from scipy import special

    match name:
        case "relu":
            return np.maximum(x, 0)
        case "gelu":
            # Exact, as torch's is by default: x times the normal distribution's share below it.
            return np.asarray(x * special.ndtr(x))
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return np.asarray(special.expit(x))
        case _:
            return x
