"""Seconds of work on a device, the ceiling that rates are compared with, and the memory that work takes."""

import functools
import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def wait(device: str) -> None:
    """Until everything that was started is done."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: str, *, rounds: int = 5, warm_up: int = 1) -> float:
    """Median of so many rounds; on a CPU, where nothing is measured, of one."""
    rounds, warm_up = (rounds, warm_up) if device == "cuda" else (1, 0)
    return take_turns({"work": work}, device, rounds=rounds, warm_up=warm_up)["work"]


def take_turns(
    ways: Mapping[str, Callable[[], object]], device: str, *, rounds: int, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each way, the device's work included.

    They take turns, in an order that changes, so that a change of clock or load meets all alike. The first rounds,
    which choose kernels and allocate memory, do not count.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for number in range(warm_up + rounds):
        for name in order.sample(list(ways), len(ways)):
            wait(device)
            started = time.perf_counter()
            ways[name]()
            wait(device)
            if number >= warm_up:
                found[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in found.items()}


@functools.cache
def peak(device: str, dtype: Any) -> float:
    """Operations a second of a large square matrix product of random values: multiplications and additions."""
    import torch

    size = 8192 if device == "cuda" else 256
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / seconds(lambda: matrix @ matrix, device, rounds=10, warm_up=3)


def peak_gb(device: str) -> float:
    """Most memory that tensors took on the device since :func:`forget_peak`, in 1e9 bytes; 0 on a CPU."""
    import torch

    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else 0.0


def forget_peak(device: str) -> None:
    """Begin anew to look for the peak, with what is no longer used given back."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb_of(work: Callable[[], Any], device: str) -> float:
    """Most memory that was allocated while ``work`` ran; 0 on a CPU."""
    wait(device)
    forget_peak(device)
    work()
    wait(device)
    return peak_gb(device)


def operations(work: Callable[[], Any], device: str, *, most: int) -> dict[str, Any]:
    """Where ``work`` spends the device's time: the operations that take most of it, and the kernels that they start."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    wait(device)
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiled:
        work()
        wait(device)
    taken: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for event in profiled.key_averages():
        found_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if found_us and not event.is_user_annotation:
            taken["::" in event.key[:8]][f"{event.key[:80]} x{event.count}"] = found_us / 1e3
    row: dict[str, Any] = {"all_ms": round(sum(taken[not on_gpu].values()), 1)}
    for title, found in (("operation", taken[True]), ("kernel", taken[False])):
        first = sorted(found, key=lambda name: -found[name])[:most]
        row |= {f"{title}_{number}": f"{found[name]:.1f} ms {name}" for number, name in enumerate(first, 1)}
    return row
