"""A model card as Markdown, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card_text(name: str, method: str, card: Mapping[str, Any]) -> str:
    """The plain entries of a card, then a table of each entry with parts."""
    rows: dict[str, Any] = {"method": method, **card}
    tables = {key: value for key, value in rows.items() if isinstance(value, dict)}
    lines = [f"# {name}", ""]
    lines += [f"- **{key}**: {value}" for key, value in rows.items() if key not in tables]
    for key, parts in tables.items():
        lines += ["", f"## {key}", "", "| | |", "|---|---|"]
        lines += [f"| {k} | {_cell(v)} |" for k, v in parts.items()]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
