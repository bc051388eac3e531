"""The fused kernel against the plain path: in Triton's interpreter everywhere, on the device where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.prefix import Bound, left_columns, principal_axes, right_columns
from pipeline.tiles import plain_candidates
from tests.oracles import unit

_COMPARE = """
import numpy as np, torch
from pipeline import fused
from pipeline.tiles import plain_candidates
rng = np.random.default_rng(0)
# The interpreter works in numpy, which has no bfloat16: that one is compared on the device.
for rows, columns, width in ((130, 70, 19), (64, 200, 40), (140, 130, 23)):
    # Small whole numbers: every order of summation gives the same score.
    left, right = (torch.from_numpy(rng.integers(-3, 4, (n, width))).float() for n in (rows, columns))
    for least in (-1e9, 3.0, 40.0, 1e9):
        for same in (False, True):
            if same and rows != columns:
                right = left
            expected = plain_candidates(left, right, least, same)
            found = fused.fused_candidates(left, right, least, same, capacity=1 << 15)
            assert all(np.array_equal(np.sort(e), np.sort(f)) for e, f in zip(expected, found)), (rows, least, same)
            assert set(zip(*map(list, expected))) == set(zip(*map(list, found)))
    *_, count = fused.launch(left, right, -1e9, False, capacity=16)
    assert count == len(left) * len(right)
    assert len(fused.fused_candidates(left, right, -1e9, False, capacity=16)[0]) == count
print("equal")
"""


def test_kernel_equals_the_plain_path_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    project = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": project}
    done = subprocess.run(
        [sys.executable, "-c", _COMPARE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "tfloat32", "bfloat16"])
def test_kernel_loses_no_pair_on_the_device(precision: str) -> None:
    from pipeline.fused import fused_candidates

    rng = np.random.default_rng(0)
    rows = torch.from_numpy(
        unit(np.repeat(rng.normal(size=(500, 256)), 4, axis=0) + 0.3 * rng.normal(size=(2000, 256)))
    )
    bound = Bound(prefix=61, precision=precision, max_distance=0.6, tensor_cores=True)  # type: ignore[arg-type]
    left = left_columns(rows, principal_axes(rows, 61), bound).cuda()
    right = right_columns(left, bound)
    near = torch.triu(torch.cdist(rows, rows) <= 0.6, 1).nonzero()
    assert len(near)
    for pick in (fused_candidates, plain_candidates):
        found = set(zip(*map(list, pick(left, right, bound.least_score, True))))
        assert set(map(tuple, near.tolist())) <= found
