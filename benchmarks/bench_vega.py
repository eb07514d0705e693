"""VEGA's time, memory and multiply-adds, each fast form beside its slow twin in one run.

    python benchmarks/bench_vega.py            paper size: Swin-B, BERT-base, 480 px (minutes)
    python benchmarks/bench_vega.py --quick    toy size, 128 px (seconds)
    ... --json out.json                        the same numbers as one object ("-": standard output)

Weights are random, which changes no cost. Compared in turn, run by run, so that a machine's moods
hit both sides alike:
- the selection module against the pseudocode's literal form with its [B, T, N, D] tensor;
- LAVT's decoder width (512 at every level) against a slim one;
- five expressions of one image in one batch against one at a time;
- float32 against bfloat16 autocast; and one training step of two images.
Peak memory is measured in a fresh process each.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.output import hand_over
from refseg.methods.vega import Vega, VegaConfig
from refseg.methods.vega.config import DecoderConfig, SelectionConfig
from refseg.methods.vega.selection import Selected, VisualSelection
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.profile import Cost, cost
from refseg.types import Batch, Geometry
from tests.methods.vega.literal import LiteralSelection

TOKENS = 21
EXPRESSIONS = 5
WIDE, SLIM, LITERAL = "decoder as wide as LAVT's", "slim decoder", "literal selection"
# Part of the table -> modules of `Vega` whose costs make it up.
PARTS = {
    "text encoder": ("text",),
    "Swin": ("encoder.pyramid",),
    "fusion and gates": ("encoder.fusion", "encoder.gates", "encoder.norms"),
    "guidance (enhance, select)": ("enhance", "enhance_pixels", "select"),
    "decoder convolutions": ("decoder.reduce", "decoder.refine", "decoder.head"),
    "decoder cross-attention": ("decoder.listen",),
}


def config(quick: bool, slim: bool = False) -> VegaConfig:
    if not quick:
        widths = (512, 256, 128, 128) if slim else (512, 512, 512, 512)
        return VegaConfig(decoder=DecoderConfig(widths=widths))
    return VegaConfig(
        vision=SwinVisionConfig(
            image_size=128, width=32, depths=(2, 2, 2, 2), heads=(2, 4, 8, 16), window=4
        ),
        text=BertTextConfig(vocab_size=400, width=128, layers=2, heads=4, mlp_width=256),
        decoder=DecoderConfig(widths=(128, 64, 32, 32) if slim else (128, 128, 128, 128)),
    )


def build(quick: bool, slim: bool = False) -> Vega:
    torch.manual_seed(0)
    return Vega(config(quick, slim)).eval()


def noise(vega: Vega, images: int, expressions: int) -> Batch:
    """Random images and words; expression b asks about image b modulo `images`."""
    generator = torch.Generator().manual_seed(0)
    side, vocab = vega.config.vision.image_size, vega.config.text.vocab_size
    geometry = Geometry((side, side), (side, side), (1.0, 1.0))
    return Batch(
        images=torch.randn(images, 3, side, side, generator=generator),
        image_of=torch.arange(expressions) % images,
        words=torch.randint(1, vocab, (expressions, TOKENS), generator=generator),
        word_mask=torch.arange(TOKENS).expand(expressions, -1) < 8,
        geometry=(geometry,) * expressions,
        keys=tuple(map(str, range(expressions))),
        texts=("noise",) * expressions,
        weights=torch.ones(expressions),
        masks=(torch.rand(expressions, side, side, generator=generator) > 0.8).float(),
        has_mask=torch.ones(expressions, dtype=torch.bool),
    )


# -- slow twins ------------------------------------------------------------------------------


class LiteralInside(nn.Module):
    """The literal selection module in the place of the fast one."""

    def __init__(self, fast: VisualSelection) -> None:
        super().__init__()
        self.literal = LiteralSelection(fast)

    def forward(self, tokens: Tensor, mask: Tensor, features: Tensor) -> Selected:
        guidance, row = self.literal(tokens, mask, features)
        return Selected(guidance, mask, row[:, None], row[:, None] > 0, row)


def with_literal(vega: Vega) -> Vega:
    """The same weights around the literal selection module."""
    twin = copy.copy(vega)
    assert vega.select is not None
    twin._modules = {**vega._modules, "select": LiteralInside(vega.select)}
    return twin


def made_whole(quick: bool, slim: bool, literal: bool) -> tuple[nn.Module, Batch]:
    vega = build(quick, slim)
    return (with_literal(vega) if literal else vega), noise(vega, 1, 1)


class Alone(nn.Module):
    """A selection module with its own random input, for `cost`, which calls it with a batch."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self, batch: Batch) -> Any:
        return self.module(*self.inputs)


def made_selection(quick: bool, literal: bool, pixels: int) -> tuple[nn.Module, Batch]:
    vega = build(True)  # only its batch is needed
    width, channels = (128, 256) if quick else (768, 1024)
    torch.manual_seed(0)
    fast = VisualSelection(SelectionConfig(), channels, width).eval()
    mask = torch.arange(TOKENS)[None] < 8
    inputs = (torch.randn(1, TOKENS, width), mask, torch.randn(1, pixels, channels))
    return Alone(LiteralInside(fast) if literal else fast, inputs), noise(vega, 1, 1)


# -- measuring -------------------------------------------------------------------------------


def in_turn(tasks: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Milliseconds of every task, one run of each in turn; the first turn warms up."""
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(runs + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                spent[name].append(1000 * (time.perf_counter() - start))
    return spent


def quietly(module: Callable[..., Any], *inputs: Any, bf16: bool = False) -> Callable[[], Any]:
    def task() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return module(*inputs)

    return task


def times_of_forward(quick: bool, runs: int) -> dict[str, list[float]]:
    vega, slim = build(quick), build(quick, slim=True)
    one = noise(vega, 1, 1)
    return in_turn(
        {
            WIDE: quietly(vega, one),
            SLIM: quietly(slim, one),
            LITERAL: quietly(with_literal(vega), one),
            "bfloat16 autocast": quietly(vega, one, bf16=True),
        },
        runs,
    )


def times_of_five(quick: bool, runs: int) -> dict[str, list[float]]:
    vega = build(quick)
    five = noise(vega, 1, EXPRESSIONS)
    singles = [
        replace(
            five,
            image_of=torch.zeros(1, dtype=torch.long),
            words=five.words[row : row + 1],
            word_mask=five.word_mask[row : row + 1],
            geometry=five.geometry[:1],
            keys=five.keys[row : row + 1],
            texts=five.texts[:1],
            weights=five.weights[:1],
            masks=None,
            has_mask=None,
        )
        for row in range(EXPRESSIONS)
    ]

    def one_at_a_time() -> None:
        for single in singles:
            vega(single)

    def image_once() -> None:
        state = vega.encode_image(five)
        for single in singles:
            vega.answer(state, single)

    return in_turn(
        {
            "five, one at a time": quietly(one_at_a_time),
            "five, image encoded once": quietly(image_once),
            "five in one batch": quietly(vega, five),
        },
        runs,
    )


def times_of_selection(quick: bool, runs: int, pixels: int) -> dict[str, list[float]]:
    fast, batch = made_selection(quick, False, pixels)
    literal, _ = made_selection(quick, True, pixels)

    def learn(module: nn.Module) -> None:
        module.zero_grad()
        module(batch).guidance.square().sum().backward()

    return in_turn(
        {
            "literal": quietly(literal, batch),
            "ours": quietly(fast, batch),
            "literal, with backward": partial(learn, literal),
            "ours, with backward": partial(learn, fast),
        },
        runs,
    )


def train_step(quick: bool, literal: bool, runs: int) -> dict[str, Any]:
    """Run in a process of its own: milliseconds of a step of two images, and its peak memory."""
    vega = build(quick)
    method = (with_literal(vega) if literal else vega).train()
    batch = noise(vega, 2, 2)
    optimiser = torch.optim.AdamW([p for p in vega.parameters() if p.requires_grad], lr=1e-5)

    def step() -> None:
        optimiser.zero_grad()
        vega.loss(method(batch), batch)["total"].backward()
        optimiser.step()

    times = in_turn({"step": step}, runs)["step"]
    return {"ms": times, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# -- telling ---------------------------------------------------------------------------------


def row(times: list[float], reference: list[float], memory: float | None = None) -> dict[str, Any]:
    median = float(np.median(times))
    told = {
        "median_ms": median,
        "p90_ms": float(np.percentile(times, 90)),
        "ratio": median / float(np.median(reference)),
        "runs": len(times),
    }
    return told if memory is None else {**told, "added_mib": memory}


def added(measured: Cost) -> float:
    """MiB that one forward pass adds to the loaded model."""
    return measured.memory_mib["peak"] - measured.memory_mib["loaded"]


def parts_of(measured: Cost) -> dict[str, dict[str, float]]:
    """Parameters (M) and multiply-adds (G) by part; attention included, elementwise work not."""
    by_name = {part.name: part for part in measured.parts}
    table = {
        part: {
            "params_m": sum(by_name[n].params for n in names if n in by_name) / 1e6,
            "gmacs": sum(by_name[n].macs for n in names if n in by_name) / 1e9,
        }
        for part, names in PARTS.items()
    }
    total = {"params_m": measured.params / 1e6, "gmacs": measured.macs / 1e9}
    return {**table, "total": total}


def report(quick: bool, runs: int) -> dict[str, Any]:
    forward = times_of_forward(quick, runs)
    costs = {
        WIDE: cost(partial(made_whole, quick, False, False), runs=1),
        SLIM: cost(partial(made_whole, quick, True, False), runs=1),
        LITERAL: cost(partial(made_whole, quick, False, True), runs=1),
    }
    told: dict[str, Any] = {
        "size": config(quick).vision.image_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parts": {name: parts_of(costs[name]) for name in (WIDE, SLIM)},
        "one expression": {
            name: row(times, forward[WIDE], added(costs[name]) if name in costs else None)
            for name, times in forward.items()
        },
    }
    five = times_of_five(quick, runs)
    told["five expressions"] = {
        name: row(times, five["five, one at a time"]) for name, times in five.items()
    }
    for pixels in (225, 900):
        alone = times_of_selection(quick, runs, pixels)
        told[f"selection module, {pixels} pixels"] = {
            name: row(
                times,
                alone["literal, with backward" if "backward" in name else "literal"],
                None
                if "backward" in name
                else added(cost(partial(made_selection, quick, name == "literal", pixels), runs=1)),
            )
            for name, times in alone.items()
        }
    steps = {
        name: apart(train_step, quick, name == LITERAL, max(3, runs // 2))
        for name in (LITERAL, "ours")
    }
    told["training step of two images"] = {
        name: {**row(s["ms"], steps[LITERAL]["ms"]), "peak_mib": s["peak_mib"]}
        for name, s in steps.items()
    }
    return told


def show(told: Mapping[str, Any]) -> None:
    print(f"VEGA at {told['size']} px, {told['threads']} threads, torch {told['torch']}")
    for decoder, parts in told["parts"].items():
        print(f"\n{decoder:34}{'M params':>10}{'GMACs':>10}")
        for name, part in parts.items():
            print(f"  {name:32}{part['params_m']:10.2f}{part['gmacs']:10.2f}")
    for title, rows in told.items():
        if not isinstance(rows, Mapping) or title == "parts":
            continue
        print(f"\n{title:34}{'median ms':>10}{'p90 ms':>10}{'ratio':>8}{'MiB':>10}")
        for name, cells in rows.items():
            memory = cells.get("added_mib", cells.get("peak_mib"))
            shown = "" if memory is None else f"{memory:10.0f}"
            numbers = f"{cells['median_ms']:10.1f}{cells['p90_ms']:10.1f}{cells['ratio']:8.2f}"
            print(f"  {name:32}{numbers}{shown}")
    print("\nMiB: added by the forward pass; for training, the peak of the whole process.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy size, 128 px")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each form")
    parser.add_argument("--json", metavar="PATH", help='write one object there ("-": print it)')
    options = parser.parse_args()
    told = report(options.quick, max(1, options.runs))
    hand_over(told, show, options.json)


if __name__ == "__main__":
    main()
