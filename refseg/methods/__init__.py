"""The methods, one folder each. `METHODS` is the only table of them there is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from refseg.errors import UnknownName

# name -> (module, method class, config class)
METHODS = {
    "groupvit": ("refseg.methods.groupvit", "GroupVit", "GroupVitConfig"),
    "maskclip": ("refseg.methods.maskclip", "MaskClip", "MaskClipConfig"),
    "mutual": ("refseg.methods.mutual", "Mutual", "MutualConfig"),
    "partial_res": ("refseg.methods.partial_res", "PartialRes", "PartialResConfig"),
    "sag": ("refseg.methods.sag", "Sag", "SagConfig"),
    "tris": ("refseg.methods.tris", "Tris", "TrisConfig"),
    "tris_response": ("refseg.methods.tris", "TrisResponse", "TrisResponseConfig"),
    "vega": ("refseg.methods.vega", "Vega", "VegaConfig"),
}


def method_types(name: str) -> tuple[Any, Any]:
    """(method class, config class) of a method. Raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    module, method, config = METHODS[name]
    loaded = import_module(module)
    return getattr(loaded, method), getattr(loaded, config)
