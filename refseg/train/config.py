"""What a training run is told. Nothing here imports torch, so recipes can be listed quickly."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Schedule = Literal["constant", "poly", "step", "cosine"]


class TrainConfig(BaseModel):
    """Settings of the loop. One *step* is one optimiser step on one global batch.

    steps, epochs: length of the run; give exactly one. An epoch is `samples // batch_size` steps;
    the remainder differs each epoch because the order does.
    batch_size: samples per step over all processes and micro-batches together (a recipe with
    data.per_image > 1 counts groups of up to so many expressions about one image instead).
    accumulate: micro-batches per process and step (memory against time; same result for
    methods without batch statistics). precision: "bf16" runs forward and loss under autocast,
    "auto" does so where the device multiplies in bfloat16 and stays in float32 elsewhere, where
    bfloat16 is many times slower.
    optimiser: "adamw", or "muon": matrices step by Muon (orthogonalised momentum, its size matched
    to AdamW's, so that one learning rate serves both), tables, norms, biases and kernels by AdamW.
    "sgd" steps along the gradient, without momentum (IRNet's heads).
    turn_kernels: kernels of convolutions step by Muon too, as matrices of an output channel a row.
    amsgrad, eps: of AdamW, of Muon's AdamW part too: divide by the largest second moment so far
    (Reddi et al. 2018); what is added to the divisor.
    lr: base learning rate; warmup: steps of linear rise, or warmup_epochs: epochs of a rise in
    stairs, one an epoch (needs the length in epochs); poly_power, step_at (fractions of the run),
    step_factor: see `schedule.lr_factor`. clip_norm: total gradient norm, None for none.
    ema: decay of the averaged weights that are evaluated and exported, None for none.
    save_every, log_every: steps. keep_last: checkpoints kept. evaluate_every: steps, "epoch",
    or None for never. workers: loader processes per process; they change nothing but speed.
    find_unused: let DDP look for parameters without gradients (slower). fsdp: shard parameters
    over processes instead of copying them. compile: torch.compile forward and loss.
    deterministic: ask torch for deterministic GPU kernels, so that a resumed run is bit-identical
    there too (the CPU ones are). cpu: use no GPU even if there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Changing these does not change what is learnt, so a resumed run may.
    VOLATILE: ClassVar[frozenset[str]] = frozenset(
        {
            "save_every",
            "keep_last",
            "log_every",
            "workers",
            "tensorboard",
            "cpu",
            "find_unused",
            "fsdp",
        }
    )

    #: Settings that came later, and what was so before: left out of a run's identity, so that runs
    #: which began before them go on.
    LATER: ClassVar[dict[str, float | bool | int]] = {
        "eps": 1e-8,
        "amsgrad": False,
        "warmup_epochs": 0,
        "turn_kernels": False,
    }

    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)

    optimiser: Literal["adamw", "muon", "sgd"] = "adamw"
    turn_kernels: bool = False
    lr: float = Field(default=3e-5, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=1e-2, ge=0, allow_inf_nan=False)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0, allow_inf_nan=False)
    amsgrad: bool = False
    clip_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    ema: float | None = Field(default=None, gt=0, lt=1)

    schedule: Schedule = "poly"
    warmup: int = Field(default=0, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    poly_power: float = Field(default=0.9, gt=0, allow_inf_nan=False)
    step_at: tuple[float, ...] = (0.7, 0.9)
    step_factor: float = Field(default=0.1, gt=0, le=1)

    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    compile: bool = False
    fsdp: bool = False
    find_unused: bool = False
    deterministic: bool = False
    cpu: bool = False

    log_every: int = Field(default=20, ge=1)
    save_every: int = Field(default=500, ge=1)
    keep_last: int = Field(default=2, ge=1)
    evaluate_every: int | Literal["epoch"] | None = "epoch"
    workers: int = Field(default=0, ge=0)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"give steps or epochs, not both or none (steps={self.steps}, epochs={self.epochs})"
            )
        if isinstance(self.evaluate_every, int) and self.evaluate_every < 1:
            raise ValueError(f"evaluate_every must be at least 1, not {self.evaluate_every}")
        if self.optimiser == "muon" and self.fsdp:
            raise ValueError("muon turns whole matrices, fsdp cuts them up: use adamw with fsdp")
        if self.turn_kernels and self.optimiser != "muon":
            raise ValueError(
                f"turn_kernels is Muon's, the optimiser is {self.optimiser}: set "
                "turn_kernels=false, or optimiser=muon"
            )
        if any(not 0 < at < 1 for at in self.step_at):
            raise ValueError(f"step_at holds fractions of the run in 0..1, not {self.step_at}")
        if self.warmup_epochs and self.epochs is None:
            raise ValueError(
                "warmup_epochs needs the length in epochs: give epochs, or warmup in steps"
            )
        if self.warmup_epochs and self.warmup:
            raise ValueError(
                f"give warmup (steps) or warmup_epochs, not both "
                f"(warmup={self.warmup}, warmup_epochs={self.warmup_epochs})"
            )
        return self
