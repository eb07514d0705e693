"""Markdown of the studies of mutual supervision, from their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from refseg.evaluate_text import RUNS_ON
from studies import published
from studies.mutual_boxes import BEFORE, MAIN
from studies.mutual_scenes import MEASURES
from studies.tables import Numbers, between, percent, points, signed_between, table

NAMES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+"}
METEORS = ("METEOR", "meteor_es")
READ = ("oIoU", "mIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9", "REC@0.5", "oracle")
WRITE = ("CIDEr", "Rb-Acc", "unambiguous", "not understood", RUNS_ON)
RB_ACC, OWN, HUMAN = "Rb-Acc", "Rb-Acc by its own head", "Rb-Acc of human sentences"
PLAIN = ("CIDEr", "METEOR", "meteor_es")  # no fractions


def value(name: str, number: float | None) -> str:
    """A measure as it is usually written: CIDEr and METEOR plain, shares in percent."""
    if number is None:
        return "-"
    return f"{number:.3f}" if name.startswith(PLAIN) else percent(number)


def change(name: str, number: float) -> str:
    """A difference in the measure's own unit, with its sign."""
    return f"{number:+.3f}" if name.startswith(PLAIN) else points(number)


def changes(name: str, interval: Sequence[float] | None) -> str:
    """An interval of differences."""
    if interval is None or not name.startswith(PLAIN):
        return signed_between(interval)
    return " to ".join(f"{bound:+.3f}" for bound in interval)


def search(beams: int) -> str:
    """A search by its width."""
    return "greedy" if beams == 1 else f"{beams} beams"


# -- boxes -----------------------------------------------------------------------------------------


def comprehension(numbers: Numbers) -> str:
    """Accuracy among annotated objects, split by split, beside chance and published REC.

    Of the harder part, with a rival, only where that is not the whole (`all_rivals`).
    """
    hard = not all_rivals(numbers)
    head = ("data", "n", "writer", "95 % interval", "judge", "95 % interval", "chance",
            *(("with a rival of its category: n", "writer", "judge") if hard else ()),
            "published REC, objects not given, with pixels")  # fmt: skip
    rows = []
    for name, found in numbers["sets"].items():
        by = {(row["reader"], row["split"]): row for row in found["comprehension"]}
        for place, split in enumerate(("val", "testA", "testB")):
            both = [by[reader, split] for reader in ("writer", "judge")]
            scored = [
                text
                for row in both
                for text in (
                    f"**{percent(row['metrics']['accuracy'])}**",
                    between(row["intervals"]["accuracy"]),
                )
            ]
            known = both[0]
            rivals = [percent(row["metrics"].get("accuracy with rivals")) for row in both]
            harder = [f"{known['rivals']:,}", *rivals] if hard else []
            rows.append(
                (
                    f"{NAMES[name]} {split}", f"{known['n']:,}", *scored,
                    percent(known["metrics"]["chance"]), *harder,
                    percent(published.READING[name][place]),
                )
            )  # fmt: skip
    return table(head, rows)


def all_rivals(numbers: Numbers) -> bool:
    """Whether every expression's picture holds another object of the target's category."""
    rows = [row for found in numbers["sets"].values() for row in found["comprehension"]]
    return all(row["rivals"] == row["n"] for row in rows)


def rivals(numbers: Numbers) -> str:
    """A sentence on the harder part."""
    if not all_rivals(numbers):
        return "In the harder part the picture holds another object of the target's category."
    return (
        "Every picture holds another object of the target's category (such pictures are what "
        "people were asked about), so the harder part, with a rival, is the whole and has no "
        "columns of its own."
    )


def meteor_of(numbers: Numbers) -> str:
    """The name of the METEOR that was measured."""
    rows = [row for found in numbers["sets"].values() for row in found["expressions"]]
    return meteor_among(rows)


def meteor_among(rows: Sequence[Mapping[str, Any]]) -> str:
    """Java's, where every row has it."""
    return METEORS[0] if all(METEORS[0] in row["metrics"] for row in rows) else METEORS[1]


def about_meteor(numbers: Numbers) -> str:
    """A sentence on which METEOR it is."""
    if meteor_of(numbers) == METEORS[0]:
        return "METEOR is version 1.5, by its own program."
    return (
        "`meteor_es` stands where Java's METEOR 1.5 was not at hand; it is another metric, and no "
        "published METEOR is printed beside it."
    )


def expressions(numbers: Numbers) -> str:
    """What is written before and after step 2, one table a split."""
    parts = []
    for name, found in numbers["sets"].items():
        for split in dict.fromkeys(row["split"] for row in found["expressions"]):
            mine = [row for row in found["expressions"] if row["split"] == split]
            title = f"{NAMES[name]} {split}, {mine[0]['n']:,} objects"
            parts.append(f"**{title}**\n\n{_written(mine)}\n\n{_published(name, split, mine)}")
    return "\n\n".join(parts)


def _written(rows: Sequence[Mapping[str, Any]]) -> str:
    merged = "CIDEr merged" in rows[0]["metrics"]
    meteor = meteor_among(rows)
    suffixes = ("", " merged") if merged else ("",)
    columns = [*(f"CIDEr{s}" for s in suffixes), *(f"{meteor}{s}" for s in suffixes)]
    head = ("reward", "search", *columns, RB_ACC, "95 % interval", "by its own head", "words",
            "runs on")  # fmt: skip
    lines = []
    for row in rows:
        scores = row["metrics"]
        lines.append(
            (
                row["variant"], search(row["beams"]),
                *(value(name, scores[name]) for name in columns),
                f"**{percent(scores[RB_ACC])}**", between(row["intervals"][RB_ACC]),
                percent(scores.get(OWN)), f"{scores['words']:.1f}", percent(scores.get(RUNS_ON)),
            )
        )  # fmt: skip
    human = rows[0]["metrics"][HUMAN]
    people = f"The judge leads {percent(human)} % of people's own sentences back to their objects."
    return f"{table(head, lines)}\n\n{people}"


def _published(name: str, split: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """METEOR only where ours is METEOR, too."""
    both = meteor_among(rows) == METEORS[0]
    told = [
        f"{row} {f'{meteor:.3f} / ' if both else ''}{cider:.3f}"
        for row, (meteor, cider) in published.WRITING[name][split].items()
    ]
    what = "METEOR / CIDEr merged" if both else "CIDEr merged"
    start = f"Published, of models that see the pixels ({what}; not to be compared): "
    return f"{start}{'; '.join(told)}."


def directions(numbers: Numbers) -> str:
    """Each claim of the paper in each split: the difference, its interval, the verdict.

    One table a search, the main one first.
    """
    splits = [
        f"{NAMES[name]} {split}"
        for name, found in numbers["sets"].items()
        for split in found["directions"]
    ]
    head = ("claim", "paper, RefCOCO+ testB, with pixels", *splits)
    parts = []
    for beams, rows in _by_search(numbers).items():
        told: dict[str, list[str]] = {}
        for row in rows:
            note = ", another metric" if row["measure"].startswith(METEORS[1]) else ""
            start = [f"{row['claim']} ({row['measure']}{note})", _paper(row)]
            told.setdefault(row["claim"], start).append(difference(row))
        parts.append(f"**{search(beams)}**\n\n{table(head, told.values())}")
    return "\n\n".join(parts)


def difference(row: Mapping[str, Any]) -> str:
    """A difference with its verdict and interval."""
    measure = row["measure"]
    told = f"{change(measure, row['difference'])} ({changes(measure, row['interval'])})"
    return f"**{row['verdict']}**: {told}"


def _by_search(numbers: Numbers) -> dict[int, list[Mapping[str, Any]]]:
    """Beams -> what became of the claims; older files know the main search alone."""
    told: dict[int, list[Mapping[str, Any]]] = {}
    for found in numbers["sets"].values():
        for rows in found["directions"].values():
            for row in rows:
                told.setdefault(row.get("beams", numbers["beams"][0]), []).append(row)
    return told


def _paper(row: Mapping[str, Any]) -> str:
    """The paper's own two numbers for a claim; a dash for a metric that it does not have."""
    names = (METEORS[0], "CIDEr", RB_ACC)
    name = row["measure"].removesuffix(" merged")
    if name not in names:
        return "-"
    place = names.index(name)
    both = (published.REWARDS[row[side]][place] for side in ("of", "over"))
    return " / ".join(value(name, number) for number in both)


def verdicts(numbers: Numbers) -> str:
    """How many of the claims show, search by search."""
    told = []
    for beams, rows in _by_search(numbers).items():
        parts = [f"{number} {name}" for name, number in counted(rows)]
        told.append(f"{search(beams)}, of {len(rows)} (claims times splits): {', '.join(parts)}")
    return "; ".join(told)


def counted(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """(verdict, how often), by name."""
    return sorted(Counter(row["verdict"] for row in rows).items())


def examples(numbers: Numbers) -> str:
    """Sentences of people, and what is written before and after step 2."""
    head = ("data", "people", f"{BEFORE}, greedy", "found by the judge", f"after ({MAIN})",
            "found by the judge")  # fmt: skip
    rows = []
    for name, found in numbers["sets"].items():
        for split, drawn in found["examples"].items():
            for one in drawn:
                rows.append(
                    (
                        f"{NAMES[name]} {split}, {one['ann_id']}",
                        "; ".join(_plain(text) for text in one["people"]),
                        _plain(one["before"]), _yes(one["before hit"]),
                        _plain(one["after"]), _yes(one["after hit"]),
                    )
                )  # fmt: skip
    return table(head, rows)


def _plain(text: str) -> str:
    """People type anything, bars of a table and marks of Markdown included."""
    return "".join(f"\\{sign}" if sign in "|*_`<>[]\\$" else sign for sign in text) or "(nothing)"


def _yes(hit: bool | None) -> str:
    return "yes" if hit else "no"


def runs(numbers: Numbers) -> str:
    """Which weights were measured, in one line a data set."""
    return "\n".join(
        f"- {NAMES[name]}: {'; '.join(map(identity, found['runs']))}"
        for name, found in numbers["sets"].items()
    )


def identity(run: Mapping[str, Any]) -> str:
    """A trained model's name and what it is known by."""
    trained = "".join(f", {key} {run[key]}" for key in ("steps", "seed") if key in run)
    if "disambiguation" in run:
        trained += f", then step 2: {run['disambiguation']}"
    return f"{run['run']} (weights sha256 {run['sha256']}{trained})"


# -- ablation --------------------------------------------------------------------------------------


def variants(numbers: Numbers) -> str:
    """Means and spreads of all measures."""

    def told(row: Mapping[str, Any], name: str) -> str:
        spread = row.get(f"{name} spread")
        return value(name, row.get(name)) + ("" if spread is None else f" ± {value(name, spread)}")

    names = [name for name in MEASURES if name in (*READ, *WRITE)]
    head = ("variant", "seeds", *names)
    return table(
        head,
        ((r["variant"], str(r["seeds"]), *(told(r, n) for n in names)) for r in numbers["rows"]),
    )


def pairs(numbers: Numbers) -> str:
    """Paired differences and what may be said of them."""
    head = ("difference", "measure", "points, or CIDEr", "95 % interval", "verdict")
    return table(
        head,
        (
            (
                f"{r['of']} over {r['over']}", r["measure"], change(r["measure"], r["difference"]),
                changes(r["measure"], r["interval"]), r["verdict"],
            )
            for r in numbers["differences"]
        ),
    )  # fmt: skip


def known(numbers: Numbers) -> str:
    """What each row of the table "written" has learned from."""
    head = ("variant", "seed", "refs of people that were known", "objects written about")
    return table(
        head,
        (
            (r["variant"], str(r["seed"]), f"{r['known refs']:,}", f"{r['objects']:,}")
            for r in numbers["written"]
        ),
    )
