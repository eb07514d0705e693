"""A file imports from lower levels and from its own folder, never sideways or up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "refseg"

# Unit (a folder or a file of the package) -> the units that it may import besides itself.
CORE = {"types", "errors"}
FLAT = {path.stem for path in PACKAGE.glob("*.py")} - {"types", "errors", "method", "__init__"}
FLAT |= {"label", "pull"}
TRAIN = CORE | {"ops", "method"}
METHODS = TRAIN | {"nn"}
BELOW_TOP = CORE | {"ops", "metrics", "nn", "data", "method", "methods", "train"}
MAY_IMPORT: dict[str, set[str]] = {
    "types": {"errors"},
    "errors": set(),
    "ops": CORE,
    "metrics": CORE | {"ops"},
    "nn": CORE | {"ops"},
    "data": CORE | {"ops"},
    "method": CORE,
    "methods": METHODS,
    "train": TRAIN,
    "recipes": BELOW_TOP | FLAT,
    **dict.fromkeys(FLAT, BELOW_TOP | FLAT | {"recipes"}),
    "__init__": {"predict"},
    "__main__": {"cli"},
    "cli": CORE | {"ops", "metrics", "data", "train", "recipes"} | FLAT,
}


def unit_of(module: str) -> str:
    """refseg.data.scenes.model -> data; refseg -> __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source: str, module: str) -> list[tuple[int, str]]:
    """(line, dotted module of ours) for every import, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], base]).rstrip(".")
            # `from refseg import draw` names a module in its second half.
            names = [f"refseg.{a.name}" for a in node.names] if base == "refseg" else [base]
            found += [(node.lineno, name) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] == "refseg"]


def trespasses(source: str, module: str) -> list[str]:
    """What `module` imports and may not, as "line: name"."""
    unit = unit_of(module)
    bad = []
    for line, name in imports(source, module):
        other = unit_of(name)
        if other.startswith("__") or name == "refseg":  # the version: no code of another level
            continue
        inside = other == unit and (unit != "methods" or _same_method(module, name))
        if not inside and other not in MAY_IMPORT[unit]:
            bad.append(f"{line}: {name}")
    return bad


def _same_method(module: str, other: str) -> bool:
    """Methods never import one another; what they share lies in `nn`."""
    return module.split(".")[2:3] == other.split(".")[2:3]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_imports_go_down(path: Path) -> None:
    assert trespasses(path.read_text(encoding="utf-8"), module_of(path)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("refseg.ops.masks", "from refseg.metrics.iou import Meter"),
        ("refseg.ops.masks", "from refseg import draw"),
        ("refseg.nn.text", "from refseg.data import tokens"),
        ("refseg.data.store", "import refseg.nn.text"),
        ("refseg.methods.vega.model", "from refseg.methods.tris.model import TRIS"),
        ("refseg.methods.vega.model", "from refseg.data.collate import collate"),
        ("refseg.methods.vega.model", "from ...data import collate"),
        ("refseg.train.loop", "from refseg.methods.vega import model"),
        ("refseg.predict", "from refseg.cli import ui"),
        ("refseg.cli.predict", "from refseg.nn import text"),
        ("refseg.errors", "from refseg.types import Labels"),
    ],
)
def test_a_trespass_is_seen(module: str, line: str) -> None:
    assert trespasses(line, module) != []
    assert trespasses(f"def late():\n    {line}", module) != []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("refseg.methods.vega.model", "from refseg.methods.vega.config import VegaConfig"),
        ("refseg.methods.vega.model", "from .config import VegaConfig"),
        ("refseg.metrics.iou", "from refseg.ops import masks"),
        ("refseg.data.scenes.sample", "from refseg.data.scenes.model import Scene"),
        ("refseg.recipes.runner", "from refseg.evaluate import evaluate"),
        ("refseg.doctor", "from refseg import __version__"),
        ("refseg.cli.predict", "from refseg.predict import load"),
    ],
)
def test_a_good_import_passes(module: str, line: str) -> None:
    assert trespasses(line, module) == []


def test_every_unit_is_in_the_table() -> None:
    assert {unit_of(module_of(path)) for path in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
