"""Masks for words, for people: `load(name).segment(image, "the cup left of the laptop")`.

predictor = Predictor(load("vega-scenes"))
predictor.set_image("photo.jpg")          # the part no expression changes runs once
first = predictor.segment("left cup")     # a Prediction; a list of texts gives a list
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, overload

import torch

from refseg import models
from refseg.data.tokens import clean
from refseg.errors import ConfigError, ImageError
from refseg.models import Model
from refseg.ops.images import Source, load_image
from refseg.types import Batch, Prediction, Sample

DEFAULT_MODEL = "vega-scenes"
AT_ONCE = 16  # expressions in one pass: more would only cost memory


class Segmenter(Model):
    """A loaded model that also answers plain questions. Made by `load`."""

    @overload
    def segment(self, image: Source, text: str) -> Prediction: ...

    @overload
    def segment(self, image: Source, text: list[str]) -> list[Prediction]: ...

    def segment(self, image: Source, text: str | list[str]) -> Prediction | list[Prediction]:
        """The mask of what `text` means in `image`; several texts give a list, in order.

        image: a path, a PIL image, or uint8 [H, W] or [H, W, 3] RGB.
        Raises ImageError (no image, out of bounds), ExpressionError (empty, over 1,000
        characters).
        """
        return Predictor(self).set_image(image).segment(text)


class Predictor:
    """Asks one image many things. Holds the image and what the method knows of it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._image: Any = None
        self._state: Any = None

    def set_image(self, image: Source) -> Self:
        """Read the image; with methods that can, encode it once and for all. See `segment`."""
        self._image = load_image(image)
        self._state = None
        if hasattr(self.model.method, "encode_image"):
            self._state = self._encode()
        return self

    @overload
    def segment(self, text: str) -> Prediction: ...

    @overload
    def segment(self, text: list[str]) -> list[Prediction]: ...

    def segment(self, text: str | list[str]) -> Prediction | list[Prediction]:
        """As `Segmenter.segment`, about the image that was set. Raises ImageError without one."""
        if self._image is None:
            raise ImageError("no image has been set", remedy="call set_image(image) first")
        if isinstance(text, str):
            return self._answer([clean(text)])[0]
        texts = [clean(one) for one in text]
        starts = range(0, len(texts), AT_ONCE)
        return [p for start in starts for p in self._answer(texts[start : start + AT_ONCE])]

    @torch.inference_mode()
    def _encode(self) -> Any:
        self.model.method.eval()
        return self.model.method.encode_image(self._batch(["object"]).images)

    @torch.inference_mode()
    def _answer(self, texts: list[str]) -> list[Prediction]:
        if self._state is None:
            return self.model.predict(self._samples(texts))
        batch, method = self._batch(texts), self.model.method
        predictions: list[Prediction] = method.decode(method.answer(self._state, batch), batch)
        return predictions

    def _batch(self, texts: list[str]) -> Batch:
        samples = self._samples(texts)
        return self.model.batch(samples, share_images=True).to(self.model.device)

    def _samples(self, texts: list[str]) -> list[Sample]:
        return [
            Sample(key=str(i), image=self._image, text=text, image_id=0, ref_id=0, sent_id=i)
            for i, text in enumerate(texts)
        ]


def load(name: str | Path = DEFAULT_MODEL, device: str = "auto") -> Segmenter:
    """A bundled model's name, a model folder or a hub id, ready to use.

    device: "auto" takes a GPU where there is one. Raises UnknownName, ModelError, ConfigError.
    """
    return Segmenter(**vars(models.load(name, pick_device(device))))


def pick_device(name: str) -> str:
    """ "auto" resolved; any other device checked. Raises ConfigError for one that is not here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f'device "{name}" cannot be used: {str(error).splitlines()[0]}',
            remedy='use "cpu", or "auto" for whatever is there',
        ) from None
    return name


def segment(
    image: Source, text: str | list[str], *, model: str | Path = DEFAULT_MODEL
) -> Prediction | list[Prediction]:
    """One question, one call. It loads the model each time; keep `load(...)` for many."""
    return load(model).segment(image, text)
