"""Started by torchrun: several small runs in one launch, for test_two_processes.py to look at."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from toy import Toy, toy_data, toy_score

from refseg.errors import ConfigError
from refseg.train import parallel
from refseg.train.config import TrainConfig
from refseg.train.loop import fit
from refseg.train.results import Evaluation

COMMON = TrainConfig(
    steps=12, batch_size=8, lr=1e-2, clip_norm=0.5, log_every=1, save_every=6, seed=3, cpu=True
)


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({**COMMON.model_dump(), **changes})


def main(folder: Path) -> None:
    parallel.SHARD_FROM = 1  # the toy's blocks are small, yet each shall be a shard
    data, score = toy_data(), Evaluation(toy_score, "agreement", "text+mask")
    fit(Toy(), data, COMMON, folder / "ddp", evaluation=score, progress="none")
    fit(Toy(), data, config(accumulate=2, workers=1), folder / "accumulate", progress="none")

    sharded = config(fsdp=True, ema=0.9)
    fit(Toy(), data, sharded, folder / "fsdp", evaluation=score, progress="none")
    # The same once more, interrupted at half its length and resumed by fresh objects.
    (folder / "fsdp-resumed").mkdir(exist_ok=True)
    stop_after(6, lambda: fit(Toy(), data, sharded, folder / "fsdp-resumed", progress="none"))
    fit(Toy(), data, sharded, folder / "fsdp-resumed", evaluation=score, progress="none")

    stop_after(8, lambda: fit(Toy(), data, sharded, folder / "switched", progress="none"))
    try:
        fit(Toy(), data, config(batch_size=9), folder / "odd", progress="none")
    except ConfigError as error:
        (folder / f"odd-{torch.distributed.get_rank()}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()


class Interrupted(Exception):
    pass


def stop_after(steps: int, run: object) -> None:
    """Call run() and interrupt it in the forward pass after `steps` steps."""
    calls = 0
    forward = Toy.forward

    def counted(self: Toy, batch: object) -> object:
        nonlocal calls
        calls += 1
        if calls > steps:
            raise Interrupted
        return forward(self, batch)  # type: ignore[arg-type]

    Toy.forward = counted  # type: ignore[assignment,method-assign]
    try:
        run()  # type: ignore[operator]
    except Interrupted:
        pass
    finally:
        Toy.forward = forward  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
