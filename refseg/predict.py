"""Masks for words, for people: `load(name).segment(image, "the cup left of the laptop")`.

predictor = Predictor(load("mutual-scenes"))
predictor.set_image("photo.jpg")          # the part no expression changes runs once
first = predictor.segment("left cup")     # a Prediction; a list of texts gives a list
several = predictor.rank("left cup")      # what else it may mean, by models that propose
words = predictor.describe(first.mask)    # Expressions for a region, by models that write
found = predictor.propose()               # Proposals, by models that choose among them
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch

from refseg import models
from refseg.data.tokens import clean
from refseg.describe import MATCHED, Described, check_writes, describe
from refseg.errors import ConfigError, DataError, ImageError, ModelError, NoProposal
from refseg.models import PHOTOS, Model
from refseg.ops.boxes import box_iou
from refseg.ops.images import Source, load_image
from refseg.propose import Proposal, check_proposes, list_proposals
from refseg.pull.kept import pulled_folder
from refseg.rank import KEEP, Ranked, check_ranks, likeliest
from refseg.region import Region, RegionLike, read_region
from refseg.types import Batch, Expression, Prediction, Sample

AT_ONCE = 16  # expressions in one pass: more would only cost memory


class Segmenter(Model):
    """A loaded model that also answers plain questions. Made by `load`."""

    @overload
    def segment(self, image: Source, text: str) -> Prediction: ...

    @overload
    def segment(self, image: Source, text: list[str]) -> list[Prediction]: ...

    def segment(self, image: Source, text: str | list[str]) -> Prediction | list[Prediction]:
        """The mask of what `text` means in `image`; several texts give a list, in order.

        image: a path, a PIL image, or uint8 [H, W] or [H, W, 3] RGB. Where the score is below
        the model's own `min_score` (0 for most), or nothing at all is found, the mask is empty and
        so is the answer: `empty`.
        Raises ImageError (no image, out of bounds), ExpressionError (empty, over 1,000
        characters).
        """
        return Predictor(self).set_image(image).segment(text)

    def rank(self, image: Source, text: str, *, keep: int = KEEP) -> tuple[Ranked, ...]:
        """What `text` may mean in `image`, likeliest first; see `Predictor.rank`."""
        check_ranks(self, keep)
        return Predictor(self).set_image(image).rank(text, keep=keep)

    def describe(
        self,
        image: Source,
        region: RegionLike,
        *,
        beams: int = 5,
        keep: int | None = None,
        verify: bool = False,
    ) -> list[Expression]:
        """Expressions for a region of `image`; see `Predictor.describe`."""
        check_writes(self, verify=verify)
        predictor = Predictor(self).set_image(image)
        described = predictor.describe_region(region, beams=beams, keep=keep, verify=verify)
        return _expressions(described, self.name)

    def propose(self, image: Source) -> list[Proposal]:
        """Everything in `image` that the model takes for an object; see `Predictor.propose`."""
        check_proposes(self)
        return Predictor(self).set_image(image).propose()


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
        self._need_image()
        if isinstance(text, str):
            return self._answer([clean(text)])[0]
        texts = [clean(one) for one in text]
        starts = range(0, len(texts), AT_ONCE)
        return [p for start in starts for p in self._answer(texts[start : start + AT_ONCE])]

    @torch.inference_mode()
    def rank(self, text: str, *, keep: int = KEEP) -> tuple[Ranked, ...]:
        """The at most `keep` proposals that `text` may mean, likeliest first.

        Of near-duplicates the likeliest (`refseg.rank.ALIKE`); the first is what `segment` answers,
        whatever the model's `min_score`. There is none in an image in which nothing is found.
        Raises ConfigError for a model that does not choose among proposals, ExpressionError,
        ImageError without an image.
        """
        check_ranks(self.model, keep)
        self._need_image()
        return likeliest(self.model, self._state, self._batch([clean(text)]), keep)

    def describe(
        self, region: RegionLike, *, beams: int = 5, keep: int | None = None, verify: bool = False
    ) -> list[Expression]:
        """Expressions for a region of the image that was set, best first, each text once.

        region: bool [H, W], or a box x0, y0, x1, y1 px. Masks are compared with masks and a box
        with boxes; a model taught on boxes takes a mask as its tight box. beams: sentences searched
        for at a time, 1 is greedy. keep: at most so many are given back, no more than `beams`;
        None: three, or `beams`. verify: let the model read each again, and say whether it means the
        same object (`refers_back`).
        Warns when the model has no proposal that fits the region (an IoU of
        `refseg.describe.MATCHED` in px); `describe_region` says so in a value.
        Raises ConfigError for a model that writes none and numbers out of range, DataError for a
        region that is none, a mask too small for the model and an image in which it finds nothing,
        ImageError without an image.
        """
        described = self.describe_region(region, beams=beams, keep=keep, verify=verify)
        return _expressions(described, self.model.name)

    @torch.inference_mode()
    def describe_region(
        self, region: RegionLike, *, beams: int = 5, keep: int | None = None, verify: bool = False
    ) -> Described:
        """As `describe`, with the proposal that stood for the region and how well it fits.

        iou: of the two in px, of boxes if the region is one (`refseg.describe.describe`, which data
        sets are asked with, tells it on the coarser grid of the proposals' masks); below
        `refseg.describe.MATCHED` the expressions may mean something else. Errors: as for
        `describe`.
        """
        check_writes(self.model, verify=verify)
        self._need_image()
        asked = read_region(region, self._image.shape[:2])
        try:
            (described,) = describe(
                self.model,
                [asked.picture()],
                [(0, 0)],
                beams=beams,
                keep=keep,
                verify=verify,
                proposals=self._state,
                by_box=self._by_box(asked),
            )
        except NoProposal:
            raise self._no_proposal(asked) from None
        return replace(described, iou=self._fit(asked, described.proposal))

    def _no_proposal(self, asked: Region) -> DataError:
        """Why nothing stands for a region that is alone in its image."""
        there = getattr(self._state, "there", None)
        if there is not None and not there.any():
            return DataError(
                f"{self.model.name} found no object in the image, so there is none to describe",
                remedy="another image: it knows the 80 kinds of things of COCO",
            )
        return DataError(
            f"the region is too small: of its {asked.mask.sum():,} px nothing is left in the "
            f"{self.model.preprocess.size} px a side that {self.model.name} looks at",
            remedy="give a larger region, or cut the image down around it",
        )

    def propose(self) -> list[Proposal]:
        """Everything in the image that was set that the model takes for an object, surest first.

        No expression is read. There are as many as the model has queries; near-duplicates are
        among them (`refseg.propose.distinct` leaves them out). Raises ConfigError for a model
        that makes none, ImageError without an image.
        """
        check_proposes(self.model)
        self._need_image()
        geometry = self.model.preprocess.geometry(self._image.shape[:2])
        return list_proposals(self.model, self._state, geometry)

    @property
    def _taught_on_boxes(self) -> bool:
        """Whether the masks of the model's proposals are filled boxes, or meant to be."""
        return getattr(self.model.method.config.extractor, "region", "mask") == "box"

    def _by_box(self, region: Region) -> bool:
        """Whether the region is compared by its box alone."""
        return region.is_box and not self._taught_on_boxes

    def _fit(self, region: Region, number: int) -> float:
        """IoU in px of the region and a proposal: of boxes, or of masks as the model was taught."""
        proposal = next(one for one in self.propose() if one.number == number)
        if self._by_box(region):
            box = proposal.box_xyxy
            return 0.0 if box is None else float(box_iou(region.box_xyxy, box)[0, 0])
        ours = region.filled() if self._taught_on_boxes else region.mask
        theirs = proposal.mask
        return float((ours & theirs).sum() / (ours | theirs).sum())  # a region has pixels

    def _need_image(self) -> None:
        if self._image is None:
            raise ImageError("no image has been set", remedy="call set_image(image) first")

    @torch.inference_mode()
    def _encode(self) -> Any:
        self.model.method.eval()
        return self.model.method.encode_image(self._batch(["object"]))

    @torch.inference_mode()
    def _answer(self, texts: list[str]) -> list[Prediction]:
        least = self.model.min_score
        return [refuse(one, least) for one in self._predicted(texts)]

    def _predicted(self, texts: list[str]) -> list[Prediction]:
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


def _expressions(described: Described, name: str) -> list[Expression]:
    """Those of `described`, with a warning at the caller if they may mean something else."""
    if described.iou is not None and described.iou < MATCHED:
        warnings.warn(
            f"the proposal of {name} that comes nearest to the region has an IoU of "
            f"{described.iou:.2f} with it: the expressions may mean something else",
            stacklevel=3,
        )
    return list(described.expressions)


def refuse(prediction: Prediction, least: float) -> Prediction:
    """The same, or "nothing there" (`empty`, no pixel) where its score is below `least`."""
    if prediction.score >= least:
        return prediction
    nothing = np.zeros_like(prediction.mask)
    return replace(prediction, mask=nothing, empty=True, polygons=())


def load(name: str | Path | None = None, device: str = "auto") -> Segmenter:
    """A bundled model's name, a model folder or a hub id, ready to use; None: `default_model()`.

    device: "auto" takes a GPU where there is one. Raises UnknownName, ModelError, ConfigError.
    """
    named = default_model() if name is None else name
    return Segmenter(**vars(models.load(named, pick_device(device))))


def default_model() -> str:
    """The model for photographs, "photos". Raises ModelError, telling how to pull what it sees by,
    as long as that has not been pulled whole.
    """
    try:
        pulled_folder(PHOTOS)
    except ModelError as error:
        raise ModelError(
            error.message,
            remedy=f"{error.remedy}; or name another model: mutual-scenes knows rendered scenes",
        ) from None
    return PHOTOS


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
    image: Source, text: str | list[str], *, model: str | Path | None = None
) -> Prediction | list[Prediction]:
    """One question, one call. It loads the model each time; keep `load(...)` for many."""
    return load(model).segment(image, text)
