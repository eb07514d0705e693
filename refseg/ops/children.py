"""Child interpreters that run a line of this package and talk through pipes.

Unlike multiprocessing they need no `if __name__ == "__main__"` in a user's script, and unlike a
fork they are safe where threads hold locks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import refseg


def start_child(code: str) -> subprocess.Popen[str]:
    """Run `code` by this Python, with this package, its standard input and output in UTF-8 pipes.

    A Ctrl-C does not reach the child, in no moment of its life: the parent is to kill it. A child
    whose parent is killed finds its pipes closed.
    """
    root = str(Path(refseg.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
    )
