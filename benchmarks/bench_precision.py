"""bfloat16 against float32 on this machine's processor: what `train.precision=auto` decides by.

    python benchmarks/bench_precision.py

Side by side, run by run: one product of matrices; the iteration of a Muon step (torch's, which is
bfloat16, and the one in float32); forward and backward of a small text encoder under autocast and
without. torch decides what its processor can by instructions; the page says what it found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutual.measuring import Table, compared
from benchmarks.output import hand_over
from refseg.nn.text import BertWords
from refseg.recipes.encoders import BERT_SMALL
from refseg.train.muon import Float32Muon
from refseg.train.precision import multiplies_bfloat16

HALF, FULL = "bfloat16", "float32"


def products(runs: int) -> Table:
    """[512, 512] x [512, 512]."""
    one = torch.randn(512, 512)
    return compared({name: lambda m=m: m @ m for name, m in both(one).items()}, runs)


def both(one: torch.Tensor) -> dict[str, torch.Tensor]:
    return {HALF: one.bfloat16(), FULL: one}


def muons(runs: int) -> Table:
    """A step of 24 matrices [512, 128], as a small model has."""

    def stepping(rule: type[torch.optim.Muon]) -> Callable[[], Any]:
        matrices = [torch.nn.Parameter(torch.randn(512, 128)) for _ in range(24)]
        for one in matrices:
            one.grad = torch.randn_like(one)
        return rule(matrices, lr=1e-3, adjust_lr_fn="match_rms_adamw").step

    return compared({HALF: stepping(torch.optim.Muon), FULL: stepping(Float32Muon)}, runs)


def texts(runs: int) -> Table:
    """Forward and backward of the small BERT, 512 expressions of 8 tokens."""
    text = BertWords(BERT_SMALL)
    words, mask = torch.randint(5, 600, (512, 8)), torch.ones(512, 8, dtype=torch.bool)

    def learning(half: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = text(words, mask).square().mean()
        loss.backward()

    return compared({HALF: lambda: learning(True), FULL: lambda: learning(False)}, runs)


def show(told: dict[str, Any]) -> None:
    print(f"bfloat16 and float32, {told['threads']} threads, torch {told['torch']}")
    has = "multiplies" if told["multiplies_bfloat16"] else "has no instructions that multiply"
    print(f"this processor {has} bfloat16: train.precision=auto takes {told['auto']}")
    for title, table in told["tables"].items():
        print(f"\n{title}\n{'':20}{'median ms':>10}{'x as fast':>10}")
        for name, row in table.items():
            print(f"  {name:18}{row['ms']:10.2f}{row['as_fast']:10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each form")
    parser.add_argument("--json", metavar="PATH", help='write one object there ("-": print it)')
    options = parser.parse_args()
    runs, can = max(1, options.runs), multiplies_bfloat16(torch.device("cpu"))
    told = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "multiplies_bfloat16": can,
        "auto": HALF if can else FULL,
        "tables": {
            "a product of two [512, 512]": products(runs),
            "a step of Muon, 24 matrices [512, 128]": muons(runs),
            "forward and backward of the small BERT, 512 x 8 tokens": texts(runs),
        },
    }
    hand_over(told, show, options.json)


if __name__ == "__main__":
    main()
