"""A torchvision that is installed but broken must not break transformers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = {
    "missing operator": "raise RuntimeError('operator torchvision::nms does not exist')",
    "wrong library": "raise OSError('libtorch_cuda.so: cannot open shared object file')",
    "own part missing": "from torchvision import _C_that_is_not_there",
    "other package missing": "import a_package_that_is_not_there",
}
IMPORTS_BERT = (
    "from refseg.nn.guard import guard_torchvision; print(guard_torchvision());"
    "from transformers import BertConfig, BertModel, SwinModel;"
    "BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,"
    "intermediate_size=8)); print('imported')"
)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(folder), str(root)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def fake(folder: Path, body: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(body + "\n", encoding="utf-8")
    meta = folder / "torchvision-0.99.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n")
    return folder


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_a_broken_torchvision_is_hidden(what: str, tmp_path: Path) -> None:
    code = (
        "import sys; from refseg.nn.guard import guard_torchvision as g; print(g(), g());"
        "print([n for n in sys.modules if n.startswith('torchvision.')]);"
        "print(sys.modules['torchvision'])"
    )
    done = run(code, fake(tmp_path, BROKEN[what]))
    assert done.stdout.splitlines() == ["hidden hidden", "[]", "None"], done.stderr


def test_transformers_imports_after_the_guard(tmp_path: Path) -> None:
    done = run(IMPORTS_BERT, fake(tmp_path, BROKEN["missing operator"]))
    assert done.stdout.splitlines() == ["hidden", "imported"], done.stderr[-800:]


def test_transformers_fails_without_it(tmp_path: Path) -> None:
    """Guards the test above: the fake package does harm."""
    code = IMPORTS_BERT.split(";", 2)[2]
    done = run(code, fake(tmp_path, BROKEN["missing operator"]))
    assert done.returncode != 0


def test_a_working_torchvision_stays(tmp_path: Path) -> None:
    code = (
        "from refseg.nn.guard import guard_torchvision as g; print(g(), g());"
        "import torchvision; print(torchvision.answer)"
    )
    done = run(code, fake(tmp_path, "answer = 42"))
    assert done.stdout.splitlines() == ["works works", "42"], done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="a torchvision is installed"
)
def test_none_at_all_is_fine(tmp_path: Path) -> None:
    done = run("from refseg.nn.guard import guard_torchvision as g; print(g(), g())", tmp_path)
    assert done.stdout.split() == ["absent", "absent"], done.stderr
