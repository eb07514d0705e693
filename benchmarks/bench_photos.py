"""From a photograph to masks: time and memory of each part, and cheaper forms beside ours.

    python benchmarks/bench_photos.py --real DIR       photographs of DIR/coco_photos
    python benchmarks/bench_photos.py --quick ...      two of them, once each
    ... --json out.json                                the same numbers as one object ("-": printed)

Needs the weights that `refseg models pull photos` brings, and times the heads too where the model
`photos` is there. Compared in turn, photograph by photograph:
- the parts of one look: detector, image encoder, masks of its boxes, colours, heads;
- boxes one by one, four at once (ours), all at once;
- the image encoder in float32 (ours), bfloat16 (if torch has kernels for it) and with int8 linear
  maps: how much faster, and how well the masks agree with those of float32.
Peak memory is that of a fresh process, for an ordinary photograph and for 108 million pixels.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutual.measuring import Table, compared
from benchmarks.output import hand_over
from refseg.models import PHOTOS, list_bundled
from refseg.nn.detections import Joining, join
from refseg.nn.eyes import Eyes, looks
from refseg.nn.mobile_sam import Embedded, MobileSam
from refseg.nn.ssd import look
from refseg.ops.images import load_image
from refseg.predict import Predictor, load
from refseg.profile import task_memory
from refseg.pull.kept import pulled_folder
from refseg.train.precision import multiplies_bfloat16

LEAST, MOST = 0.1, 64
WORDS = ["left person", "the dog on the right", "red car", "thing in the middle"]
SIZES = {"640 x 480": (480, 640), "12,000 x 9,000": (9000, 12000)}
Image = NDArray[np.uint8]
Task = Callable[[], Any]


@dataclass(frozen=True)
class Look:
    """A photograph, the boxes found in it and what MobileSAM knows of it."""

    image: Image
    boxes: NDArray[np.float32]
    embedded: Embedded


def looked_at(eyes: Eyes, image: Image) -> Look:
    found = join(look(eyes.ssd, image), Joining(least=LEAST, most=MOST))
    return Look(image, found.boxes, eyes.sam.encode(image))


def photographs(real: str, count: int) -> list[Image]:
    folder = Path(real) / "coco_photos" / "images"
    files = sorted(folder.glob("*.jpg"))[:count]
    if not files:
        raise SystemExit(f"no photographs in {folder}: name the folder of real data with --real")
    return [load_image(path) for path in files]


def parts(eyes: Eyes, one: Look, model: Any) -> Mapping[str, Task]:
    """The parts of one look and, with a model, the answers that follow."""
    masks = (eyes.sam.masks(one.embedded, one.boxes).logits > 0).numpy()
    tasks: dict[str, Task] = {
        "detector": lambda: join(look(eyes.ssd, one.image), Joining(least=LEAST, most=MOST)),
        "image encoder": lambda: eyes.sam.encode(one.image),
        "masks of the boxes": lambda: eyes.sam.masks(one.embedded, one.boxes),
        "colours": lambda: looks(one.image, masks),
        "all of these": lambda: eyes.look(one.image, least=LEAST, most=MOST),
    }
    if model is not None:
        predictor = Predictor(model).set_image(one.image)
        tasks["first expression, all told"] = lambda: (
            Predictor(model).set_image(one.image).segment(WORDS[0])
        )
        tasks["a further expression"] = lambda: predictor.segment(WORDS[1])
        tasks["four further, at once"] = lambda: predictor.segment(WORDS)
    return tasks


def prompts(eyes: Eyes, one: Look) -> Mapping[str, Task]:
    every = max(len(one.boxes), 1)
    sizes = {"one by one": 1, "ours: four at once": 4, "all at once": every}
    return {
        name: partial(eyes.sam.masks, one.embedded, one.boxes, at_once=size)
        for name, size in sizes.items()
    }


def forms(sam: MobileSam) -> dict[str, Callable[[Image], Embedded]]:
    """Ways to encode an image, ours first."""

    def halved(image: Image) -> Embedded:
        with torch.autocast("cpu", torch.bfloat16):
            found = sam.encode(image)
        return replace(found, embedding=found.embedding.float())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another package for it
        small = copy.deepcopy(sam)
        small.encoder = torch.ao.quantization.quantize_dynamic(
            small.encoder, {torch.nn.Linear}, dtype=torch.qint8
        )
    told = {"ours: float32": sam.encode, "bfloat16": halved, "int8 linear maps": small.encode}
    if not multiplies_bfloat16(torch.device("cpu")):
        told.pop("bfloat16")  # many times slower: see bench_precision.py
    return told


def agreement(
    eyes: Eyes, one: Look, encode: Mapping[str, Callable[[Image], Embedded]]
) -> dict[str, float]:
    """Mean IoU of each form's masks with the first one's, at the image's size."""
    masks = [eyes.sam.masks(form(one.image), one.boxes).in_px() for form in encode.values()]
    told = {}
    for name, own in zip(encode, masks, strict=True):
        both, either = (own & masks[0]).sum(axis=(1, 2)), (own | masks[0]).sum(axis=(1, 2))
        told[name] = float(np.mean(both / np.maximum(either, 1)))
    return told


def averaged(tables: Sequence[Table]) -> Table:
    """Over photographs: the median of each number."""
    return {
        name: {key: statistics.median(t[name][key] for t in tables) for key in tables[0][name]}
        for name in tables[0]
    }


def one_look(hw: tuple[int, int]) -> Callable[[], object]:
    """A look at noise of a size, what it needs being loaded."""
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    image.setflags(write=False)  # as the commands load it: not copied
    if PHOTOS in list_bundled():
        predictor = Predictor(load(PHOTOS, "cpu"))  # weights of others come with the first look
        return lambda: predictor.set_image(image).segment(WORDS[0])
    eyes = Eyes.load(pulled_folder(PHOTOS))
    return lambda: eyes.look(image, least=LEAST, most=MOST)


def report(options: argparse.Namespace) -> dict[str, Any]:
    eyes = Eyes.load(pulled_folder(PHOTOS))
    model = load(PHOTOS, "cpu") if PHOTOS in list_bundled() else None
    images = photographs(options.real, 2 if options.quick else 8)
    seen = [looked_at(eyes, image) for image in images]
    runs, encode = 1 if options.quick else options.runs, forms(eyes.sam)
    precision = averaged(
        [
            compared({name: partial(form, one.image) for name, form in encode.items()}, runs)
            for one in seen
        ]
    )
    same = [agreement(eyes, one, encode) for one in seen]
    for name, row in precision.items():
        row["mask_iou"] = statistics.mean(one[name] for one in same)
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "photographs": len(seen),
        "boxes": statistics.median(len(one.boxes) for one in seen),
        "parts": averaged([compared(parts(eyes, one, model), runs) for one in seen]),
        "boxes at once": averaged([compared(prompts(eyes, one), runs) for one in seen]),
        "precision of the image encoder": precision,
        "memory": {name: task_memory(partial(one_look, hw)) for name, hw in SIZES.items()},
    }


def show(told: Mapping[str, Any]) -> None:
    print(f"photographs, {told['threads']} threads, torch {told['torch']}")
    print(f"{told['photographs']} photographs, {told['boxes']:.0f} boxes each (median)")
    for part in ("parts", "boxes at once", "precision of the image encoder"):
        table = told[part]
        more = "mask_iou" in next(iter(table.values()))
        compares = part != "parts"
        head = f"{'median ms':>12}" + (f"{'x as fast':>11}" if compares else "")
        print(f"\n{part:34}{head}{'   mask IoU with float32' if more else ''}")
        for name, row in table.items():
            cells = f"{row['ms']:12.1f}" + (f"{row['as_fast']:11.2f}" if compares else "")
            print(f"  {name:32}{cells}{row['mask_iou']:16.3f}" if more else f"  {name:32}{cells}")
    print("\nresident MiB of a fresh process       loaded      peak")
    for name, row in told["memory"].items():
        print(f"  {name:32}{row['loaded']:10.0f}{row['peak']:10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two photographs, once each")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each form")
    parser.add_argument("--real", default=os.environ.get("REFSEG_SHARED", "../shared/data"))
    parser.add_argument("--json", metavar="PATH", help='write one object there ("-": print it)')
    options = parser.parse_args()
    told = report(options)
    hand_over(told, show, options.json)


if __name__ == "__main__":
    main()
