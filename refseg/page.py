"""One self-contained HTML page: pictures inline, no script, nothing fetched, all text escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

#: A PNG file's bytes and its caption, whose lines stay lines.
Picture = tuple[bytes, str]
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
th { border-bottom-width: 2px; } .n { text-align: right; }
tbody tr:hover { background: var(--soft); }
.gallery { display: grid; gap: 1rem; }
.gallery { grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.inner { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; margin-top: .4rem; }
.row { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(6.8rem, 1fr); }
.row { gap: .5rem; margin-bottom: 1rem; overflow-x: auto; font-size: .85rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; border-radius: 4px; }
figcaption, .note { font-size: .88em; opacity: .8; overflow-wrap: anywhere; }
figcaption { white-space: pre-line; } summary { font-size: .88em; cursor: pointer; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 4px; }
"""


class Page:
    """Collects the parts of a page in order; `html` gives the whole."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section begins."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        """Text shown as typed."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
        """A table; cells that are numbers, or look like one, stand to the right."""
        head = "".join(f"<th>{escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
        self._parts.append(
            f'<div class="table"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def gallery(
        self,
        pictures: Iterable[Picture],
        inner: Iterable[Sequence[Picture]] | None = None,
        told: str = "",
    ) -> None:
        """Pictures side by side. inner: of each, more that are shown when `told` is opened."""
        if inner is None:
            figures = [_figure(*one) for one in pictures]
        else:
            figures = [
                f"<div>{_figure(*one)}{_fold(told, more)}</div>"
                for one, more in zip(pictures, inner, strict=True)
            ]
        self._parts.append(f'<div class="gallery">{"".join(figures)}</div>')

    def row(self, pictures: Iterable[Picture]) -> None:
        """Small pictures that belong together, in one line however narrow the window."""
        figures = "".join(_figure(*one) for one in pictures)
        self._parts.append(f'<div class="row">{figures}</div>')

    def picture(self, png: bytes, caption: str = "") -> None:
        """One PNG file's bytes at its own size."""
        self._parts.append(_figure(png, caption))

    def html(self) -> str:
        """The page as one document."""
        body = "\n".join(self._parts)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n"
            f"<body>\n{body}\n</body></html>\n"
        )


def _figure(png: bytes, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    words = escape(caption)
    return f'<figure><img alt="{words}" src="{source}"><figcaption>{words}</figcaption></figure>'


def _fold(told: str, pictures: Sequence[Picture]) -> str:
    """Pictures behind a line of text; nothing where there are none."""
    if not pictures:
        return ""
    figures = "".join(_figure(*one) for one in pictures)
    return f'<details><summary>{escape(told)}</summary><div class="inner">{figures}</div></details>'


def _cell(value: object) -> str:
    words = f"{value:.4g}" if isinstance(value, float) else str(value)
    side = ' class="n"' if _looks_like_a_number(words) else ""
    return f"<td{side}>{escape(words)}</td>"


def _looks_like_a_number(words: str) -> bool:
    bare = words.replace(",", "").rstrip("%").strip()
    try:
        float(bare)
    except ValueError:
        return words == "-"
    return True
