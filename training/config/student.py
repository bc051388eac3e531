"""Settings of the student, of its training, and of the baseline beside it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.core.settings import DEMO, Section, runtime
from training.config.losses import LossesConfig

SCRATCH, TEACHER = "scratch", "teacher"
"""Values of ``student.initial``; by the latter it inherits from the teacher."""
UNIFORM, GROUP_SIZE, CLUSTER_ERROR = "uniform", "group_size", "cluster_error"
"""The values of ``student.weights``."""
RANKS_WITHOUT_GPU = 2
HELD_OUT = "held_out"
"""What measures of held-out samples begin with, where others have their task."""


class OptimizerConfig(Section):
    """AdamW and its learning rate by step."""

    learning_rate: float = Field(
        3e-3, description="Peak learning rate; RealSyn has 1e-3, the small student of the demo takes more.", gt=0
    )
    weight_decay: float = Field(
        0.2, description="Decay of weight matrices; not of biases, norms, logit scale (RealSyn).", ge=0
    )
    beta1: float = Field(0.9, description="AdamW (RealSyn).", ge=0, lt=1)
    beta2: float = Field(0.98, description="AdamW (RealSyn).", ge=0, lt=1)
    eps: float = Field(1e-6, description="AdamW (RealSyn).", gt=0)
    schedule: Literal["cosine", "one_cycle"] = Field(
        "cosine",
        description="`cosine`: linear warm-up, cosine to zero (CLIP); `one_cycle`: torch's OneCycleLR (RealSyn).",
    )
    warmup: float = Field(
        0.1, description="Share of the steps that warm up (RealSyn's OneCycle pct_start).", ge=0, lt=1
    )
    clip_gradient_norm: float = Field(1.0, description="Largest gradient norm; 0 turns clipping off.", ge=0)


class EvaluateConfig(Section):
    """What a student is measured on while it trains, every `student.evaluate_every` steps and at the last one. All but
    `held_out_samples` is runtime, unless a measure decides which weights are exported (`student.keep_best`)."""

    datasets: list[str] | None = Field(
        None,
        description="Evaluation sets, as in `evaluation.datasets`: `demo`, or folders; none means those of "
        "`evaluation.datasets`, an empty list none.",
    )
    tasks: list[Literal["zero_shot", "retrieval"]] = Field(
        ["zero_shot"], description="Tasks to run where the set has what they need."
    )
    samples: int = Field(
        1000,
        description="Test samples of each set that are measured on, drawn with a fixed seed. The ranks keep their "
        "pixels, each a share: 150 KB a sample at 224 x 224.",
        ge=1,
    )
    held_out_samples: int = Field(
        0,
        description="Training samples that are not trained on, and of which the loss is taken: whole batches, so a "
        "multiple of `student.batch_size`. Each shard gives its share, by a hash of `student.seed` and image id.",
        ge=0,
    )


class StudentConfig(Section):
    """The student and how it is trained."""

    model: str = Field(DEMO, description="`demo`, an open_clip model name, or a JSON model config file.")
    initial: str = Field(
        "scratch",
        description="First weights: `scratch`; `teacher` (evenly spaced layers and channels of it); "
        "or a checkpoint file, an open_clip folder, or a pretrained tag of `model`.",
    )
    losses: LossesConfig = LossesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = Field(256, description="Global batch: samples of one step over all ranks.", ge=2)
    steps: int = Field(400, description="Optimizer steps.", ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Precision of the engine.")
    micro_batches: int = Field(
        1,
        description="Parts of a rank's batch that go through the model one at a time, for less memory at the price of "
        "one more forward pass. Losses see the whole batch (GradCache); only BatchNorm normalizes each part by itself.",
        ge=1,
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations of transformer blocks again in the backward pass, for less memory."
    )
    compile: bool = Field(False, description="Compile the student's towers with torch.compile, for GPUs.")
    average_decay: float = Field(
        0.0,
        description="Decay of an exponential moving average of the weights, which is exported then; 0 keeps none. Not "
        "with ZeRO stage 3.",
        ge=0,
        lt=1,
    )
    zero_stage: int | None = Field(
        None,
        description="DeepSpeed ZeRO stage. None means 0 in fp32, the fastest where every rank can hold the optimizer's "
        "state, and 1 in bf16 and fp16, which need 1 to 3.",
        ge=0,
        le=3,
    )
    ranks: int | None = Field(
        None,
        description="Processes, one per GPU or per few cores: of this machine, or of all in `hostfile`. None means one "
        "on every GPU that is visible here, 2 where there is none, or one on every slot of `hostfile`.",
        ge=1,
    )
    hostfile: str | None = runtime(
        None,
        "Train on the machines of this DeepSpeed hostfile (lines `host slots=n`), reached by pdsh and ssh; all must "
        "see project, Python and `root` under the same paths. None trains on this machine.",
    )
    master_address: str | None = runtime(
        None, "Address of the first machine of `hostfile` for the others; none asks it, by `hostname -I`."
    )
    seed: int = Field(0, description="Seed of initial weights and of the order of samples.")
    weights: Literal["uniform", "group_size", "cluster_error"] = Field(
        "uniform",
        description="How often a sample is seen. `uniform`: once an epoch; `group_size`: in proportion to the images "
        "that it stands for; `cluster_error`: to its cluster's weight in `weights_file` (unconfirmed). Baseline and "
        "ablation are uniform.",
    )
    weights_file: str | None = Field(
        None,
        description="Parquet with `cluster_id` and `weight`, or `gap` as in the table cluster_accuracy of an earlier "
        "run, for `cluster_error`. Its content decides what is trained anew, not its name.",
    )
    checkpoint_every: int = runtime(100, "Steps between checkpoints.", ge=1)
    keep_checkpoints: int = runtime(2, "Checkpoints kept; older ones are removed.", ge=1)
    log_every: int = Field(10, description="Steps between two rows of training_metrics.", ge=1)
    evaluate_every: int = runtime(
        0,
        "Steps between two evaluations while the student trains; 0 makes none. Weights are the same with and without.",
        ge=0,
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    keep_best: str | None = Field(
        None,
        description="Export the weights of the evaluated step that was best by this measure, the first of equal ones: "
        "`<task>/<set>/<metric>` such as `zero_shot/demo/top1`, the highest, or `held_out/loss` or `held_out/<term>`, "
        "the lowest. None exports those of the last step. A checkpoint then holds the best weights so far too.",
    )
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = runtime(
        [],
        "Where metrics go besides their table: TensorBoard files or an MLflow database in `runs/`, Weights & Biases. "
        "Each needs its extra, `pip install 'clip-cid[tensorboard]'`. `MLFLOW_TRACKING_URI` names another place.",
    )
    loader_workers: int | None = runtime(
        None,
        "Loader processes per rank; 0 loads in the training process. None means 0 without a GPU, and with one as many "
        "as the rank has cores beside its own, up to 8, as far as shared memory holds their batches.",
        ge=0,
    )

    def content(self) -> dict[str, Any]:
        """As of every section. Where the number of ranks is left open, it is the one of a machine without a GPU: one
        result has one fingerprint, whatever machine made it. Of what is measured meanwhile only that which decides the
        exported weights is in it."""
        content = {**super().content(), "ranks": self.ranks or RANKS_WITHOUT_GPU}
        evaluate, best = content.pop("evaluate"), content.pop("keep_best")
        if best is not None:
            content |= {"keep_best": best, "evaluate_every": self.evaluate_every}
            if not best.startswith(f"{HELD_OUT}/"):
                # The job adds what the set of this measure is; others decide nothing.
                content["evaluate_samples"] = evaluate["samples"]
        if held_out := evaluate["held_out_samples"]:
            content["held_out_samples"] = held_out
        # The stage adds a hash of what weights are made of. Earlier versions had none.
        left_out = {"weights_file", *(["weights"] if self.weights == UNIFORM else [])}
        return {name: value for name, value in content.items() if name not in left_out}

    @property
    def measured_on(self) -> list[Path]:
        """Folders of the evaluation sets of a run, whose stage has filled in those that were left open."""
        return [Path(name) for name in self.evaluate.datasets or ()] if self.evaluate_every else []

    def unweighted(self) -> "StudentConfig":
        """The same student, for samples that have no weights."""
        return self.model_copy(update={"weights": UNIFORM, "weights_file": None})

    @property
    def stage(self) -> int:
        """The ZeRO stage that is taken."""
        return self.zero_stage if self.zero_stage is not None else int(self.precision != "fp32")


class BaselineConfig(Section):
    """The control: the same student, steps and batch, contrastive loss alone, on all downloaded pairs."""

    enabled: bool = Field(True, description="Train it. Turn it off where a second training run is too dear.")
