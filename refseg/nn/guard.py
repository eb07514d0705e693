"""Keep a broken torchvision from breaking transformers.

A torchvision build that does not match torch fails on import, and then every transformers model
fails too, with an error that names neither. `guard_torchvision` hides such a build (and only
such a build) before transformers is imported. Call it before the first transformers import.
"""

from __future__ import annotations

import sys
from typing import Any


def guard_torchvision() -> str:
    """Return "absent", "works" or "hidden" (installed but broken, now invisible)."""
    if "torchvision" in sys.modules:
        return "hidden" if sys.modules["torchvision"] is None else "works"
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "torchvision":
            return "absent"
        _hide()
    except Exception:
        _hide()
    else:
        return "works"
    return "hidden"


def _hide() -> None:
    modules: dict[str, Any] = sys.modules
    for name in [name for name in modules if name.split(".")[0] == "torchvision"]:
        del modules[name]
    modules["torchvision"] = None
