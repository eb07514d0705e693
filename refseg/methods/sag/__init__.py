"""Shatter and Gather: segmentation learned from texts alone (ICCV 2023)."""

from refseg.methods.sag.config import SagConfig
from refseg.methods.sag.model import Sag

__all__ = ["Sag", "SagConfig"]
