"""Mutual supervision of segmentation and generation (arXiv 2211.07919, Huang et al. 2022)."""
