"""A benchmark of several parts: which of them are asked for, and their tables for people."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.mutual.measuring import Table
from benchmarks.output import hand_over


@dataclass(frozen=True)
class Parted:
    """title: what is timed. parts: each takes the number of timed runs. columns: key -> heading.
    note: what the headings mean.
    """

    title: str
    about: str
    parts: Mapping[str, Callable[[int], Mapping[str, Table]]]
    columns: Mapping[str, str]
    note: str

    def main(self) -> None:
        """Run what the command line asks for."""
        parser = argparse.ArgumentParser(description=self.about.splitlines()[0])
        told = ", ".join(self.parts) + "; all"
        parser.add_argument("parts", nargs="*", metavar="PART", help=told)
        parser.add_argument("--runs", type=int, default=5, help="timed runs of each form")
        parser.add_argument("--json", metavar="PATH", help='write one object there ("-": print it)')
        options = parser.parse_args()
        for part in options.parts:
            if part not in self.parts:
                parser.error(f"no part {part}; there are {', '.join(self.parts)}")
        hand_over(self.measured(options.parts, max(1, options.runs)), self.show, options.json)

    def measured(self, names: list[str], runs: int) -> dict[str, Any]:
        """Part -> title -> table, with what they were measured on."""
        told: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        return told | {part: self.parts[part](runs) for part in names or self.parts}

    def show(self, told: Mapping[str, Any]) -> None:
        """Print the tables."""
        print(f"{self.title}, {told['threads']} threads, torch {told['torch']}")
        for part in self.parts:
            if part in told:
                print(f"\n== {part}")
                for title, table in told[part].items():
                    self.show_table(title, table)
        print(f"\n{self.note}")

    def show_table(self, title: str, table: Table) -> None:
        """Columns that no row has are left out, cells that a row lacks are blank."""
        columns = [c for c in self.columns if any(c in row for row in table.values())]
        heads = "".join(f"{self.columns[c]:>11}" for c in columns)
        print(f"\n{title}\n{'':40}{heads}")
        for name, row in table.items():
            cells = (number(c, row[c]) if c in row else "" for c in columns)
            print(f"  {name:38}" + "".join(f"{cell:>11}" for cell in cells))


def number(column: str, value: float) -> str:
    """Ratios with two places, the rest to four digits."""
    if column == "as_fast":
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
