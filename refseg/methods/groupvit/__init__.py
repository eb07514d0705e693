"""GroupViT: the segments of an image that a text is more like than nothing is (CVPR 2022)."""

from refseg.methods.groupvit.config import GroupVitConfig
from refseg.methods.groupvit.model import GroupVit

__all__ = ["GroupVit", "GroupVitConfig"]
