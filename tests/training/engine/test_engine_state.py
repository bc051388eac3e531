"""State of an optimizer, on a device that needs no hardware."""

from types import SimpleNamespace

import torch

from training.engine.engine_state import _start_moments


def test_steps_are_counted_where_the_moments_are() -> None:
    """A fused AdamW on a GPU refuses a count that came from a file, on the CPU."""
    parameter = torch.nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    _start_moments(SimpleNamespace(optimizer=optimizer), torch.tensor([7.0]))
    state = optimizer.state[parameter]
    assert {value.device.type for value in state.values()} == {"meta"} and state["step"].shape == ()
