"""DeepSpeed through our engine against bare torch, and what an engine must keep: resuming, fp16's overflows, NCCL.

Step times are those of plain CLIP training of a ViT-B-32. ``syncs`` count how often a step makes the host wait for the
device, by torch's own tally, which sees copies to the host and sizes that depend on data.
"""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu.parts import Setting
from benchmarks.gpu.students import (
    TINY,
    clip_of,
    engine_of,
    guarded,
    milliseconds,
    model_config,
    normalize,
    process_group,
    random_batch,
    step_of,
)
from benchmarks.gpu.timing import forget_peak, peak_gb_of

_BATCH, _TINY_BATCH, _ROUNDS = 512, 8, 5
_PLAIN: dict[str, Any] = {"cluster": {"weight": 0}, "instance": {"weight": 0}}
_VARIANTS: dict[str, dict[str, Any]] = {
    "zero 1, bf16": {"precision": "bf16", "zero_stage": 1},
    "zero 1, bf16, compiled": {"precision": "bf16", "zero_stage": 1, "compile": True},
    "zero 2, bf16": {"precision": "bf16", "zero_stage": 2},
    "zero 1, bf16, average": {"precision": "bf16", "zero_stage": 1, "average_decay": 0.999},
    "zero 0, fp32": {"precision": "fp32", "zero_stage": 0},
}


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    import torch

    torch.manual_seed(0)
    with process_group():
        yield _collectives(setting)
        yield from _times(setting)
        for stage, precision in ((1, "bf16"), (2, "bf16"), (0, "fp32")):
            yield {"what": "resume", "stage": stage, "precision": precision} | _resume(setting, stage, precision)
        yield {"what": "fp16 overflow", **_overflow(setting)}


def _collectives(setting: Setting) -> dict[str, Any]:
    """What ranks exchange, with one rank: every result is known."""
    import torch
    import torch.distributed as dist

    from training.losses.gather import all_rows, sum_own_rows

    rows = torch.arange(6.0, device=setting.device).reshape(3, 2)
    total = rows.clone()
    dist.all_reduce(total)
    objects: list[Any] = [None]
    dist.all_gather_object(objects, {"rank": dist.get_rank()})
    same = [torch.equal(found, rows) for found in (total, all_rows(rows), sum_own_rows(rows))]
    dist.barrier()
    backend = dist.get_backend()
    expected = "nccl" if setting.cuda else "gloo"
    return {
        "what": "collectives",
        "backend": backend,
        "ok": all(same) and objects == [{"rank": 0}] and backend == expected,
    }


def _times(setting: Setting) -> Iterator[dict[str, Any]]:
    """Step times in turns with bare torch, one engine at a time."""
    config = model_config("ViT-B-32", setting)
    rows = _TINY_BATCH if setting.tiny else _BATCH
    batch = random_batch(config, rows, setting.device)
    bare = {precision: _bare(config, batch, setting, precision) for precision in ("bf16", "fp32")}

    def against_bare(options: dict[str, Any]) -> dict[str, Any]:
        engine, _ = engine_of(config, setting.device, batch_size=rows, losses=_PLAIN, **options)
        return _compare({"engine": step_of(engine, batch, _PLAIN), "bare": bare[options["precision"]]}, setting)

    for name, options in _VARIANTS.items():
        if "compile" in options and not setting.cuda:
            yield {"what": name, "status": "needs CUDA"}
            continue
        yield guarded({"what": name, "batch": rows}, setting.device, functools.partial(against_bare, options))
        forget_peak(setting.device)


def _compare(ways: dict[str, Callable[[], Any]], setting: Setting) -> dict[str, Any]:
    rounds, warm_up = (1, 1) if setting.tiny else (_ROUNDS, 3)
    times = milliseconds(ways, setting, rounds=rounds, warm_up=warm_up)
    row: dict[str, Any] = {f"{name}_ms": round(time_ms, 2) for name, time_ms in times.items()}
    row["over_bare"] = round(times["engine"] / times["bare"], 3)
    row |= {f"{name}_gb": peak_gb_of(way, setting.device) for name, way in ways.items()}
    return row | {f"{name}_syncs": _synchronisations(setting, way) for name, way in ways.items()}


def _bare(config: dict[str, Any], batch: Any, setting: Setting, precision: str) -> Callable[[], Any]:
    """The same step without us: autocast where it is bf16, clipping, fused AdamW, and one wait, for the loss."""
    import torch

    from training.engine.deepspeed_engine import parameter_groups
    from training.losses.contrastive import ContrastiveLoss
    from training.model.student import Student

    autocast = torch.bfloat16 if precision == "bf16" else None
    clip = clip_of(config, setting.device, nonscalar_logit_scale=True)
    model = Student(clip, embed_dim=config["embed_dim"], teacher_dim=None, autocast=autocast)
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.2), lr=1e-4, betas=(0.9, 0.98), fused=True)
    contrastive = ContrastiveLoss()

    def step() -> float:
        features = model(normalize(batch.image), batch.text)
        loss = contrastive(features.image, features.text, features.logit_scale)["contrastive"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def _synchronisations(setting: Setting, step: Callable[[], Any]) -> int:
    """How often a step makes the host wait; -1 on a CPU, which has nothing to wait for."""
    import torch

    if not setting.cuda:
        step()
        return -1
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _resume(setting: Setting, stage: int, precision: str) -> dict[str, Any]:
    """Four steps, saved after two. A fresh engine loads that, saves it again and does the other two: all bits equal."""
    import torch

    from training.engine.engine_state import read

    options: dict[str, Any] = {"precision": precision, "zero_stage": stage, "batch_size": _TINY_BATCH, "losses": _PLAIN}
    batches = [random_batch(TINY, _TINY_BATCH, setting.device) for _ in range(4)]
    folders = {name: setting.folder / f"{stage}-{name}" for name in ("half", "whole", "again", "resumed")}
    with _reproducible():
        first, _ = engine_of(TINY, setting.device, **options)
        step = step_of(first, batches[0], _PLAIN)
        for number, batch in enumerate(batches):
            step(batch)
            if number == 1:
                first.save(folders["half"])
        first.save(folders["whole"])
        torch.manual_seed(9)
        second, _ = engine_of(TINY, setting.device, **options)
        second.load(folders["half"])
        second.save(folders["again"])
        step = step_of(second, batches[0], _PLAIN)
        for batch in batches[2:]:
            step(batch)
        second.save(folders["resumed"])
    found = {name: read(folder) for name, folder in folders.items()}
    loaded, resumed = _equal(found["half"], found["again"]), _equal(found["whole"], found["resumed"])
    moved = not _equal(found["half"], found["whole"])
    return {
        "tensors": len(found["half"]),
        "loaded_equal": loaded,
        "resumed_equal": resumed,
        "ok": loaded and resumed and moved,
    }


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Attention whose gradient is summed in a fixed order."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Of DeepSpeed's buckets, gigabytes that it fills itself.
        torch.utils.deterministic.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    import torch

    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _overflow(setting: Setting) -> dict[str, Any]:
    """fp16: ordinary steps move the weights; one whose gradient overflows is skipped and lowers the loss scale."""
    import torch

    if not setting.cuda:
        return {"needs": "CUDA"}
    engine, _ = engine_of(TINY, setting.device, precision="fp16", batch_size=_TINY_BATCH, losses=_PLAIN)
    step = step_of(engine, random_batch(TINY, _TINY_BATCH, setting.device), _PLAIN)
    states, taken = [_copy(engine)], []
    # The first steps may find the loss scale too large by themselves.
    for factor in (*[1.0] * 16, 1e30, 1.0):
        taken.append(step(factor=factor))
        states.append(_copy(engine))
    moved = [not _equal(before, after) for before, after in itertools.pairwise(states)]
    finite = all(bool(torch.isfinite(value).all()) for value in states[-1].values())
    return {
        "taken": "".join("01"[step_taken] for step_taken in taken),
        "ok": finite and moved == taken and taken[-3] and not taken[-2],
    }


def _copy(engine: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in engine.state().items()}
