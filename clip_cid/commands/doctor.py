"""``clip-cid doctor``: what this machine has for the stages, and what of it will be slow, or will not do."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, reported

_GIB = 1 << 30
_EXTRAS = {
    "onnx": "onnxruntime",
    "transformers": "transformers",
    "ray": "ray",
    "s3": "s3fs",
    "tensorboard": "tensorboard",
}


@reported
def doctor(
    root: Annotated[Path, typer.Argument(help="Where the data are to lie: its disk is looked at.")] = Path("data"),
    *,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Say what this machine has, and what will be slow."""
    del json_, debug
    found: dict[str, dict[str, Any]] = {
        "clip-cid": {"version": importlib.metadata.version("clip-cid"), "python": platform.python_version()},
        "cpu": _cpu(),
        "memory": _memory(),
        "disk": _disk(root),
        "gpu": _gpu(),
        "libraries": _libraries(),
    }
    advice = list(_advice(found))
    lines = [
        f"{section + ':':11}" + ", ".join(f"{name} {_text(value)}" for name, value in facts.items())
        for section, facts in found.items()
    ]
    lines += ["", *(f"! {text}" for text in advice)] if advice else ["", "Nothing here will be in the way."]
    return {**found, "advice": advice, "summary": "\n".join(lines)}


def _cpu() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    values = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in values.items()}
    flags = set(named.get("flags", named.get("Features", "")).split())
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "model": named.get("model name", platform.processor() or platform.machine()),
        "cores": usable,
        "of": os.cpu_count() or usable,
        "features": [name for name in wanted if name in flags],
    }


def _memory() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    total = min(memory.total, int(text)) if text != "max" else memory.total
    return {"gib": round(total / _GIB, 1), "free_gib": round(min(memory.available, total) / _GIB, 1)}


def _disk(root: Path) -> dict[str, Any]:
    place = root.resolve()
    while not place.exists():
        place = place.parent
    return {
        "place": str(place),
        "free_gib": round(shutil.disk_usage(place).free / _GIB, 1),
        "writable": os.access(place, os.W_OK),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _gpu() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {
            "count": 0,
            "why": "torch sees no CUDA device" if torch.version.cuda else "torch was built without CUDA",
        }
    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "count": len(properties),
        "names": sorted({device.name for device in properties}),
        "gib": round(min(device.total_memory for device in properties) / _GIB, 1),
        "bf16": torch.cuda.is_bf16_supported(),
    }


def _libraries() -> dict[str, Any]:
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "open_clip_torch", "duckdb", "pyarrow", "dagster", "deepspeed", "img2dataset")
    }
    for name in ("faiss-gpu", "faiss-cpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    missing = [extra for extra, module in _EXTRAS.items() if importlib.util.find_spec(module) is None]
    return {
        **versions,
        "triton": importlib.util.find_spec("triton") is not None,
        "compiler": shutil.which("c++") or shutil.which("g++"),
        "extras_missing": missing,
    }


def _advice(found: dict[str, dict[str, Any]]) -> Any:
    cpu, gpu, disk = found["cpu"], found["gpu"], found["disk"]
    memory, libraries = found["memory"], found["libraries"]
    if not gpu["count"]:
        yield (
            f"no GPU ({gpu['why']}): embedding and training of more than the demo take days; the pair search, the "
            "balance and k-means run on the CPU"
        )
    elif not gpu["bf16"]:
        yield "the GPU has no bf16: student.precision and embeddings.precision stay fp32 or fp16"
    if gpu["count"] and not libraries["triton"]:
        yield "no Triton: the pair search takes its slower way on the GPU"
    if not {"avx2", "asimd"} & set(cpu["features"]):
        yield "the CPU has no AVX2: faiss and torch take slow paths"
    if cpu["cores"] < cpu["of"]:
        yield f"{cpu['cores']} of {cpu['of']} cores may be used (affinity or container)"
    if memory["free_gib"] < 4:
        yield (
            f"{memory['free_gib']} GiB of memory are free: lower query.memory_limit and neighbors.memory_limit, which "
            "are 2 and 4 GB"
        )
    if disk["free_gib"] < 10:
        yield f"{disk['free_gib']} GiB are free at {disk['place']}: a million images of 256 pixels need about 20"
    if not disk["writable"]:
        yield f"{disk['place']} cannot be written"
    if disk["open_files"] < 4096:
        yield f"{disk['open_files']} files may be open at a time: raise ulimit -n, downloads use many connections"
    if libraries["compiler"] is None:
        yield "no C++ compiler: compiled teachers (embeddings.compile) and DeepSpeed's own kernels cannot be built"
    if sys.platform != "linux":
        yield f"{sys.platform} is not tested; Linux is"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
