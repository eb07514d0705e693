"""Mutual supervision of segmentation and generation (arXiv 2211.07919, Huang et al. 2022)."""

from refseg.methods.mutual.config import MutualConfig
from refseg.methods.mutual.model import Mutual

__all__ = ["Mutual", "MutualConfig"]
