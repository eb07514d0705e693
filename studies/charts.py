"""Charts from the numbers of a study's file; no model is needed to draw them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.plots import BLUE, GREY, ORANGE, PURPLE, RED, SKY, new_figure, tidy, to_png


def limits(numbers: Mapping[str, Any]) -> bytes:
    """mIoU by size of the target and by kind of expression, with 95 % intervals."""
    figure = new_figure(7.2, 3.1)
    left, right = figure.subplots(1, 2, sharex=True, width_ratios=(1, 1))
    low, high = (100 * bound for bound in numbers["size bounds"])
    names = {
        "small": f"small\n(below {low:.1f} %\nof the picture)",
        "medium": "medium",
        "large": f"large\n(above {high:.1f} %)",
    }
    _dots(left, [(names[r["group"]], r["mIoU"], r["interval"]) for r in numbers["by size"]])
    _dots(right, [(r["group"], r["mIoU"], r["interval"]) for r in numbers["by kind"]])
    tidy(left, title="Size of the target", xlabel="mIoU, %")
    tidy(right, title="Kind of expression", xlabel="mIoU, %")
    return to_png(figure)


def robustness(numbers: Mapping[str, Any]) -> bytes:
    """What each change of the words costs."""
    figure = new_figure(5.6, 2.9)
    axes = figure.subplots()
    rows = [(row["change"], row["drop"], row["interval"]) for row in numbers["changes"]]
    _dots(axes, rows, colour=RED)
    axes.axvline(0, color=GREY, linewidth=1)
    tidy(axes, title="Cost of changed words", xlabel="mIoU lost, points")
    return to_png(figure)


def ksweep(numbers: Mapping[str, Any]) -> bytes:
    """mIoU and oIoU over k, the trained k marked."""
    figure = new_figure(5.6, 3.1)
    axes = figure.subplots()
    rows = numbers["rows"]
    if numbers["mode"] == "train":
        rows = sorted(({**row, "k": int(row["variant"])} for row in rows), key=lambda r: r["k"])
    shares = [row["k"] for row in rows]
    _curves(axes, shares, rows)
    if numbers["mode"] == "train":
        title = "k in training and at inference"
    else:
        title = "k changed at inference only"
        _marked(axes, numbers["trained k"], "trained")
    tidy(axes, title=title, xlabel="pixels selected by each token, %", ylabel="%")
    axes.set_xticks(shares)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def tau(numbers: Mapping[str, Any]) -> bytes:
    """mIoU and oIoU of Shatter and Gather over tau, on the same weights; the paper's is marked."""
    figure = new_figure(5.6, 3.1)
    axes = figure.subplots()
    rows = sorted((r for r in numbers["rows"] if r["tau"] is not None), key=lambda r: r["tau"])
    taus = [row["tau"] for row in rows]
    _curves(axes, taus, rows)
    _marked(axes, 0.5, "the paper's")
    tidy(axes, title="tau changed in answering only, scenes val", xlabel="tau", ylabel="%")
    axes.set_xticks(taus)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def _curves(axes: Any, places: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> None:
    """mIoU and oIoU, with what spreads over seeds."""
    for name, colour, marker in (("mIoU", BLUE, "o"), ("oIoU", ORANGE, "s")):
        values = [100 * row[name] for row in rows]
        axes.plot(places, values, color=colour, marker=marker, linewidth=1.6, label=name)
        spread = [100 * (row.get(f"{name} spread") or 0.0) for row in rows]
        if any(spread):
            axes.errorbar(places, values, spread, color=colour, capsize=3, linewidth=0.9)


def _marked(axes: Any, place: float, text: str) -> None:
    axes.axvline(place, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.annotate(
        text, (place, 0), xycoords=("data", "axes fraction"),
        xytext=(3, 4), textcoords="offset points", fontsize=8, color=GREY,
    )  # fmt: skip


def ablation(numbers: Mapping[str, Any]) -> bytes:
    """Every seed of every variant as a dot, the mean as a line."""
    return _by_seed(numbers, numbers["runs"], ("mIoU", "oIoU"))


def mutual_ablation(numbers: Mapping[str, Any]) -> bytes:
    """The same for a model that reads and writes; what a variant does not do is left empty."""
    runs = [{"variant": run["variant"], **run["values"]} for run in numbers["runs"]]
    return _by_seed(numbers, runs, ("mIoU", "Rb-Acc"))


def _by_seed(
    numbers: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], measures: tuple[str, str]
) -> bytes:
    names = [row["variant"] for row in numbers["rows"]]
    figure = new_figure(6.4, 0.9 + 0.42 * len(names))
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), measures, strict=True):
        for place, name in enumerate(names):
            told = [run[measure] for run in runs if run["variant"] == name]
            mine = [100 * value for value in told if value is not None]
            if not mine:
                continue
            axes.plot(mine, [place] * len(mine), "o", color=SKY, markersize=5)
            mean = sum(mine) / len(mine)
            axes.plot([mean, mean], [place - 0.3, place + 0.3], color=BLUE, linewidth=2)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
        tidy(axes, xlabel=f"{measure}, %")
    figure.suptitle(f"Variants, {numbers['steps']:,} steps; each dot a seed", fontsize=10)
    return to_png(figure)


def rewards(numbers: Mapping[str, Any]) -> bytes:
    """Rb-Acc over CIDEr of the main search before step 2 and after each reward, by split."""
    panels = [
        (f"{name} {split}", [row for row in found["expressions"] if row["split"] == split])
        for name, found in numbers["sets"].items()
        for split in found["directions"]
    ]
    figure = new_figure(6.4, 2.9 * ((len(panels) + 1) // 2))
    grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).ravel()
    colours = (GREY, BLUE, RED, ORANGE, SKY, PURPLE)
    for axes, (title, rows) in zip(grid, panels, strict=False):
        main = [row for row in rows if row["beams"] == numbers["beams"][0]]
        for row, colour in zip(main, colours, strict=True):
            scores, (low, high) = row["metrics"], row["intervals"]["Rb-Acc"]
            cider = scores.get("CIDEr merged", scores["CIDEr"])
            axes.plot([cider, cider], [100 * low, 100 * high], color=colour, linewidth=1.6)
            label = row["variant"]
            axes.plot(cider, 100 * scores["Rb-Acc"], "o", color=colour, markersize=6, label=label)
        tidy(axes, title=title, xlabel="CIDEr", ylabel="Rb-Acc, %")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return to_png(figure)


def shares(numbers: Mapping[str, Any]) -> bytes:
    """mIoU over the share of the masks, which has steps of tens; a line for each way to learn."""
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    _by_share(axes, numbers)
    boxes = 100 * numbers["boxes"]["original"]["mIoU"]
    axes.axhline(boxes, color=GREY, linestyle=":", linewidth=1.2, label="no mask: boxes, filled")
    _on_shares(axes, _ticks(numbers["summary"]))
    tidy(axes, title="How much label?", xlabel="share of the masks given, %", ylabel="mIoU, %")
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def _ticks(rows: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    shares = sorted({100 * row["share"] for row in rows})
    return {share: f"{share:g}" for share in shares}


def _on_shares(axes: Any, ticks: Mapping[float, str]) -> None:
    """The axis of shares, which has steps of tens. ticks: place -> what stands there."""
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()


def _by_share(axes: Any, numbers: Mapping[str, Any]) -> None:
    """A line for each way to learn from few masks."""
    rows = numbers["summary"]
    for (variant, label), colour in zip(_WAYS.items(), (ORANGE, GREY, SKY, BLUE, RED), strict=True):
        mine = [row for row in rows if row["variant"] == variant]
        if variant == "full":  # with all masks there is nothing to label
            mine += [row for row in rows if row["variant"] == "parts" and row["share"] >= 1]
        mine = sorted(mine, key=lambda row: row["share"])
        if not mine:
            continue
        places = [100 * row["share"] for row in mine]
        values = [100 * row["mIoU"] for row in mine]
        spread = [100 * (row["mIoU spread"] or 0.0) for row in mine]
        axes.errorbar(
            places, values, spread, color=colour, marker="o", linewidth=1.6, capsize=3, label=label
        )


#: What costs less than a mask, left of the shares that have steps of tens.
CHEAPER = {
    "nothing": (0.001, "no\nexpression"),
    "words": (0.009, "words\nalone"),
    "boxes": (0.07, "words and\nboxes"),
}
APART = 0.034  # of the axis's height, between words


def label_cost(numbers: Mapping[str, Any], shares: Mapping[str, Any] | None) -> bytes:
    """mIoU over what the expressions that were learned from came with, a point for each row.

    shares: the numbers of `shares`, whose lines stand beside the points; None: not measured.
    """
    figure = new_figure(8.4, 4.6)
    axes = figure.subplots()
    ticks = dict(CHEAPER.values()) | {100.0: "100"}
    if shares is not None:
        _by_share(axes, shares)
        axes.legend(frameon=False, fontsize=7, loc="upper left")
        ticks |= _ticks(shares["summary"])
    _on_shares(axes, dict(sorted(ticks.items())))
    rows = [row for row in numbers["summary"] if row["given"] is not None]
    lines = [] if shares is None else shares["summary"]
    top = 110 * max(row["mIoU"] for row in [*rows, *lines])
    axes.set_ylim(0, top)
    axes.set_xlim(CHEAPER["nothing"][0] / 1.6, 1_000)
    for given in dict.fromkeys(row["given"] for row in rows):
        place = CHEAPER[given][0] if given in CHEAPER else 100 * given
        mine = [row for row in rows if row["given"] == given]
        _named_points(axes, place, mine, APART * top)
    words = "what an expression came with; from 1 on: share of the masks given, %"
    tidy(axes, title="What do labels buy?", xlabel=words, ylabel="mIoU on scenes val, %")
    return to_png(figure)


def _named_points(axes: Any, place: float, rows: Sequence[Mapping[str, Any]], apart: float) -> None:
    """Points above one another with their names beside them, which do not cover each other."""
    below = -apart / 2
    for row in sorted(rows, key=lambda one: one["mIoU"]):
        value = 100 * row["mIoU"]
        spread = 100 * (row["mIoU spread"] or 0.0)
        axes.errorbar(place, value, spread, color=PURPLE, marker="D", markersize=5, capsize=3)
        # On shares there are lines, which the words must not cover.
        below = max(value + (1.6 * apart if place >= 1 else 0), below + apart)
        axes.annotate(
            f"{row['name']} {value:.1f}", (place, value), xytext=(place * 1.2, below),
            textcoords="data", fontsize=7, va="center", color=PURPLE,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": PURPLE, "relpos": (0, 0.5)},
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4},
        )  # fmt: skip


_WAYS = {
    "scratch": "the few masks alone, without boxes (naive)",
    "naive": "boxes for all, then the few masks (naive)",
    "parts": "with [TASK], CCTF, PMCA",
    "full": "and pseudo masks that fit their boxes",
    "dense": "vega: the few masks alone",
}


def _dots(
    axes: Any,
    rows: Sequence[tuple[str, float, Sequence[float]]],
    *,
    colour: tuple[float, ...] = BLUE,
) -> None:
    """One dot with its interval for every row, the first on top; fractions drawn in percent."""
    for place, (_, value, (low, high)) in enumerate(rows):
        axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.6)
        axes.plot(100 * value, place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)


#: Study -> the charts made of its numbers.
CHARTS = {
    "main": {"limits.png": limits},
    "robustness": {"robustness-cost.png": robustness},
    "ablation-guidance": {"ablation-guidance.png": ablation},
    "ablation-contrastive": {"ablation-contrastive.png": ablation},
    "ksweep": {"ksweep.png": ksweep},
    "ksweep-train": {"ksweep-train.png": ksweep},
    "mutual_boxes": {"mutual-rewards.png": rewards},
    "mutual_ablation-parts": {"mutual-parts.png": mutual_ablation},
    "partial_shares": {"partial-shares.png": shares},
    "mutual_ablation-written": {"mutual-written.png": mutual_ablation},
    "sag_answers": {"sag-tau.png": tau},
}
#: Study, and another whose numbers stand beside its own where it has been run -> charts of both.
BESIDE = {("sag_table", "partial_shares"): {"label-cost.png": label_cost}}
