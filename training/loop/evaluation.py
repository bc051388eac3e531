"""Measuring the student while it is trained: on small evaluation sets, and by the loss of held-out samples."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from pipeline.clip.model import LoadedClip
from pipeline.clip.preprocessing import Preprocessing
from pipeline.core.errors import EmbeddingError, NonFiniteLossError
from training.config.student import HELD_OUT
from training.evaluation.accuracy import classification_scores
from training.evaluation.features import decoded
from training.evaluation.retrieval import retrieval_recall, unique_texts
from training.evaluation.run import RETRIEVAL, ZERO_SHOT
from training.evaluation.small import LOSS, SmallSet
from training.evaluation.zero_shot import prompt_ensemble
from training.loop.live_model import LiveModel
from training.loop.task import Task
from training.model.student import BuiltStudent
from training.ranks import cores_of_rank


class MeasuredEngine(Protocol):
    """What this needs of an engine; all ranks call all of it together."""

    rank: int
    world: int
    device: torch.device

    def exported(self) -> Any: ...

    def gather(self, value: Any) -> list[Any]: ...

    def sum_over_ranks(self, values: Tensor) -> Tensor: ...


class StudentEvaluation:
    """Measures the weights that would be exported. All ranks take equal parts, and find the same values.

    Images are decoded here, once, so that a damaged one is found before the first step.

    Args:
        engine: what trains the student.
        task: that of the training, for the losses of held-out samples.
        student: for its preprocessing and tokenizer.
        sets: what is measured on.
        held_out: gives this rank's parts of whole batches of held-out samples.
        rows: the most rows of one forward pass; those of training, which are known to fit.
    """

    def __init__(
        self,
        *,
        engine: MeasuredEngine,
        task: Task,
        student: BuiltStudent,
        sets: Sequence[SmallSet],
        held_out: Callable[[], Iterator[Any]] | None,
        rows: int,
    ):
        self._engine, self._task, self._student = engine, task, student
        self._sets, self._held_out, self._rows = sets, held_out, rows
        self._preprocessing = Preprocessing.of(student.preprocess)
        self._pixels = [self._decoded(one) for one in sets]

    def measure(self) -> dict[str, float]:
        """Measures by name, see :mod:`training.evaluation.small`.

        Raises :class:`EmbeddingError` or :class:`NonFiniteLossError` for a model that gives no finite numbers.
        """
        found: dict[str, float] = {}
        with torch.no_grad(), self._engine.exported() as module:
            height, width = self._preprocessing.height, self._preprocessing.width
            blank = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=self._engine.device)
            model = LiveModel(
                module,
                rows=self._rows,
                image=self._preprocessing.normalize(blank),
                text=self._student.tokenizer(["a"]).to(self._engine.device),
            )
            for one, pixels in zip(self._sets, self._pixels):
                for task, metrics in self._on_set(model, one, pixels).items():
                    found |= {f"{task}/{one.data.name}/{metric}": value for metric, value in metrics.items()}
            if self._held_out:
                found |= {f"{HELD_OUT}/{name}": value for name, value in self._losses(model).items()}
        # One rank speaks for all: what is made of these numbers must not differ between machines.
        return dict(self._engine.gather(found)[0])

    def _on_set(self, model: LiveModel, one: SmallSet, pixels: Tensor) -> dict[str, dict[str, float]]:
        test, found = one.data.test, dict[str, dict[str, float]]()
        images = torch.cat([model.encode_image(self._normalized(part)).cpu() for part in pixels.split(self._rows)])
        images = self._whole(images, len(test), f"images of {one.data.name}")
        if ZERO_SHOT in one.tasks:
            classes, templates = one.data.classnames, one.data.templates
            clip = LoadedClip(
                model=model,
                preprocess=self._student.preprocess,
                tokenizer=self._student.tokenizer,
                device=str(self._engine.device),
                embed_dim=images.shape[1],
            )
            own = [classes[number] for number in self._share(len(classes))]
            prompts = prompt_ensemble(clip, own, templates, batch_size=self._rows)
            prompts = self._whole(prompts, len(classes), f"prompts of {one.data.name}")
            found[ZERO_SHOT] = classification_scores(images, torch.tensor(test.labels), prompts)
        if RETRIEVAL in one.tasks:
            texts, numbers, ids = unique_texts(test.captions)
            tokens = self._student.tokenizer([texts[number] for number in self._share(len(texts))])
            features = torch.cat(
                [model.encode_text(part.to(self._engine.device)).cpu() for part in tokens.split(self._rows)]
            )
            features = self._whole(features, len(texts), f"captions of {one.data.name}")
            found[RETRIEVAL] = retrieval_recall(images, features, numbers, ids)
        return found

    def _losses(self, model: LiveModel) -> dict[str, float]:
        """Means over held-out batches, which have as many negatives as those of training."""
        assert self._held_out
        sums, batches = dict[str, Tensor](), 0
        for batch in self._held_out():
            # So that centroids that are drawn as negatives are the same each time.
            torch.manual_seed(batches)
            terms = self._task.losses(model, batch.to(self._engine.device))
            for name, value in {LOSS: self._task.total(terms), **terms}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            batches += 1
        values = self._engine.sum_over_ranks(torch.stack(list(sums.values()))) / (batches * self._engine.world)
        if not values.isfinite().all():
            text = ", ".join(f"{name} {value:g}" for name, value in zip(sums, values.tolist()))
            raise NonFiniteLossError(f"the loss of held-out samples is not finite ({text})")
        return dict(zip(sums, values.tolist()))

    def _decoded(self, one: SmallSet) -> Tensor:
        """``(N, H, W, 3)`` uint8 of this rank's share of the test images."""
        images = [one.data.test.images[number] for number in self._share(len(one.data.test))]
        return torch.cat(list(decoded(images, self._decode, self._rows, cores_of_rank())))

    def _decode(self, data: bytes) -> Tensor:
        with Image.open(io.BytesIO(data)) as image:
            return torch.from_numpy(self._preprocessing.pixels(image).copy())

    def _normalized(self, pixels: Tensor) -> Tensor:
        return self._preprocessing.normalize(pixels.to(self._engine.device))

    def _share(self, count: int) -> list[int]:
        """Which of so many things this rank works on: as many as every other, some of them twice where need be."""
        size = -(-count // self._engine.world)
        return [(self._engine.rank * size + number) % count for number in range(size)]

    def _whole(self, own: Tensor, count: int, what: str) -> Tensor:
        """Rows of all ranks, without those that were worked on twice."""
        rows = torch.cat(self._engine.gather(own))[:count]
        bad = int((~rows.isfinite().all(dim=1)).sum())
        if bad:
            raise EmbeddingError(f"{bad} of {count} features of {what} are not finite")
        return rows
