"""Run benchmarks and write one result page each into benchmarks/results/.

    python benchmarks/run.py [NAME ...] [--real DIR] [--model RUN]
    NAME: store, metrics, captions, scenes, vega, mutual, partial_res, tris, sag, photos, precision

A page holds the command, the machine's class, versions, the date and the table as printed. Quote
ratios from them: absolute times belong to the machine and its moods.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
import transformers

from refseg.pull.kept import is_pulled

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# What each claims, and the arguments of the published run; {real} is the folder of real data.
BENCHMARKS = {
    "store": ("Opening all of RefCOCO", ["--data", "{real}/refcoco_boxes/refcoco"]),
    "metrics": ("Scoring 10,000 masks", []),
    "captions": ("Scoring 5,000 written expressions", []),
    "scenes": ("Rendering the embedded world", ["--images", "400"]),
    "vega": ("VEGA at paper size", []),
    "mutual": ("Mutual supervision", ["--real", "{real}"]),
    "partial_res": ("Partial-RES", []),
    "tris": ("TRIS", []),
    "sag": ("Shatter and Gather", []),
    "photos": ("From a photograph to masks", ["--real", "{real}"]),
    "precision": ("bfloat16 and float32 on this processor", []),
}


def main() -> None:
    """Run those asked for, all by default; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--real", default=os.environ.get("REFSEG_SHARED", "../shared/data"))
    parser.add_argument("--model", metavar="RUN", help="a trained mutual_refcoco_boxes, for mutual")
    asked = parser.parse_args()
    for name in asked.names or BENCHMARKS:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name}; there are {', '.join(BENCHMARKS)}")
        if name == "store" and not (Path(asked.real) / "refcoco_boxes").is_dir():
            print(f"skipped store: no refcoco_boxes in {asked.real} (name it with --real)")
            continue
        if name == "photos" and not is_pulled("photos"):
            print("skipped photos: its weights are not here (refseg models pull photos)")
            continue
        trained = ["--model", asked.model] if asked.model and name == "mutual" else []
        write_page(name, asked.real, trained)


def write_page(name: str, real: str, trained: list[str]) -> None:
    """Run one benchmark, with the arguments of `trained` after its own, and write its page."""
    title, arguments = BENCHMARKS[name]
    script = f"benchmarks/bench_{name}.py"
    actual = [argument.format(real=real) for argument in arguments] + trained
    shown = [argument.format(real="REAL") for argument in arguments] + trained
    print(f"== {script} {' '.join(shown)}", flush=True)
    done = subprocess.run(
        [sys.executable, script, *actual],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "110", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(done.stdout)
    output = done.stdout.replace(str(Path(real).resolve()), "REAL").replace(real, "REAL")
    page = [
        f"# {title}",
        "",
        f"- command: `python {' '.join([script, *shown])}`"
        + (" (REAL: the folder of real data)" if "REAL" in "".join(shown) else ""),
        f"- machine: {machine()}",
        f"- versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        f"- date: {datetime.now(UTC):%Y-%m-%d}",
        "",
        "```text",
        output.strip("\n"),
        "```",
        "",
    ]
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join(page), encoding="utf-8")


def machine() -> str:
    """Cores, memory and processor family; nothing that names one machine."""
    cores = len(os.sched_getaffinity(0))
    memory = round(psutil.virtual_memory().total / 2**30)
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    kernels = torch.backends.cpu.get_cpu_capability()  # which of its kernels torch takes
    return f"{cores} cores ({platform.machine()}, {kernels}), {memory} GiB, {accelerator}"


if __name__ == "__main__":
    main()
