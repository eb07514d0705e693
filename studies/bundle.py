"""Put a trained model into the package: float16, small enough, with its card and its sums.

    python -m studies.bundle RUN NAME      for example: runs/vega_scenes vega-scenes
    python -m studies.bundle RUN photos --min-score 0.2      below it "nothing there", as measured
    python -m studies.bundle --encoder runs/swin_scenes swin-scenes
    python -m studies.bundle --encoder runs/clip_scenes clip-scenes     with the pixels it knows

The folder refseg/checkpoints/NAME (encoders/NAME) is replaced whole. Refused if over 12 MB.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from refseg import models
from refseg.doctor import write_sums
from refseg.errors import ConfigError, ModelError
from refseg.nn.weights import read_state

LIMIT_BYTES = 12_000_000


def bundle(
    run: Path, name: str, checkpoints: Path = models.BUNDLED, min_score: float | None = None
) -> Path:
    """Write `checkpoints/name` from `run/model`; return it. min_score: instead of the run's own.

    Raises ConfigError for a score that is none, ModelError if it is too big.
    """
    if min_score is not None and not 0 <= min_score < 1:
        raise ConfigError(f"--min-score {min_score} is out of range", remedy="give 0 to below 1")
    model = replace(models.load(run / "model"), name=name)
    model.min_score = model.min_score if min_score is None else min_score
    told = {
        key: without_places(value) if isinstance(value, str) else value
        for key, value in model.card.items()
    }
    model.card = {**told, "numbers": "float16 on disk, float32 when loaded"}
    folder = checkpoints / name
    ready = folder.with_name(f".{name}.new")
    shutil.rmtree(ready, ignore_errors=True)
    models.save(ready, model, half=True)
    return _finish(ready, folder)


def without_places(text: str) -> str:
    """Paths cut down to their last parts: where data lay on one machine is nobody's business."""
    return re.sub(r"(?<![\w.~-])[~.]{0,2}/(?:[^\s/,\]\"']+/)*(?=[^\s/])", "", text)


def bundle_encoder(run: Path, name: str, checkpoints: Path = models.BUNDLED) -> Path:
    """Write `checkpoints/encoders/name` from `run/model`; return it. Raises ModelError: too big."""
    folder = checkpoints / "encoders" / name
    ready = folder.with_name(f".{name}.new")
    shutil.rmtree(ready, ignore_errors=True)
    shutil.copytree(run / "model", ready)
    weights = ready / "model.safetensors"
    state = {k: v.half() if v.is_floating_point() else v for k, v in read_state(weights).items()}
    save_file(state, weights)
    weights.chmod(0o644)
    _tell_pixels(ready / "config.json", run / "recipe.json")
    return _finish(ready, folder)


def _tell_pixels(config: Path, recipe: Path) -> None:
    """What a pair's run had its pixels normalised by, where an older one did not write it."""
    told = json.loads(config.read_text(encoding="utf-8"))
    if "pair" in told and "pixels" not in told:
        prepared = json.loads(recipe.read_text(encoding="utf-8"))["preprocess"]
        told["pixels"] = {key: prepared[key] for key in ("mean", "std")}
        config.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _finish(ready: Path, folder: Path) -> Path:
    """Sums, size, and the new folder in the old one's place."""
    write_sums(ready)
    size = sum(path.stat().st_size for path in ready.iterdir())
    if size > LIMIT_BYTES:
        shutil.rmtree(ready)
        raise ModelError(
            f"{folder.name} would be {size / 1e6:.1f} MB",
            remedy=f"the limit is {LIMIT_BYTES / 1e6:.0f}",
        )
    shutil.rmtree(folder, ignore_errors=True)
    ready.rename(folder)
    return folder


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    below = "score below which it answers that nothing is there [the run's own]"
    parser.add_argument("--min-score", type=float, help=below)
    parser.add_argument("--encoder", action="store_true", help="RUN trained an encoder")
    asked = parser.parse_args()
    if asked.encoder and asked.min_score is not None:
        parser.error("an encoder answers nothing: leave out --min-score")
    if asked.encoder:
        print(bundle_encoder(asked.run, asked.name))
    else:
        print(bundle(asked.run, asked.name, min_score=asked.min_score))


if __name__ == "__main__":
    main()
