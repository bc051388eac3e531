"""A CLIP without weights whose answers are known, and evaluation sets of a few plain images."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.clip.model import LoadedClip, write_clip_folder
from pipeline.core.tars import write_tar

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from open_clip.model import CLIP
    from open_clip.transform import PreprocessCfg

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    preprocess = dataclasses.asdict(PreprocessCfg(size=(32, 32)))
    write_clip_folder(folder, model_config=MODEL, preprocess_config=preprocess, state=CLIP(**MODEL).state_dict())
    return folder


class ColorClip(nn.Module):
    """Embeds an image as its mean color and a text as the color that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Linear(1, 1)

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        features = images.mean(dim=(2, 3))
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        return nn.functional.normalize(tokens, dim=-1) if normalize else tokens


def _tokenize(texts: list[str]) -> Tensor:
    return torch.tensor([[float(name in text) + 1e-3 for name in COLORS] for text in texts])


def _preprocess(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1).float() / 255


@pytest.fixture
def color_clip() -> LoadedClip:
    return LoadedClip(model=ColorClip().eval(), preprocess=_preprocess, tokenizer=_tokenize, device="cpu", embed_dim=3)


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), COLORS[color]).save(buffer, "PNG")
    return buffer.getvalue()


def sample(key: str, color: str, *, label: str | None = None, caption: str | None = None) -> dict[str, object]:
    members: dict[str, object] = {"__key__": key, "png": png(color)}
    if label is not None:
        members["cls"] = label.encode()
    if caption is not None:
        members["txt"] = caption.encode()
    return members


Shards = Sequence[Sequence[Mapping[str, object]]]
MakeSet = Callable[..., Path]


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Write an evaluation set: ``make_set("name", test=[shard, ...], train=[...], classnames=...)``."""

    def make(
        name: str,
        *,
        test: Shards,
        train: Shards = (),
        classnames: Sequence[str] = tuple(COLORS),
        templates: Sequence[str] = ("a photo of {c}", "{c}"),
    ) -> Path:
        folder = tmp_path / name
        for split, shards in (("test", test), ("train", train)):
            for number, shard in enumerate(shards):
                (folder / split).mkdir(parents=True, exist_ok=True)
                write_tar(folder / split / f"{number}.tar", shard)
        (folder / "classnames.txt").write_text("".join(f"{line}\n" for line in classnames))
        (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{line}\n" for line in templates))
        return folder

    return make


def rainbow(copies: int) -> list[dict[str, object]]:
    """``copies`` samples of every color, labeled and captioned rightly."""
    return [
        sample(f"{label}{copy}", color, label=str(label), caption=f"a {color} square")
        for copy in range(copies)
        for label, color in enumerate(COLORS)
    ]


@pytest.fixture
def samples() -> Callable[[int], list[dict[str, object]]]:
    return rainbow


@pytest.fixture
def one_sample() -> Callable[..., dict[str, object]]:
    return sample
