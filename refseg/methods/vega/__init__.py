"""VEGA: words fused into Swin, and visual expressions that guide the decoder."""

from refseg.methods.vega.config import VegaConfig
from refseg.methods.vega.model import Vega

__all__ = ["Vega", "VegaConfig"]
