"""DeepSpeed behind our interface, in processes of its own."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from tests.training.processes import run_ranks
from training.config import OptimizerConfig, StudentConfig
from training.engine.deepspeed_engine import Engine, deepspeed_config, init_distributed, parameter_groups
from training.launch.leave import leave
from training.launch.ports import reserved_port
from training.losses.contrastive import ContrastiveLoss

BATCH, DIM = 8, 6
BOUND = 1.5


class ToyFeatures(NamedTuple):
    image: torch.Tensor
    text: torch.Tensor
    scale: torch.Tensor
    nothing: None = None


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(DIM, DIM)
        # With batch norms, weights are channels last at stage 0, and contiguous in the flat copies of other stages.
        self.near = nn.Conv2d(2, 2, (3, 1), padding=(1, 0))
        self.norm = nn.BatchNorm2d(2, affine=False)
        self.logit_scale = nn.Parameter(torch.tensor([BOUND]))
        self.register_buffer("seen", torch.tensor(7))

    def forward(self, rows: torch.Tensor) -> ToyFeatures:
        rows = rows.to(self.map.weight.dtype)
        rows = rows + self.near(rows.reshape(-1, 2, DIM // 2, 1)).reshape(rows.shape)
        image, text = (nn.functional.normalize(self.map(part), dim=-1) for part in (rows, rows.flip(-1)))
        return ToyFeatures(image, text, self.logit_scale.exp().reshape(()))


class Wide(nn.Module):
    """One number before weights and biases of whole 16 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.map = nn.Parameter(torch.ones(1)), nn.Linear(16, 24)
        self.table, self.map_on = nn.Parameter(torch.ones(3, 3)), nn.Linear(24, 8)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.map_on(self.map(rows)) * self.scale * self.table.sum()
        return output


def _config(world: int, stage: int, **changes: Any) -> StudentConfig:
    optimizer = OptimizerConfig(learning_rate=1e-2, eps=1e-3)
    return StudentConfig(batch_size=BATCH, ranks=world, zero_stage=stage, optimizer=optimizer, **changes)


def _steps(engine: Engine, first: int, last: int, *, looked_at: bool = False) -> dict[str, torch.Tensor]:
    """Steps of one run; returns what the engine said of the last one: the bounded value, and the gradient's norm.

    ``looked_at``: before and after each the module is called as it would be exported.
    """
    rows, said = torch.randn(4, BATCH, DIM, generator=torch.Generator().manual_seed(1)), dict[str, torch.Tensor]()
    part = slice(engine.rank * BATCH // engine.world, (engine.rank + 1) * BATCH // engine.world)
    for step_rows in rows[first:last]:
        if looked_at:
            _look_at(engine, step_rows)
        image, text, scale, _ = engine.model(step_rows[part])
        loss = ContrastiveLoss()(image, text, scale)["contrastive"] - 10 * scale.log()
        engine.backward(loss)
        assert engine.step(learning_rate=1e-2)
        value = engine.clamp_parameter("logit_scale", BOUND)
        said = {"clamped": value.clone(), "norm": torch.tensor(engine.gradient_norm())}
        if looked_at:
            _look_at(engine, step_rows)
    return said


def _look_at(engine: Engine, rows: torch.Tensor) -> list[torch.Tensor]:
    """Twice, with other numbers of rows than in training, the same on all ranks."""
    with torch.no_grad(), engine.exported() as model:
        return [model(rows[:count]).image.clone() for count in (1, BATCH)]


def _put_back(engine: Engine) -> None:
    """Weights of an earlier step take the place of the last ones, in forward passes too, for good."""
    kept = {name: value.clone().cpu() for name, value in engine.state().items()}
    rows = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(2))
    seen = _look_at(engine, rows)
    _steps(engine, 2, 4)
    assert not torch.equal(engine.state()["map.weight"], kept["map.weight"])
    engine.replace_weights(kept if engine.rank == 0 else {})
    assert all(torch.equal(value.cpu(), kept[name]) for name, value in engine.state().items())
    assert all(torch.equal(one, other) for one, other in zip(_look_at(engine, rows), seen))


def _refuse_nan(engine: Engine) -> None:
    """A loss that is finite, with a gradient that is not, changes no weight at any stage."""
    before = {name: value.clone() for name, value in engine.state().items()}
    rows = torch.randn(BATCH // engine.world, DIM)
    scale = engine.model(rows).scale
    engine.backward((0 * scale).sqrt())
    assert not engine.step(learning_rate=1e-2) and not math.isfinite(engine.gradient_norm())
    assert all(torch.equal(value, before[name]) for name, value in engine.state().items())


def _aligned(engine: Engine) -> None:
    """Parameters lie where a GPU reads 16 bytes at a time, whatever else is in their group."""
    found = {name: parameter.data_ptr() % 16 for name, parameter in engine._module.named_parameters()}
    assert len(found) == 6 and not any(found[name] for name in found if name.startswith("map"))


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"stage": stage} for stage in (0, 1, 2, 3)},
    **{f"parts, stage {stage}": {"stage": stage, "micro_batches": 2} for stage in (0, 1, 2, 3)},
    "average": {"stage": 1, "average_decay": 0.9},
    "bf16": {"stage": 1, "precision": "bf16"},
}
LOOKED_AT = ("stage 0", "parts, stage 0", "stage 2", "stage 3", "average", "bf16")


def _train(rank: int, world: int, port: int, folder: str) -> None:
    """A few steps per variant, and the second half of them again from a checkpoint of the other number of ranks."""
    with pytest.MonkeyPatch.context() as patch:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**names, "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}.items():
            patch.setenv(name, str(value))
        torch.set_num_threads(1)
        init_distributed()
        # Those of two ranks come a second time only for what one has left.
        states = {} if (Path(folder) / f"{world}-new.pt").exists() else _train_anew(world, Path(folder))
        for name, variant in VARIANTS.items():
            if (Path(folder) / name / f"ranks-{3 - world}").is_dir():
                engine = Engine(Toy(), _config(world, **variant))
                engine.load(Path(folder) / name / f"ranks-{3 - world}")
                said = _steps(engine, 2, 4)
                states[f"{name}, resumed"] = engine.state() | said
        if rank == 0:
            kind = "resumed" if any("resumed" in name for name in states) else "new"
            torch.save(states, f"{folder}/{world}-{kind}.pt")
        Engine(Toy(), _config(world, 0)).close()
    leave(0)


def _train_anew(world: int, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    states = {}
    for name, variant in VARIANTS.items():
        engine = Engine(Toy(), _config(world, **variant))
        _steps(engine, 0, 2)
        engine.save(folder / name / f"ranks-{world}")
        said = _steps(engine, 2, 4)
        states[name] = engine.state() | said
        if world == 2 and name in LOOKED_AT:
            engine = Engine(Toy(), _config(world, **variant))
            _steps(engine, 0, 2, looked_at=True)
            said = _steps(engine, 2, 4, looked_at=True)
            states[f"{name}, looked at"] = {key: value.clone() for key, value in (engine.state() | said).items()}
            _put_back(engine)
    for stage in (0, 1, 2, 3):
        engine = Engine(Toy(), _config(world, stage))
        _refuse_nan(Engine(Toy(), _config(world, stage, precision="bf16")))
        if stage in (1, 2):
            _aligned(Engine(Wide(), _config(world, stage, precision="bf16")))
        engine.save(folder / "unstepped")
        engine.barrier()
        engine.load(folder / "unstepped")
        said = _steps(engine, 0, 4)
        states[f"stage {stage}, saved at the start"] = engine.state() | said
        _refuse_nan(engine)
    return states


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, torch.Tensor]]:
    """Final state by (number of ranks, variant). Two ranks run first, one goes on from them, then two from one."""
    folder, found = tmp_path_factory.mktemp("states"), {}
    with reserved_port() as one, reserved_port() as two, reserved_port() as three:
        runs = [(world, port, str(folder)) for world, port in ((2, one), (1, two), (2, three))]
        # DeepSpeed loads torch's compiler for an optimizer that nobody uses here.
        run_ranks(_train, runs, loaded=["deepspeed.runtime.zero.muon.muon_optimizer"])
    for world, name in ((2, "2-new"), (1, "1-resumed"), (2, "2-resumed")):
        states = torch.load(folder / f"{name}.pt", weights_only=True)
        found |= {(world, variant): state for variant, state in states.items()}
    return found


@pytest.mark.slow
def test_ranks_stages_parts_and_resuming_elsewhere_do_not_change_the_weights(states: dict) -> None:
    expected = states[1, "stage 0"]
    assert not torch.equal(expected["map.weight"], Toy().map.weight)
    assert not torch.equal(expected["near.weight"], Toy().near.weight)
    assert {(1, "stage 1, resumed"), (2, "parts, stage 2, resumed")} <= states.keys()
    for key, state in states.items():
        assert state.keys() == expected.keys(), key
        if "average" in key[1]:
            continue
        tolerance = 2e-2 if "bf16" in key[1] else 1e-5
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, atol=tolerance, rtol=tolerance, msg=f"{key} {name}")


@pytest.mark.slow
def test_looking_at_a_module_changes_nothing(states: dict) -> None:
    """Weights, statistics, averages and the last norm, bit for bit."""
    for name in LOOKED_AT:
        alone, looked_at = states[2, name], states[2, f"{name}, looked at"]
        assert all(torch.equal(alone[key], looked_at[key]) for key in alone), name


@pytest.mark.slow
def test_averaged_weights_lag_behind_and_survive_a_change_of_ranks(states: dict) -> None:
    averaged, last = states[1, "average"]["map.weight"], states[1, "stage 1"]["map.weight"]
    start = Toy().map.weight.detach()
    assert 0 < (averaged - start).norm() < (last - start).norm()
    for key in ((2, "average"), (1, "average, resumed"), (2, "average, resumed")):
        torch.testing.assert_close(states[key]["map.weight"], averaged, atol=1e-5, rtol=1e-5, msg=str(key))


@pytest.mark.slow
def test_a_clamped_parameter_stays_below_its_bound(states: dict) -> None:
    """Every step pushes the scale up; without the optimizer's own copy being bounded too it would drift away."""
    for key, state in states.items():
        if "average" not in key[1]:
            assert state["logit_scale"].item() == pytest.approx(BOUND), key
        assert state["clamped"].item() == pytest.approx(BOUND), key


def test_only_matrices_decay() -> None:
    toy = Toy()
    decayed, rest = parameter_groups(toy, weight_decay=0.2)
    matrices = {id(toy.map.weight), id(toy.near.weight)}
    assert decayed["weight_decay"] == 0.2 and {id(p) for p in decayed["params"]} == matrices
    others = {id(toy.map.bias), id(toy.near.bias), id(toy.logit_scale)}
    assert rest["weight_decay"] == 0 and {id(p) for p in rest["params"]} == others


def test_deepspeed_config_follows_the_student() -> None:
    """torch clips at stage 0 in fp32, where DeepSpeed would not tell the norm."""
    assert deepspeed_config(StudentConfig(zero_stage=0), world=1)["gradient_clipping"] == 0
    config = deepspeed_config(StudentConfig(batch_size=32, precision="bf16", zero_stage=2), world=4)
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (32, 8)
    assert config["bf16"]["enabled"] and not config["fp16"]["enabled"]
    assert config["zero_optimization"]["stage"] == 2 and config["gradient_clipping"] == 1.0


def test_parts_of_a_batch_are_deepspeeds_micro_batches() -> None:
    config = deepspeed_config(StudentConfig(batch_size=32, micro_batches=4), world=2)
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (4, 4)
