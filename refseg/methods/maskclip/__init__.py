"""MaskCLIP: the places of an image that a text is most like, by a CLIP as it is (ECCV 2022)."""

from refseg.methods.maskclip.config import MaskClipConfig
from refseg.methods.maskclip.model import MaskClip

__all__ = ["MaskClip", "MaskClipConfig"]
