"""DeepSpeed behind our interface, in processes of its own."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from training.config import OptimizerConfig, StudentConfig
from training.engine import Engine, deepspeed_config, init_distributed, parameter_groups
from training.launch import _free_port
from training.losses.contrastive import ContrastiveLoss

BATCH, DIM = 8, 6
BOUND = 1.5


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(DIM, DIM)
        self.logit_scale = nn.Parameter(torch.tensor([BOUND]))
        self.register_buffer("seen", torch.tensor(7))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return nn.functional.normalize(self.map(rows), dim=-1), self.logit_scale.exp().reshape(())


def _config(world: int, stage: int) -> StudentConfig:
    optimizer = OptimizerConfig(learning_rate=1e-2, eps=1e-3)
    return StudentConfig(batch_size=BATCH, ranks=world, zero_stage=stage, optimizer=optimizer)


def _train(rank: int, world: int, port: int, folder: str) -> None:
    """A few steps per ZeRO stage; rank 0 keeps the final states."""
    with pytest.MonkeyPatch.context() as patch:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**names, "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}.items():
            patch.setenv(name, str(value))
        torch.set_num_threads(1)
        init_distributed()
        states = {}
        for stage in (0, 1, 2, 3):
            engine = Engine(Toy(), _config(world, stage))
            rows = torch.randn(4, BATCH, DIM, generator=torch.Generator().manual_seed(1))
            part = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
            for step_rows in rows:
                image, scale = engine.model(step_rows[part])
                text, _ = engine.model(step_rows.flip(-1)[part])
                loss = ContrastiveLoss()(image, text, scale)["contrastive"] - 10 * scale.log()
                engine.step(loss, learning_rate=1e-2)
                value = engine.clamp_parameter("logit_scale", BOUND)
            states[stage] = {**engine.state(), "clamped": torch.tensor(value)}
        if rank == 0:
            torch.save(states, f"{folder}/{world}.pt")
        engine.close()


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """Final state by (number of ranks, ZeRO stage)."""
    folder = tmp_path_factory.mktemp("states")
    for world in (1, 2):
        mp.spawn(_train, args=(world, _free_port(), str(folder)), nprocs=world)
    found = {world: torch.load(Path(folder) / f"{world}.pt", weights_only=True) for world in (1, 2)}
    return {(world, stage): state for world, by_stage in found.items() for stage, state in by_stage.items()}


@pytest.mark.slow
def test_ranks_and_zero_stages_do_not_change_the_weights(states: dict) -> None:
    expected = states[1, 0]
    assert not torch.equal(expected["map.weight"], Toy().map.weight)
    for key, state in states.items():
        assert state.keys() == expected.keys(), key
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, atol=1e-5, rtol=1e-5, msg=f"{key} {name}")


@pytest.mark.slow
def test_a_clamped_parameter_stays_below_its_bound(states: dict) -> None:
    """Every step pushes the scale up; without the optimizer's own copy being bounded too it would drift away."""
    for key, state in states.items():
        assert state["logit_scale"].item() == pytest.approx(BOUND), key
        assert state["clamped"].item() == pytest.approx(BOUND), key


def test_only_matrices_decay() -> None:
    toy = Toy()
    decayed, rest = parameter_groups(toy, weight_decay=0.2)
    assert decayed["weight_decay"] == 0.2 and [id(p) for p in decayed["params"]] == [id(toy.map.weight)]
    assert rest["weight_decay"] == 0 and {id(p) for p in rest["params"]} == {id(toy.map.bias), id(toy.logit_scale)}


def test_deepspeed_config_follows_the_student() -> None:
    config = deepspeed_config(StudentConfig(batch_size=32, precision="bf16", zero_stage=2), world=4)
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (32, 8)
    assert config["bf16"]["enabled"] and not config["fp16"]["enabled"]
    assert config["zero_optimization"]["stage"] == 2 and config["gradient_clipping"] == 1.0
