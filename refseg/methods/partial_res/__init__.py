"""Partial-RES on SeqTR: the points of a contour, one coordinate after another."""

from refseg.methods.partial_res.config import PartialResConfig
from refseg.methods.partial_res.model import PartialRes

__all__ = ["PartialRes", "PartialResConfig"]
