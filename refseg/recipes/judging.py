"""The calibrator of a recipe, and what a model is worth by it alone: no label but texts is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.data.collate import collate
from refseg.data.dataset import ReferDataset
from refseg.data.negatives import Negatives
from refseg.data.tokens import WordTokenizer, load_tokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError
from refseg.method import Method
from refseg.methods.tris.calibrator import Calibrator
from refseg.models import Model, find_encoder
from refseg.nn.clip_weights import read_pair
from refseg.recipes.base import Recipe
from refseg.recipes.scoring import batches_of, everyone, place
from refseg.types import Prediction, Sample

MARGIN = "margin"
#: Texts about something else that each expression is compared with when a model is scored.
NEGATIVES = 3


def open_calibrator(recipe: Recipe) -> Calibrator | None:
    """The judge that `weights.calibrator` names; None where it names none.

    Raises ModelError (absent, broken), ConfigError (the pair reads other word pieces).
    """
    name = recipe.weights.calibrator
    if name is None:
        return None
    pair = read_pair(find_encoder(name))
    given = (recipe.preprocess.mean, recipe.preprocess.std)
    known = (pair.pixels.mean, pair.pixels.std)
    return Calibrator(pair, given, own_pixels=_own_pixels(recipe), own=known)


def _own_pixels(recipe: Recipe) -> bool:
    """As the method has it; of one without the setting, such as step 2 of TRIS, as step 1 has."""
    settings = getattr(recipe.method, "loss", None)
    if not hasattr(settings, "own_pixels") and recipe.tris is not None:
        settings = recipe.tris.response.loss
    return bool(getattr(settings, "own_pixels", False))


def check_words(calibrator: Calibrator, model: Model, name: str) -> None:
    """Refuse a judge that would read other ids than the model. Raises ConfigError."""
    rows, ours = calibrator.pair.config.text.vocab_size, model.tokenizer
    own = find_encoder(name) / "tokenizer.json"
    same = True
    if own.is_file():  # of weights alone the size is all that can be compared
        pieces = load_tokenizer(own, ours.max_words).tokenizer.get_vocab()
        same = pieces == ours.tokenizer.get_vocab()
    if ours.vocab_size > rows or not same:
        raise ConfigError(
            f"weights.calibrator={name} reads {rows} word pieces of its own, the recipe's "
            f"tokenizer has {ours.vocab_size} others",
            remedy=f"read the calibrator's: tokens.source={name}",
        )


@dataclass
class MarginScorer:
    """Call it with a method: {"margin": mean over expressions of cos(seen, own) - mean cos(seen,
    other)}, where "seen" is what the method's response leaves of the image, as the calibrator
    embeds it, and the others are drawn once, of the same image first.

    In -2..2; chance is 0. rows: dataset rows to score.
    """

    calibrator: Calibrator
    dataset: ReferDataset
    tokenizer: WordTokenizer
    preprocess: PreprocessConfig
    rows: list[int]
    seed: int
    batch_size: int = 32

    def __post_init__(self) -> None:
        self._others = Negatives(self.dataset)

    def __call__(self, method: nn.Module) -> dict[str, float]:
        margins = dict[str, float]()
        rank, world = place()
        batches = batches_of(self.dataset, self.rows, self.batch_size)
        for start in range(0, len(batches), world):
            mine = start + rank
            samples = self._samples(batches[mine % len(batches)])
            found = self._margins(method, samples)
            if mine < len(batches):
                margins.update(zip((s.key for s in samples), found, strict=True))
        for part in everyone({MARGIN: margins}):
            margins.update(part[MARGIN])
        return {MARGIN: sum(margins.values()) / len(margins)}

    def _samples(self, rows: list[int]) -> list[Sample]:
        return [
            replace(sample, negatives=self._drawn(row))
            for sample, row in zip(self.dataset.samples(rows), rows, strict=True)
        ]

    def _drawn(self, row: int) -> tuple[str, ...]:
        return self._others.draw(row, NEGATIVES, np.random.default_rng([self.seed, row]))

    @torch.no_grad()
    def _margins(self, method: nn.Module, samples: list[Sample]) -> list[float]:
        batch = collate(samples, self.tokenizer, self.preprocess, share_images=True)
        batch = batch.to(next(method.parameters()).device)
        verbs = cast(Method, method)
        hw = (batch.images.shape[2], batch.images.shape[3])
        maps = responses(verbs.decode(verbs(batch), batch), hw).to(batch.images.device)
        seen = self.calibrator.seen(batch.images[batch.image_of], maps)
        own = self.calibrator.texts(batch.words, batch.word_mask)
        assert batch.negatives is not None
        assert batch.negative_mask is not None
        flat = batch.negatives.flatten(0, 1), batch.negative_mask.flatten(0, 1)
        others = self.calibrator.texts(*flat).view(*batch.negatives.shape[:2], -1)
        near = (seen * own).sum(dim=1)
        far = torch.einsum("be,bne->bn", seen, others).mean(dim=1)
        margins: list[float] = (near - far).tolist()
        return margins


def responses(predictions: list[Prediction], net_hw: tuple[int, int]) -> Tensor:
    """[B, H, W] float32 at the net's size of the predictions' responses.

    Raises ConfigError for a method that gives none.
    """
    maps: list[Any] = [prediction.response for prediction in predictions]
    if any(one is None for one in maps):
        raise ConfigError(
            "the calibrator judges response maps, and this method gives none",
            remedy='choose the weights otherwise (select=null), not by "margin"',
        )
    stacked = torch.from_numpy(np.stack(maps))[:, None]
    return F.interpolate(stacked, net_hw, mode="bilinear", align_corners=False)[:, 0]
