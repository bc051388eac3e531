"""The teacher of a process: how long it is kept, how it is compared, and what of a run was waiting."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.compute.config import ComputeConfig
from pipeline.embeddings import embedder as inference
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.embedder import Run, teacher_kept
from pipeline.embeddings.loader import Batch
from pipeline.embeddings.stage import embed_images
from pipeline.embeddings.verify import live_cosines
from tests.conftest import SmallRun


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Weak references to every model that is loaded."""
    models: list[Any] = []
    whole = inference.load_clip

    def load(*args: Any, **kwargs: Any) -> Any:
        clip = whole(*args, **kwargs)
        models.append(weakref.ref(clip.model))
        return clip

    for module in ("pipeline.embeddings.embedder", "pipeline.embeddings.verify"):
        monkeypatch.setattr(f"{module}.load_clip", load)
    inference._open.cache_clear()
    yield models
    inference._open.cache_clear()


def alive(models: list[Any]) -> list[Any]:
    gc.collect()
    return [model for model in models if model() is not None]


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_the_stage_leaves_no_model_in_its_process(copied: SmallRun, loaded: list[Any], compiled: bool) -> None:
    with torch.compiler.set_stance("force_eager"):
        embed_images(copied.root, EmbeddingsConfig(batch_size=64, compile=compiled), ComputeConfig())
    assert len(loaded) == 1 and not alive(loaded)


def test_nor_does_the_check_of_what_is_stored(copied: SmallRun, loaded: list[Any]) -> None:
    live_cosines(copied.root, samples=4)
    assert len(loaded) == 1 and not alive(loaded)


@pytest.mark.slow
def test_whoever_keeps_the_teacher_has_it_loaded_once(copied: SmallRun, loaded: list[Any]) -> None:
    with teacher_kept():
        embed_images(copied.root, EmbeddingsConfig(batch_size=64), ComputeConfig())
        assert len(alive(loaded)) == 1
        with pytest.raises(KeyError), teacher_kept():
            raise KeyError
        assert len(alive(loaded)) == 1
    assert not alive(loaded)


@pytest.mark.slow
def test_a_low_precision_is_compared_once_with_one_exact_model(
    copied: SmallRun, loaded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    whole = inference.min_cosine

    def least(*args: Any, batch_size: int) -> float:
        sizes.append((len(args[2].image_ids), batch_size))
        return whole(*args, batch_size=batch_size)

    monkeypatch.setattr(inference, "min_cosine", least)
    embed_images(copied.root, EmbeddingsConfig(precision="bf16", batch_size=20), ComputeConfig())
    assert sizes == [(20, 20), (12, 20)]
    assert len(loaded) == 2 and not alive(loaded)


def test_a_nan_is_not_passed_over(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.core.errors import EmbeddingError

    found = iter([1.0, float("nan")])
    monkeypatch.setattr(inference, "min_cosine", lambda *_, **__: next(found))
    with pytest.raises(EmbeddingError, match="is nan"):
        embed_images(copied.root, EmbeddingsConfig(precision="bf16", batch_size=16), ComputeConfig())


class Clock:
    """Time as the code under test sees it: it passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep_until(self, moment: float) -> None:
        self.now = max(self.now, moment)


class Device:
    """A device that works for ``work_s`` seconds on each batch while its host goes on."""

    def __init__(self, clock: Clock, work_s: float):
        self._clock, self._work_s, self._free_at = clock, work_s, clock.now

    class Moment:
        def __init__(self, at: float):
            self.at = at

        def since(self, earlier: "Device.Moment") -> float:
            return self.at - earlier.at

    def moment(self) -> "Device.Moment":
        return self.Moment(max(self._free_at, self._clock.now))

    def batch(self, batch: Batch, *, batch_size: int) -> tuple[torch.Tensor, None]:
        del batch, batch_size
        self._free_at = max(self._free_at, self._clock.now) + self._work_s
        return torch.zeros(1, 2), None

    def fetch(self, images: torch.Tensor, texts: None) -> Any:
        ready = self._free_at

        def wait() -> tuple[np.ndarray, None]:
            self._clock.sleep_until(ready)
            return images.numpy(), texts

        return wait


# Each batch is loaded in the one time and worked on in the other; the first one is always waited for.
@pytest.mark.parametrize(
    ("load_s", "work_s", "waited_s", "seconds"),
    [(0.01, 0.05, 0.01, 0.61), (0.06, 0.05, 0.06 + 11 * 0.01, 0.77), (0.05, 0.0, 0.6, 0.6)],
)
def test_stall_is_when_the_device_has_nothing_to_do(
    load_s: float, work_s: float, waited_s: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the host waits, which is ahead of a GPU."""
    count, clock = 12, Clock()
    monkeypatch.setattr(inference, "time", clock)

    def batches() -> Iterator[Batch]:
        for number in range(count):
            # A loader that works ahead is at the next batch while this one is worked on.
            clock.sleep_until((number + 1) * load_s)
            pixels = torch.zeros(1, 2, 2, 3)
            yield Batch(image_ids=[number], pixels=pixels, tokens=None, sample_ids=[], image_of=[], views=[])

    run = Run(Device(clock, work_s), batches(), 1)  # type: ignore[arg-type]
    assert [batch.image_ids[0] for batch, _, _ in run] == list(range(count))
    assert (run.waited_s, run.seconds) == pytest.approx((waited_s, seconds))
