"""Put a trained model into the package: float16, small enough, with its card and its sums.

    python -m studies.bundle RUN NAME      for example: runs/vega_scenes vega-scenes

The folder refseg/checkpoints/NAME is replaced whole. Refused if it would be over 12 MB.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from refseg import models
from refseg.doctor import write_sums
from refseg.errors import ModelError

LIMIT_BYTES = 12_000_000


def bundle(run: Path, name: str, checkpoints: Path = models.BUNDLED) -> Path:
    """Write `checkpoints/name` from `run/model`; return it. Raises ModelError if it is too big."""
    model = replace(models.load(run / "model"), name=name)
    model.card = {**model.card, "numbers": "float16 on disk, float32 when loaded"}
    folder = checkpoints / name
    ready = folder.with_name(f".{name}.new")
    shutil.rmtree(ready, ignore_errors=True)
    models.save(ready, model, half=True)
    write_sums(ready)
    size = sum(path.stat().st_size for path in ready.iterdir())
    if size > LIMIT_BYTES:
        shutil.rmtree(ready)
        raise ModelError(
            f"{name} would be {size / 1e6:.1f} MB", remedy=f"the limit is {LIMIT_BYTES / 1e6:.0f}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    ready.rename(folder)
    return folder


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    asked = parser.parse_args()
    print(bundle(asked.run, asked.name))


if __name__ == "__main__":
    main()
