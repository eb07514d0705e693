"""refseg: segment what words point at, and write words that point at a region.

    import refseg
    model = refseg.load()                    # photos, once `refseg models pull photos` is done
    masks = model.segment("photo.jpg", ["left man in white", "the dog"])

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "load", "segment"]

if TYPE_CHECKING:
    from refseg.predict import Predictor, load, segment


def __getattr__(name: str) -> Any:
    if name in ("Predictor", "load", "segment"):
        from refseg import predict

        return getattr(predict, name)
    raise AttributeError(f"module 'refseg' has no attribute {name!r}")
