"""The search that runs on GPUs, on a CPU: kernels in Triton's interpreter, everything else as it is.

The interpreter works in numpy, which has no bfloat16; that type, and everything once more on a device, is compared in
``tests/gpu``. Each script runs in a process of its own, since the interpreter is chosen when kernels are defined.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

_SEARCH = """
import numpy as np, sys, torch
from pathlib import Path
from scipy.spatial.distance import cdist
from pipeline.neighbors import gpu_tile, search, tile
from pipeline.neighbors.between import near_pairs_between
from tests.oracles import brute_force_forest, read_forest, unit, write_embeddings
from tests.pipeline.neighbors.test_near_duplicate_forest import DATA, T

# A GPU that is not there: every tile goes to the device's search, whose device is the CPU.
tile.devices.resolve = lambda wanted: "device"
original = gpu_tile.DeviceSearch.__init__
gpu_tile.DeviceSearch.__init__ = lambda self, folder, device: original(self, folder, "cpu")
search.expected = lambda wanted, compute: "cuda"

def check(folder, kind, precision, tile_rows):
    rng = np.random.default_rng(0)
    rows = unit(DATA[kind](rng))[:: 4 if kind != "one row" else 1]
    rows = rows.astype(np.float32 if rows.dtype == np.float32 else np.float16)
    rows = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True).astype(rows.dtype)
    ids = rng.permutation(10 * len(rows))[: len(rows)] - 7
    parts = np.array_split(np.arange(len(rows)), 3)
    own = folder / kind.replace("/", "-")
    paths = [write_embeddings(own / f"{n}.parquet", ids[part], rows[part]) for n, part in enumerate(parts)]
    search.near_duplicate_forest(
        paths, folder / "forest", max_distance=T, precision=precision, prefix=min(9, rows.shape[1]),
        tile_rows=tile_rows, memory_limit="64GB",
    )
    assert read_forest(folder / "forest") == brute_force_forest(ids, rows, T), (kind, precision, tile_rows)
    near_pairs_between(
        paths, paths[0], folder / "pairs", max_distance=T, precision=precision, prefix=min(9, rows.shape[1]),
        tile_rows=tile_rows, memory_limit="64GB",
    )
    between = cdist(rows.astype(np.float64), rows[parts[0]].astype(np.float64)).astype(np.float32)
    i, j = np.nonzero(between <= np.float32(T))
    expected = sorted(zip(ids[i].tolist(), ids[parts[0]][j].tolist(), between[i, j].tolist()))
    assert read_forest(folder / "pairs") == expected, (kind, precision, tile_rows)

for number, line in enumerate(sys.argv[2:]):
    kind, _, precision = line.rpartition(": ")
    check(Path(sys.argv[1]), kind, precision, (23, 1000)[number % 2])
    print(line)
"""


def run(script: str, *arguments: str) -> str:
    project = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": project, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.slow
def test_forest_and_pairs_are_those_of_float64(tmp_path: Path) -> None:
    """One process for all: to start one takes longer than a search."""
    kinds = [
        "spectrum 1/i: float32",
        "groups, at the threshold: tfloat32",
        "boundary pairs: float32",
        "exact repeats: tfloat32",
        "groups, float32: float32",
        "one row: float32",
    ]
    assert run(_SEARCH, str(tmp_path), *kinds).splitlines() == kinds


_PARTS = """
import numpy as np, torch
from benchmarks.gpu.hard_data import crowded, forest, near_pairs, T
from pipeline.neighbors import gpu_tile
from pipeline.neighbors.gpu_tile import Span, candidates, on_host, search_spans
from pipeline.neighbors.lower_bound import Bound, principal_axes

vectors = crowded(np.random.default_rng(0), 61, 40)
bound = Bound(prefix=20, precision="float32", max_distance=T, tensor_cores=True)
span = Span.of(torch.arange(61), torch.from_numpy(vectors), principal_axes(torch.from_numpy(vectors), 20), bound)
assert span.left.shape == (256, 32) and not (span.left @ span.right.T)[61:].ge(-9000).any()
whole = torch.cat([torch.stack(part) for part in candidates(span, span, bound)], dim=1)
gpu_tile._CANDIDATES, gpu_tile._HELD = 100, 50
edges = on_host(search_spans(span, span, bound, nodes=61).edges)
assert np.array_equal(edges.a, forest(vectors, near_pairs(vectors, T)).a)
assert torch.equal(torch.cat([torch.stack(part) for part in candidates(span, span, bound)], dim=1), whole)
print("equal")
"""


@pytest.mark.slow
def test_crowded_blocks_come_in_parts() -> None:
    assert run(_PARTS) == "equal"


_COMPILE = """
import subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pipeline.neighbors import gpu_kernels as kernels

def check(kernel, types, constants, shape, tensor_cores):
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    pointers = [n for n, name in enumerate(names) if types.get(name, "").startswith("*")]
    aligned = {(n,): [["tt.divisibility", 16]] for n in pointers}
    constants = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": shape.warps, "num_stages": shape.stages, "enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert ("wgmma" in made.asm["ptx"]) == tensor_cores, (kernel, constants)
    path = Path(sys.argv[1]) / "kernel.cubin"
    path.write_bytes(made.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert " STACK:0 " in said and " LOCAL:0 " in said, (kernel, constants, said)
    assert made.metadata.shared <= 227 << 10

def flags(precision, pointer, width):
    shape = kernels.SHAPES[precision]
    types = {"left": pointer, "right": pointer, "least": "fp32", "flags": "*i8"}
    types |= {"row_blocks": "i32", "column_blocks": "i32"}
    check(kernels._flag_blocks, types, {**constants(precision, width), "STRIP": shape.strip}, shape, True)

def constants(precision, width):
    shape = kernels.SHAPES[precision]
    blocks = dict(BLOCK_M=shape.rows, BLOCK_N=shape.columns, BLOCK_K=shape.depth)
    return {**blocks, "SAME": True, "WIDTH": width, "DOT": kernels._DOT[precision]}

flags("bfloat16", "*bf16", 64)
flags("bfloat16", "*bf16", 1344)
flags("tfloat32", "*fp32", 128)
types = {"left": "*bf16", "right": "*bf16", "least": "fp32", "blocks": "*i32", "places": "*i64", "found_a": "*i32"}
types |= {"found_b": "*i32", "rows": "i32", "columns": "i32"}
check(kernels._go_through, types, {**constants("bfloat16", 64), "EMIT": True}, kernels.GOING_THROUGH, True)
types = {"left": "*fp16", "right": "*fp16", "a": "*i32", "b": "*i32", "squared": "*fp64", "count": "i32"}
check(kernels._squared_distances, types, dict(WIDTH=1280, PAIRS=8, CHUNK=256), kernels.GOING_THROUGH, False)
print("compiled")
"""


@pytest.mark.slow
def test_kernels_compile_for_hopper_without_spills(tmp_path: Path) -> None:
    """No GPU is needed to compile for one: tensor cores are used where they are meant to be, nothing spills."""
    project = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": project, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", _COMPILE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "compiled", done.stderr[-3000:]
