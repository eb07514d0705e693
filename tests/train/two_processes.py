"""Started by torchrun: several small runs in one launch, for test_two_processes.py to look at."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule
from toy import Toy, ToyOutputs, toy_data, toy_score

from refseg.errors import ConfigError
from refseg.train import parallel
from refseg.train.config import TrainConfig
from refseg.train.loop import fit
from refseg.train.results import Evaluation
from refseg.types import Batch

COMMON = TrainConfig(
    steps=12, batch_size=8, lr=1e-2, clip_norm=0.5, log_every=1, save_every=6, seed=3, cpu=True
)


class Stage(nn.Module):
    """A block that holds blocks and a part of its own; nobody calls its forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.mix = nn.Conv2d(width, width, 1)


class Nested(Toy):
    """The toy with stages, which it runs part by part as VEGA does Swin's."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Stage(self.config.width) for _ in range(2)])

    def forward(self, batch: Batch) -> ToyOutputs:
        x = F.gelu(self.conv(batch.images))
        for stage in self.blocks:
            for part in stage.parts:
                x = x + F.gelu(part(x))
            x = stage.mix(x)
        said = (self.words(batch.words) * batch.word_mask[..., None]).sum(1)
        return ToyOutputs(torch.einsum("bchw,bc->bhw", x[batch.image_of], said))


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

    nested = Nested()
    fit(nested, data, config(fsdp=True), folder / "nested", progress="none")
    shards = [name for name, part in nested.named_modules() if isinstance(part, FSDPModule)]
    rank = torch.distributed.get_rank()
    (folder / f"shards-{rank}.txt").write_text(" ".join(shards))
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    (folder / f"waits-{rank}.txt").write_text(str(group.options._timeout.total_seconds()))

    stop_after(8, lambda: fit(Toy(), data, sharded, folder / "switched", progress="none"))
    try:
        fit(Toy(), data, config(batch_size=9), folder / "odd", progress="none")
    except ConfigError as error:
        (folder / f"odd-{rank}.txt").write_text(str(error))
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
