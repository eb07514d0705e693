"""The pages keep up with the code: links, names, settings, tables, lists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from refseg.errors import RefsegError
from refseg.metrics.protocols import PROTOCOLS, Protocol
from refseg.recipes.catalog import ENCODERS, RECIPES, get_recipe
from refseg.recipes.overrides import apply_overrides, leaf_keys
from tests.pages import (
    DOCS,
    PAGES,
    ROOT,
    page_id,
    prose,
    rows_of,
    sections,
    spans,
    spans_of,
    table_rows,
    text_of,
)
from tests.test_levels import MAY_IMPORT

DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
NAMED = re.compile(r"((?:refseg|tests|docs|benchmarks|studies)/[\w./-]*)(?::([\w.]+))?")
SETTING = re.compile(
    r"(?:data|method|preprocess|tokens|weights|train|disambiguation|pseudo|partial|tris)\.[\w.]+(?:=.+)?"
    r"|(?:select|stages)=.+"
)
#: Section of papers.md -> the recipe that its settings change, and the numbers of its equations.
PAPERS = {
    "VEGA": ("vega_refcoco", 5),
    "Mutual supervision": ("mutual_refcoco", 6),
    "Partial-RES and SeqTR": ("partial_res_refcoco", 0),
    "TRIS": ("tris_refcoco", 0),
    "Shatter and Gather": ("sag_refcoco", 0),
}
#: Elsewhere a setting may be one of any of these.
SETTABLE = (
    "vega_scenes",
    "mutual_scenes",
    "mutual_refcoco_boxes",
    "photos",
    "partial_res_scenes",
    "partial_res_refcoco",
    "tris_scenes",
    "tris_refcoco",
    "sag_scenes",
    "sag_refcoco",
    "maskclip_refcoco",
    "groupvit_refcoco",
)

pages = pytest.mark.parametrize("page", PAGES, ids=page_id)


# -- links, files, functions, settings -------------------------------------------------------


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", text_of(found), re.M)
            slugs = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
            assert anchor in slugs, target


@pages
def test_named_files_and_functions_are_there(page: Path) -> None:
    for span in spans(page):
        named = NAMED.fullmatch(span)
        if named is None or "NAME" in span:
            continue
        path = ROOT / named[1]
        assert path.exists(), span
        if named[2]:
            assert named[2] in definitions(path), span


@cache
def definitions(path: Path) -> frozenset[str]:
    """Functions, classes and their methods as "name" and "Class.name"."""

    def walk(node: ast.AST, prefix: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield prefix + child.name
                yield from walk(child, f"{prefix}{child.name}.")

    return frozenset(walk(ast.parse(path.read_text(encoding="utf-8")), ""))


@pages
def test_named_settings_can_be_set(page: Path) -> None:
    for title, text in sections(page).items():
        recipes = PAPERS[title][:1] if title in PAPERS else SETTABLE
        for span in spans_of(text):
            if words := settings_of(span):
                problems = [why_not_set(words, recipe) for recipe in recipes]
                assert not all(problems), problems


def settings_of(span: str) -> list[str]:
    """The settings, or keys of settings, in what stands between backticks."""
    words = span.removeprefix("--set ").split()
    return [w for w in words if SETTING.fullmatch(w) and not w.endswith((".py", ".md"))]


@cache
def keys_of(recipe: str) -> tuple[str, ...]:
    return tuple(leaf_keys(get_recipe(recipe)))


def why_not_set(words: list[str], recipe: str) -> str:
    """Empty if the settings can be set in the recipe, all at once, and the keys are its keys."""
    try:
        apply_overrides(get_recipe(recipe), [word for word in words if "=" in word])
    except RefsegError as error:
        return f"{recipe}: {error}"
    named = [word for word in words if "=" not in word]
    unknown = [
        w for w in named if not any(f"{key}.".startswith(f"{w}.") for key in keys_of(recipe))
    ]
    return f"{recipe} has no {unknown}" if unknown else ""


@pytest.mark.parametrize("title", PAPERS)
def test_every_row_of_a_paper_can_be_set(title: str) -> None:
    """All settings of a row together, as a person gives them."""
    rows = rows_of(sections(DOCS / "papers.md")[title], "| paper | row | setting |")
    assert len(rows) > 20
    for row in rows:
        words = [word for span in spans_of(row[-1]) for word in settings_of(span)]
        assert words, f"no setting for {row}"
        assert not why_not_set(words, PAPERS[title][0]), row
        settings = [word for word in words if "=" in word]
        recipe = apply_overrides(get_recipe(PAPERS[title][0]), settings)
        reads = getattr(recipe.method, "select", True)
        assert reads or recipe.weights.text is None, f"{row}: there is no text part to start"


def test_a_wrong_setting_is_seen() -> None:
    for words in (
        ["method.guidance=both"],
        ["method.guidanse"],
        ["data.labels=text", "select=oIoU"],
    ):
        assert why_not_set(words, "vega_scenes"), words
    assert not why_not_set(["method.guidance", "method.guidance=visual"], "vega_scenes")


@pytest.mark.parametrize("title", PAPERS)
def test_every_equation_of_a_paper_is_on_its_page(title: str) -> None:
    rows = [row[0] for row in rows_of(sections(DOCS / "papers.md")[title], "| paper | code |")]
    for number in range(1, PAPERS[title][1] + 1):
        assert any(re.match(rf"Eq\. .*\b{number}\b", row) for row in rows), number


def test_messages_in_troubleshooting_are_said_somewhere() -> None:
    sources = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "refseg").rglob("*.py"))
    said = re.sub(r"\"\s*\n\s*f?\"", "", sources)
    messages = re.findall(r"^\| `([^`]+)` \|", text_of(DOCS / "troubleshooting.md"), re.M)
    assert len(messages) > 20
    assert [message for message in messages if message not in said] == []


@pages
def test_no_machine_is_named(page: Path) -> None:
    assert not re.search(r"(?<![\w.~])/(?:work|tmp|root|home)/", text_of(page))


# -- tables and lists -------------------------------------------------------------------------


def test_every_recipe_is_on_the_page_about_training() -> None:
    rows = table_rows(DOCS / "train.md", "| recipe |")
    assert sorted(row[0].strip("`") for row in rows) == sorted({**RECIPES, **ENCODERS})


def test_the_tables_of_protocols_are_the_protocols() -> None:
    page = DOCS / "compare-methods.md"
    rules = table_rows(page, "| protocol | masks")
    assert rules == [[f"`{p.name}`", *told(p)] for p in PROTOCOLS.values()]
    sources = table_rows(page, "| protocol | where")
    assert sources == [
        [f"`{p.name}`", p.source, ", ".join(p.published)] for p in PROTOCOLS.values()
    ]


def told(protocol: Protocol) -> list[str]:
    """A protocol's rules in the words of the page."""
    frames = {"original": "the image's own", "net": "the network's"}
    frame = protocol.frame
    bound = f"{'>' if protocol.strict else '>='} {protocol.threshold:g}"
    made = {
        "mask": "the method's own",
        "threshold": f"probability {bound}, {protocol.resample}",
        "minmax": f"stretched to 0..1, {bound}, {protocol.resample}",
        "positive": f"any positive response, {protocol.resample}",
    }
    first = protocol.pr_thresholds[0]
    return [
        frames[frame] if isinstance(frame, str) else "{} x {}".format(*frame),
        made[protocol.binarise],
        protocol.mask_rule,
        (">=" if protocol.pr_inclusive else ">") + ("" if first == 0.5 else f", from {first:g}"),
        f"{protocol.empty:g}",
        f"{protocol.epsilon:g}" if protocol.epsilon else "-",
        "I / area(prediction)" if protocol.crowd else "-",
        protocol.absence,
    ]


def test_every_unit_has_its_level_in_contributing() -> None:
    cells = " ".join(row[1] for row in table_rows(ROOT / "CONTRIBUTING.md", "| level |"))
    assert set(re.findall(r"`(\w+)`", cells)) == {u for u in MAY_IMPORT if not u.startswith("_")}


def test_the_index_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)]+)\)", text_of(DOCS / "index.md")))
    assert {p.name for p in DOCS.glob("*.md")} - linked == {"index.md"}


def test_decisions_are_numbered_listed_and_whole() -> None:
    rows = table_rows(DOCS / "decisions" / "README.md", "| | |")
    titles = [text_of(page).split("\n")[0] for page in DECISIONS]
    listed = [(number, link.partition("](")[0].removeprefix("[")) for number, link in rows]
    assert titles == [f"# {number}. {title}" for number, title in listed]
    for number, page in enumerate(DECISIONS, start=1):
        assert page.name.startswith(f"{number:04d}-")
        heads = re.findall(r"^## (.+)$", text_of(page), re.M)
        assert heads == ["Context", "Decision", "Rejected", "Consequence"], page.name


def test_the_log_is_newest_first() -> None:
    dates = re.findall(r"^## (\d{4}-\d{2}-\d{2}): .+$", text_of(DOCS / "log.md"), re.M)
    assert dates == sorted(dates, reverse=True)
    assert len(dates) == text_of(DOCS / "log.md").count("\n## ")
