"""Child interpreters: out of Ctrl-C's reach, with this package, done when the parent is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import refseg
from refseg.ops.children import start_child

PARENT = """
from refseg.ops.children import start_child
child = start_child("import sys; print('up', flush=True); sys.stdin.read()")
print(child.stdout.readline().strip(), child.pid, flush=True)
child.wait()
"""


def test_it_finds_this_package_and_answers_by_a_pipe() -> None:
    child = start_child("import sys, refseg; print(refseg.__file__, sys.stdin.readline())")
    out, _ = child.communicate("word\n", timeout=60)
    assert out.split() == [refseg.__file__, "word"]
    assert child.returncode == 0


def test_an_interrupt_of_the_parents_group_does_not_reach_it() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(refseg.__file__).parents[1])},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None
    word, pid = parent.stdout.readline().split()
    assert word == "up"
    os.killpg(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=60)
    # One traceback, the parent's: the child read to the end of its pipe and left.
    assert err.count("Traceback") == 1
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and not _ended(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
