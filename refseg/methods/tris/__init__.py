"""TRIS: segmentation learned from texts alone (ICCV 2023), in two steps."""

from refseg.methods.tris.config import TrisConfig, TrisResponseConfig
from refseg.methods.tris.response import TrisResponse
from refseg.methods.tris.segmenter import Tris

__all__ = ["Tris", "TrisConfig", "TrisResponse", "TrisResponseConfig"]
