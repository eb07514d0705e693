"""The size of the small rendered world that tests share (`cache` in conftest.py)."""

WORLD_IMAGES = 28  # of which two each are val, testA, testB
