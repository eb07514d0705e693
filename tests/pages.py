"""The pages of the documentation, and their parts: fences, prose, code spans, tables."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fences(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.M | re.S)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)


def sections(page: Path) -> dict[str, str]:
    """The prose of a page by its second-level headings; what stands before them is under ""."""
    first, *rest = re.split(r"^## ", prose(page), flags=re.M)
    return {"": first} | {title: text for title, _, text in (part.partition("\n") for part in rest)}


def spans(page: Path) -> list[str]:
    """What stands in backticks outside the fences."""
    return spans_of(prose(page))


def spans_of(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def table_rows(page: Path, start: str) -> list[list[str]]:
    """The cells of the table whose head begins with `start`, without head and rule."""
    return rows_of(text_of(page), start)


def rows_of(text: str, start: str) -> list[list[str]]:
    """As `table_rows`, of a text."""
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith(start)) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.split("|")[1:-1]])
    return rows


def command_lines(page: Path) -> list[list[str]]:
    """The words of every line of the page's shell blocks, redirections cut off."""
    lines = "\n".join(fences(page, "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[: words.index(">")] if ">" in words else words for words in found if words]
