"""docs/results.md and its charts, from docs/results/*.json: `python -m studies.results`.

The words are in studies/text/, one file a section; `$name` in them is filled by the functions
here. A section whose study has not been run says so, with the command that runs it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from refseg.errors import DataError, RefsegError
from refseg.ops.files import atomic_write_bytes, atomic_write_text
from studies import (
    mutual_page,
    mutual_scenes_tables,
    partial_page,
    photographs_page,
    sag_page,
    tables,
    tris_page,
)
from studies.base import FIGURES, RESULTS
from studies.charts import BESIDE, CHARTS
from studies.tables import between, percent

TEXT = Path(__file__).parent / "text"
PAGE = RESULTS.parent / "results.md"
README = RESULTS.parents[1] / "README.md"
# The studies that the summary is made from, and what their pictures are.
MEASURED = {
    "photographs_chain": "photographs",
    "main": "rendered",
    "mutual_scenes": "rendered",
    "partial_scenes": "rendered",
    "photos": "photographs",
}
HEADLINES: Mapping[str, Callable[[Any], Any]] = {"photographs_chain": photographs_page.headline}
WRITER = "mutual_scenes"
Record = Mapping[str, Any]
Values = Mapping[str, str]


def page(results: Path) -> str:
    """The whole page as Markdown. results: the folder of the studies' files."""
    records = {name: read(results / f"{name}.json") for name in SECTIONS}
    parts = [_text("intro", {"summary": _summary(records)})]
    parts += [_section(name, record) for name, record in records.items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def read(path: Path) -> Record | None:
    """A study's file; None when there is none. Raises DataError for a broken one."""
    if not path.is_file():
        return None
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: {error}", remedy="run the study again") from error
    return record


def charts(results: Path, figures: Path) -> list[Path]:
    """Draw the charts of all studies that have been run."""
    drawn = []
    for study, made in CHARTS.items():
        record = read(results / f"{study}.json")
        if record is not None:
            for name, draw in made.items():
                atomic_write_bytes(figures / name, draw(record["numbers"]))
                drawn.append(figures / name)
    for (study, other), joint in BESIDE.items():
        record, beside = read(results / f"{study}.json"), read(results / f"{other}.json")
        if record is not None:
            for name, both in joint.items():
                told = None if beside is None else beside["numbers"]
                atomic_write_bytes(figures / name, both(record["numbers"], told))
                drawn.append(figures / name)
    return drawn


def _section(name: str, record: Record | None) -> str:
    if record is None:
        heading = (TEXT / f"{name}.md").read_text(encoding="utf-8").splitlines()[0]
        return f"{heading}\n\nNot run yet. Command: `{COMMANDS[name]}`"
    return _text(name, {**SECTIONS[name](record["numbers"]), **_common(record)})


def _text(name: str, values: Values) -> str:
    return Template((TEXT / f"{name}.md").read_text(encoding="utf-8")).substitute(values)


def _common(record: Record) -> Values:
    """What every section may use: its source, and the pictures its study has left."""
    lines = (f"![{PICTURES[name]}](figures/{name})" for name in record["pictures"])
    return {"made": made(record), "pictures": "\n\n".join(lines)}


def made(record: Record) -> str:
    """Where a section's numbers come from, in one paragraph."""
    machine, model = record["machine"], record["model"]
    seeds = ", ".join(f"{key} {_plain(value)}" for key, value in record["seeds"].items())
    # Finished runs and scores are kept, so a study that is asked again takes no time.
    took = f"{record['minutes']:.1f} min" if record["minutes"] >= 0.05 else "from kept scores"
    told = [f"`{record['command']}`", record["date"], took]
    if model is not None:
        trained = ", ".join(
            f"{key} {_plain(model[key])}" for key in ("recipe", "steps", "seed") if key in model
        )
        told.append(f"model {model['name']} ({trained}; weights sha256 {model['sha256']})")
    cores = machine["cores"]
    told.append(f"learned from {record['labels']}")
    told += [f"protocol {name}" for name in record["protocols"]]
    told += [
        f"data: {', '.join(record['data'])}",
        f"seeds: {seeds or 'none'}",
        f"{cores} core{'s' if cores != 1 else ''} of {machine['cpu']}, {machine['threads']} used"
        + (f", {machine['gpu']}" if machine.get("gpu") else ""),
        f"torch {machine['torch']}, Python {machine['python']}",
    ]
    return "<sub>Made by " + " · ".join(told) + "</sub>"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


# -- what fills each section -------------------------------------------------------------------


def _summary(records: Mapping[str, Record | None]) -> str:
    """The bundled models on every val split: what they read, and what one of them writes."""
    measured = [
        (kind, HEADLINES.get(name, dict)(record["numbers"]))
        for name, kind in MEASURED.items()
        if (record := records.get(name)) is not None
    ]
    if not measured:
        return "Nothing has been measured yet."
    writer = records.get(WRITER)
    wrote = [] if writer is None else [mutual_scenes_tables.summary(writer["numbers"])]
    return "\n\n".join([tables.summary(measured), *wrote])


def _beside(numbers: Record, data: str) -> str:
    """The model on `data` val under `original`, and the best of the baselines there."""
    ours, best = tables.beside_best(numbers, data, "val")
    name = tables.model_name(best)
    return (
        f"mIoU {percent(ours['metrics']['mIoU'])} % (95 % interval "
        f"{between(ours['intervals']['mIoU'])}), oIoU {percent(ours['metrics']['oIoU'])} % on the "
        f"{ours['n']:,} expressions of {data} val under `original`. The best of the three trivial "
        f"baselines, the {name}, has mIoU {percent(best['metrics']['mIoU'])} %."
    )


def _main(numbers: Record) -> Values:
    low, high = (percent(bound) for bound in numbers["size bounds"])
    return {
        "finding": _beside(numbers, "scenes"),
        "original": tables.main_scores(numbers, "original"),
        "lavt480": tables.main_scores(numbers, "lavt-480"),
        "baselines": tables.baselines(numbers),
        "by_size": tables.groups(numbers["by size"], "target"),
        "by_kind": tables.groups(numbers["by kind"], "expression"),
        "by_style": tables.groups(numbers["by style"], "style"),
        "low": low,
        "high": high,
    }


def _photos(numbers: Record) -> Values:
    return {
        "finding": _beside(numbers, "refcoco"),
        "original": tables.main_scores(numbers, "original"),
        "lavt480": tables.main_scores(numbers, "lavt-480"),
        "baselines": tables.baselines(numbers),
        "answers": tables.groups(numbers["answers"], "data"),
    }


def _robustness(numbers: Record) -> Values:
    return {"table": tables.robustness(numbers)}


def _consistency(numbers: Record) -> Values:
    return {"table": tables.consistency(numbers)}


def _ksweep(numbers: Record) -> Values:
    values = [row["mIoU"] for row in numbers["rows"]]
    spread = f"{100 * (max(values) - min(values)):.2f}"
    return {"table": tables.ksweep(numbers), "spread": spread}


def _ksweep_train(numbers: Record) -> Values:
    return {"table": tables.variants(numbers), "pairs": tables.pairs(numbers)}


def _tsne(numbers: Record) -> Values:
    by = {row["tokens"]: row for row in numbers["rows"]}
    language, visual = by["language"], by["visual"]
    closer = visual["interval"][0] > language["interval"][1]
    farther = visual["interval"][1] < language["interval"][0]
    word = "better than" if closer else "worse than" if farther else "not clearly otherwise than"
    return {"table": tables.tokens(numbers), "n": f"{numbers['n']:,}", "word": word}


def _figures(numbers: Record) -> Values:
    return {"table": tables.cls_maps(numbers), "n": f"{numbers['n']:,}"}


def _ablation(numbers: Record) -> Values:
    return {
        "table": tables.variants(numbers),
        "pairs": tables.pairs(numbers),
        "note": numbers["note"],
        "steps": f"{numbers['steps']:,}",
        "n": f"{numbers['n']:,}",
    }


#: Sections of the page in order: the study's file -> what fills its text.
SECTIONS: Mapping[str, Callable[[Record], Values]] = {
    "main": _main,
    "photos": _photos,
    "robustness": _robustness,
    "consistency": _consistency,
    "ablation-guidance": _ablation,
    "ablation-contrastive": _ablation,
    "ablation-start": _ablation,
    "ablation-optimiser": _ablation,
    "ksweep": _ksweep,
    "ksweep-train": _ksweep_train,
    "tsne": _tsne,
    "figures": _figures,
    "mutual_boxes": mutual_page.boxes,
    "mutual_scenes": mutual_page.scenes,
    "mutual_ablation-parts": mutual_page.ablation,
    "mutual_ablation-written": mutual_page.ablation,
    "partial_scenes": partial_page.scenes,
    "partial_shares": partial_page.shares,
    "partial_rpp": partial_page.shares,
    "partial_task": partial_page.task,
    "partial_pictures": partial_page.pictures,
    "partial_bounds": partial_page.bounds,
    "tris_steps": tris_page.steps,
    "tris_ablations": tris_page.ablations,
    "tris_pictures": tris_page.pictures,
    "sag_table": sag_page.methods,
    "sag_ablations": sag_page.ablations,
    "sag_answers": sag_page.answers,
    "sag_pictures": sag_page.pictures,
    "photographs_detections": photographs_page.detections,
    "photographs_choice": photographs_page.choice,
    "photographs_nothing": photographs_page.nothing,
    "photographs_small": photographs_page.small,
    "photographs_written": photographs_page.written,
    "photographs_chain": photographs_page.chain,
}
COMMANDS = {
    **{name: f"python -m studies.vega {name}" for name in SECTIONS},
    "ablation-guidance": "python -m studies.vega ablation --table guidance --seeds 0 1 2",
    "ablation-contrastive": "python -m studies.vega ablation --table contrastive --seeds 0 1 2",
    "ablation-start": "python -m studies.vega ablation --table start --seeds 0 1 2",
    "ablation-optimiser": "python -m studies.vega ablation --table optimiser --seeds 0 1 2",
    "ksweep-train": "python -m studies.vega ksweep --mode train --seeds 0 1 2",
    "mutual_boxes": "python -m studies.mutual boxes --real DIR",
    "mutual_scenes": "python -m studies.mutual scenes --judge RUN --run RUN",
    "mutual_ablation-parts": "python -m studies.mutual ablation --table parts --seeds 0 1 2",
    "mutual_ablation-written": "python -m studies.mutual ablation --table written --seeds 0 1 2",
    "partial_scenes": "python -m studies.partial scenes --model MODEL",
    "partial_shares": "python -m studies.partial shares --rec MODEL",
    "partial_rpp": "python -m studies.partial rpp --rec MODEL --seeds 0 1 2",
    "partial_task": "python -m studies.partial task --rec MODEL --seeds 0 1 2",
    "partial_pictures": "python -m studies.partial pictures --rec MODEL",
    "partial_bounds": "python -m studies.partial bounds --real DIR --photos DIR",
    "tris_steps": "python -m studies.tris steps --seeds 0 1 2",
    "tris_ablations": "python -m studies.tris ablations --seeds 0 1 2",
    "tris_pictures": "python -m studies.tris pictures",
    "sag_table": "python -m studies.sag table --seeds 0 1 2",
    "sag_ablations": "python -m studies.sag ablations --seeds 0 1 2",
    "sag_answers": "python -m studies.sag answers --seeds 0 1 2",
    "sag_pictures": "python -m studies.sag pictures",
    "photographs_detections": "python -m studies.photographs detections --real DIR",
    "photographs_choice": "python -m studies.photographs choice --real DIR",
    "photographs_nothing": ("python -m studies.photographs nothing --real DIR --photos DIR"),
    "photographs_small": "python -m studies.photographs small --real DIR",
    "photographs_written": (
        "python -m studies.photographs written --real DIR --photos DIR --judge RUN/model"
    ),
    "photographs_chain": "python -m studies.photographs chain --real DIR",
}


#: Pictures that studies leave (if they find something to show), and what is to be seen on them.
PICTURES = {
    "consistency.png": "three objects of scenes val with three expressions each",
    "gallery.png": "best, middle and worst answers",
    "inside.png": "the mask, the CLS token's similarity and the pixels that each word selects",
    "partial-attention.png": "where points 1, 4, 7 and 10 look, without and with CCTF and PMCA",
    "partial-points.png": "best, middling and worst outlines, their points in order",
    "partial-resampling.png": "pseudo points as they were written, and resampled",
    "robustness-slang.png": "answers as written and after slang",
    "robustness-two-typos.png": "answers as written and after two typos",
    "sag-entities.png": "six expressions from picture and entities to mask and truth",
    "tris-steps.png": "six training expressions from picture to pseudo mask, step 2 and truth",
    "tsne.png": "pictures above, their tokens placed by t-SNE below",
}


def with_summary(readme: str, results: Path) -> str:
    """The README with the page's summary between its two markers."""
    begin, end = "<!-- results:begin -->", "<!-- results:end -->"
    before, rest = readme.split(begin)
    after = rest.split(end)[1]
    link = "All scores, with protocols, seeds and intervals: [docs/results.md](docs/results.md)."
    told = _summary({name: read(results / f"{name}.json") for name in MEASURED})
    return f"{before}{begin}\n{told}\n\n{link}\n{end}{after}"


def main(words: Sequence[str] | None = None) -> int:
    """Write the page and the charts; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m studies.results", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the pictures")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parsed = parser.parse_args(words)
    try:
        drawn = charts(parsed.results, parsed.figures)
        atomic_write_text(parsed.page, page(parsed.results))
        if parsed.page == PAGE:
            readme = README.read_text(encoding="utf-8")
            atomic_write_text(README, with_summary(readme, parsed.results))
    except RefsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{parsed.page}, {len(drawn)} charts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
