"""A step with cached teacher embeddings against one that runs the teacher: ViT-bigG-14 to ViT-B-32, bf16, DeepSpeed.

Both have random weights and see the same noise. The student's step has all three terms, a tenth of a million centroids
among them. Online, the teacher's forward pass in bf16 comes before the same step. The share of peak is model FLOPs
(:func:`forward_flops`, three times for a training step) over the rate of a large bf16 matrix product measured here.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu.parts import Setting
from benchmarks.gpu.students import (
    clip_of,
    engine_of,
    forward_flops,
    guarded,
    milliseconds,
    model_config,
    normalize,
    process_group,
    random_batch,
    random_centroids,
    step_of,
)
from benchmarks.gpu.timing import forget_peak, operations, peak, peak_gb_of

# Of the part's time, for the end of the process group.
_MARGIN_S = 10.0
_TARGET, _SHOWN = 20.0, 14


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    """``teacher_rows``: pairs that the teacher sees at a time."""

    batches: tuple[int, ...]
    teacher_rows: int
    clusters: int
    rounds: int


_FULL = _Sizes(batches=(1024, 4096), teacher_rows=512, clusters=1_000_000, rounds=6)
_TINY = _Sizes(batches=(8,), teacher_rows=4, clusters=100, rounds=1)


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    import torch

    torch.manual_seed(0)
    sizes = _TINY if setting.tiny else _FULL
    with process_group():
        ceiling = peak(setting.device, torch.bfloat16) / 1e12
        yield {"what": "peak of a bf16 product", "tflops": round(ceiling, 1)}
        pair = _Pair(setting, sizes)
        yield pair.operations(sizes.batches[0])
        for rows in sizes.batches:
            yield (row := pair.row(rows, ceiling, checkpointing=False))
            if "error" in row:
                pair.renew()
                yield pair.row(rows, ceiling, checkpointing=True)
            elif rows == sizes.batches[0]:
                yield _compiled(pair, rows)


class _Pair:
    """Teacher, student in its engine, and the terms between them."""

    def __init__(self, setting: Setting, sizes: _Sizes):
        import torch

        self.setting, self.sizes = setting, sizes
        self.student_config = model_config("ViT-B-32", setting)
        self.teacher_config = model_config("ViT-bigG-14", setting)
        self.width = int(self.teacher_config["embed_dim"])
        teacher = clip_of(self.teacher_config, setting.device).to(torch.bfloat16)
        self.teacher = teacher.eval().requires_grad_(False)
        forget_peak(setting.device)
        self.cached, self.student = self.build(compile=False)

    def build(self, *, compile: bool) -> tuple[Callable[[Any], Any], Any]:
        """A step of a new student on a batch with the teacher's embeddings, and the open_clip model that it trains."""
        engine, clip = engine_of(
            self.student_config,
            self.setting.device,
            teacher_dim=self.width,
            precision="bf16",
            batch_size=max(self.sizes.batches),
            compile=compile,
        )
        centroids = random_centroids(self.sizes.clusters, self.width, self.setting.device)
        losses = {"cluster": {"sample_rate": 0.1, "storage": "fp16"}}
        return step_of(engine, self.batch(1), losses, centroids), clip

    def renew(self) -> None:
        """Another student: DeepSpeed is not made to go on after a step that broke off."""
        self.__dict__.pop("cached", None)
        self.__dict__.pop("student", None)
        forget_peak(self.setting.device)
        self.cached, self.student = self.build(compile=False)

    def batch(self, rows: int) -> Any:
        return random_batch(
            self.student_config, rows, self.setting.device, width=self.width, clusters=self.sizes.clusters
        )

    def online(self, batch: Any) -> None:
        """The teacher's embeddings, then the step."""
        import torch

        found: dict[str, list[Any]] = {"image": [], "text": []}
        with torch.inference_mode():
            parts = zip(batch.image.split(self.sizes.teacher_rows), batch.text.split(self.sizes.teacher_rows))
            for image, text in parts:
                found["image"].append(self.teacher.encode_image(normalize(image).to(torch.bfloat16)))
                found["text"].append(self.teacher.encode_text(text))
        # Copies made outside: autograd keeps no tensor of inference mode.
        image, text = (torch.cat(parts).float() for parts in found.values())
        self.cached(dataclasses.replace(batch, teacher_image=image, teacher_text=text))

    def operations(self, rows: int) -> dict[str, Any]:
        """Where a cached step spends the device's time."""
        batch = self.batch(rows)
        self.cached(batch)
        found = operations(lambda: self.cached(batch), self.setting.device, most=_SHOWN)
        return {"what": "operations of a cached step", "batch": rows, **found}

    def row(self, rows: int, ceiling: float, *, checkpointing: bool) -> dict[str, Any]:
        """What a step takes in both ways, with activations kept or computed again."""
        self.student.set_grad_checkpointing(checkpointing)
        what = {"what": "step", "batch": rows, "checkpointing": checkpointing}
        return guarded(what, self.setting.device, lambda: self.compare(rows, ceiling))

    def compare(self, rows: int, ceiling: float) -> dict[str, Any]:
        """Times of both ways, in turns, and what they are of the peak rate."""
        forget_peak(self.setting.device)
        batch = self.batch(rows)
        memory = {
            "cached_gb": peak_gb_of(lambda: self.cached(batch), self.setting.device),
            "online_gb": peak_gb_of(lambda: self.online(batch), self.setting.device),
        }
        # Everything is warm by now. The teacher takes seconds and varies little; the student is timed more often.
        ways: dict[str, Callable[[], Any]] = {
            "cached": lambda: self.cached(batch),
            "online": lambda: self.online(batch),
        }
        times = milliseconds(ways, self.setting, rounds=1, warm_up=0)
        times |= milliseconds({"cached": ways["cached"]}, self.setting, rounds=self.sizes.rounds, warm_up=0)
        student, teacher = 3 * forward_flops(self.student_config), forward_flops(self.teacher_config)
        flops = {"cached": rows * student, "online": rows * (student + teacher)}
        ratio = times["online"] / times["cached"]
        row = {f"{name}_ms": round(time_ms, 1) for name, time_ms in times.items()}
        row |= {f"{name}_of_peak": round(flops[name] / times[name] / ceiling / 1e9, 3) for name in times}
        return {**row, "online_over_cached": round(ratio, 1), **memory, "target": _TARGET, "reached": ratio >= _TARGET}


def _compiled(pair: _Pair, rows: int) -> dict[str, Any]:
    """The cached step with a compiled student, if compiling ends in time."""
    row: dict[str, Any] = {"what": "step, compiled", "batch": rows}
    if pair.setting.device == "cpu":
        return row | {"needs": "CUDA"}
    del pair.student, pair.cached
    forget_peak(pair.setting.device)
    started = time.monotonic()
    try:
        with _out_of_time_after(pair.setting.left_s - _MARGIN_S):
            pair.cached, pair.student = pair.build(compile=True)
            batch = pair.batch(rows)
            pair.cached(batch)
            compiled_s = time.monotonic() - started
            times = milliseconds({"cached": lambda: pair.cached(batch)}, pair.setting, rounds=6)
    except Exception as error:  # noqa: BLE001 - the compiler wraps what interrupts it in errors of its own
        row |= {"skipped": f"{type(error).__name__}: {str(error)[:200]}"}
    else:
        row |= {"cached_ms": round(times["cached"], 1), "first_step_s": round(compiled_s, 1)}
    pair.renew()
    return row


@contextlib.contextmanager
def _out_of_time_after(seconds: float) -> Iterator[None]:
    def out_of_time(*_: object) -> None:
        raise TimeoutError("no time left")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
