"""The proposal selection head: which proposal does a sentence mean?

Paper map (proposal selection head):
  4-layer decoder, proposals as queries, words as memory, MLP -> S  -> `ProposalSelection.forward`
  L_sel = -log softmax(S)_k                                         -> cross-entropy of its result
  k = argmax S                                                      -> its argmax

We differ in form: before any word is heard, the proposals of an image look at one another once
for all of its sentences. Words come in encoded, and each layer projects them once for all N
proposals. Needed but unsaid: a linear map from BERT's 768 to the head's width.
The last linear map has no bias: it would move all N scores alike and never learn.
Letters: I images, E sentences, N proposals, T words, C width of a proposal, D width here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from refseg.methods.mutual.config import SelectionConfig
from refseg.methods.mutual.layer import DecoderLayer

#: Batches of so many sentences are scored in so many groups; see `_alike`.
SMALLEST, GROUPS = 16, 4


class ProposalSelection(nn.Module):
    """See the module docstring. channels: C. text_width: of a word's features."""

    def __init__(self, config: SelectionConfig, channels: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.proposals = nn.Identity() if channels == width else nn.Linear(channels, width)
        self.text = nn.Linear(text_width, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.heads, config.mlp_width, config.dropout, width)
            for _ in range(config.layers)
        )
        self.score = nn.Sequential(
            nn.Linear(width, config.score_width),
            nn.ReLU(),
            nn.Linear(config.score_width, 1, bias=False),
        )

    def forward(
        self,
        objects: Tensor,
        image_of: Tensor,
        features: Tensor,
        word_mask: Tensor,
        there: Tensor | None = None,
    ) -> Tensor:
        """Scores S [E, N], float32 under autocast too; only their differences mean something.

        objects O: [I, N, C]. image_of: [E] int64. features: [E, T, text_width], word_mask:
        [E, T] bool, True on real words. Several sentences of one object are several rows.
        there: [I, N] bool, False on padding, which nobody hears of and whose score is -inf.
        """
        if there is None:
            return self._scores(objects, image_of, features, word_mask, None)
        scores = objects.new_full(
            (len(image_of), objects.shape[1]), -torch.inf, dtype=self.text.weight.dtype
        )
        for rows, most in _alike(there, image_of):
            images, own = torch.unique(image_of[rows], return_inverse=True)
            part = self._scores(
                objects[images, :most], own, features[rows], word_mask[rows], there[images, :most]
            )
            scores = scores.index_put((rows[:, None], torch.arange(most, device=rows.device)), part)
        return scores

    def _scores(
        self,
        objects: Tensor,
        image_of: Tensor,
        features: Tensor,
        word_mask: Tensor,
        there: Tensor | None,
    ) -> Tensor:
        words = self.text(features)
        decoder = cast("list[DecoderLayer]", list(self.layers))
        x, _ = decoder[0].look(  # [I, N, D]
            self.proposals(objects), allowed=None if there is None else there[:, None]
        )
        x = x[image_of]
        shown = None if there is None else there[image_of]
        for index, layer in enumerate(decoder):
            if index:
                x, _ = layer.look(x, allowed=None if shown is None else shown[:, None])
            x = layer.hear(x, layer.memory.prepare(words), word_mask)
        with torch.autocast(x.device.type, enabled=False):  # rewards compare close scores
            scores: Tensor = self.score(x.to(self.text.weight.dtype))[..., 0]
        return scores if shown is None else scores.masked_fill(~shown, -torch.inf)


def _alike(there: Tensor, image_of: Tensor) -> list[tuple[Tensor, int]]:
    """Rows in groups of about as many proposals, each with the number of columns that it needs.

    Images differ widely (RefCOCO: 10 objects on average, 75 at most), and a batch padded to its
    richest image is mostly padding.
    """
    # The last column that is there: an object without a box leaves a gap before it.
    columns = torch.arange(1, there.shape[1] + 1, device=there.device)
    extent = (there * columns).amax(dim=1)[image_of].clamp(min=1)
    order = extent.argsort(stable=True)
    groups = order.chunk(GROUPS) if len(order) >= SMALLEST else (order,)
    return [(rows, int(extent[rows].max())) for rows in groups]
