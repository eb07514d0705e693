"""The visual information selection module: which pixels each word means, and what they say.

Paper map (VEGA section 3.2 and appendix A):
  Eq. 1  cosine scores S              -> `cosine_scores`
  Eq. 2  top-K per token, mask M      -> `top_share` (or `above_zero`, Table 4a)
  Eq. 3  additive mask, softmax P     -> `pixel_weights`
  Eq. 4  E = (1/K) (M P) F_v          -> `VisualSelection._extract`
  cross-attention to the selected, self-attention among tokens -> `VisualSelection.forward`

We differ from the appendix's pseudocode in form, never in value: it builds [B, T, N, D]; here
pixels stay [B, N, D] and the selection is a boolean mask [B, T, N]. Its -1e4 is -inf here.
Padded words are masked in the self-attention (as there) and in the decoder (our repair).
Letters: B batch, T tokens, N pixels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.methods.vega.config import SelectionConfig
from refseg.nn.attention import AttentionBlock


@dataclass(frozen=True)
class Selected:
    """guidance: [B, G, D], the visual half of the guidance set; guidance_mask: [B, G] bool.

    scores: [B, T, N] cosine of every token with every pixel. selected: [B, T, N] bool.
    global_scores: [B, N], the row the contrastive loss supervises (the CLS token's).
    """

    guidance: Tensor
    guidance_mask: Tensor
    scores: Tensor
    selected: Tensor
    global_scores: Tensor


def cosine_scores(tokens: Tensor, pixels: Tensor) -> Tensor:
    """Eq. 1 after the two projections: tokens [B, T, D], pixels [B, N, D] -> [B, T, N], float32."""
    with torch.autocast(tokens.device.type, enabled=False):
        unit_tokens = F.normalize(tokens.float(), dim=-1)
        unit_pixels = F.normalize(pixels.float(), dim=-1)
        return unit_tokens @ unit_pixels.transpose(1, 2)


def count_selected(pixels: int, ratio: float) -> int:
    """K = int(N * ratio), as the pseudocode truncates, but at least one pixel."""
    # Rounded first: 225 * 0.6 is 135 on paper and 134.99999999999997 or 135.0 by luck of binary.
    return max(1, int(round(pixels * ratio, 6)))


def top_share(scores: Tensor, ratio: float) -> Tensor:
    """Eq. 2: True at the K best pixels of each token. scores [B, T, N] -> bool [B, T, N]."""
    best = scores.topk(count_selected(scores.shape[-1], ratio), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def above_zero(scores: Tensor) -> Tensor:
    """Table 4a's sigmoid(S) > 0.5, the best pixel always kept so that no row is empty."""
    best = scores.argmax(dim=-1, keepdim=True)
    return (scores > 0).scatter_(-1, best, True)


def pixel_weights(scores: Tensor, selected: Tensor, weighting: str) -> Tensor:
    """Eq. 3: M * P in its four variants (`SelectionConfig.weighting`), float32 [B, T, N]."""
    if weighting == "masked":
        return scores.masked_fill(~selected, float("-inf")).softmax(dim=-1)
    if weighting == "unmasked":
        return scores.softmax(dim=-1) * selected
    if weighting == "raw":
        return scores * selected
    return selected.float()


class VisualSelection(nn.Module):
    """Visual expression tokens from word tokens and pixels (see the module docstring)."""

    def __init__(self, config: SelectionConfig, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        # pixels: encoder channels to the text width. project_*: the two projections of Eq. 1.
        self.pixels = nn.Linear(channels, width)
        self.project_pixels = nn.Linear(width, width)
        self.project_tokens = nn.Linear(width, width)
        expression = config.element == "expression"
        # No residual: E asks and what the pixels answer is the expression, so its size, which the
        # division by K makes tiny, does not matter. The variance of E is then near 1e-6 (N = 225),
        # below a norm's usual eps, which would shrink the question to a third.
        eps = 1e-12 if config.pre_norm else None
        self.attend = (
            AttentionBlock(width, config.heads, norm_eps=eps, residual=False)
            if expression and config.attention != "none"
            else None
        )
        self.relate = AttentionBlock(width, config.heads) if expression else None
        self.queries = (
            nn.Parameter(torch.randn(config.max_tokens, width) * 0.02)
            if config.cues == "none"
            else None
        )

    def forward(self, tokens: Tensor, token_mask: Tensor, features: Tensor) -> Selected:
        """tokens [B, T, D], token_mask [B, T], features [B, N, C] -> `Selected`."""
        pixels = self.pixels(features)  # [B, N, D]
        cue, cue_mask = self._cue(tokens, token_mask)
        keys = self.project_pixels(pixels)
        scores = cosine_scores(self.project_tokens(cue), keys)
        global_scores = (
            scores[:, 0]
            if self.config.cues in ("both", "global")
            else cosine_scores(self.project_tokens(tokens[:, :1]), keys)[:, 0]
        )
        if self.config.element == "all":
            allowed = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
            return Selected(pixels, allowed, scores, torch.ones_like(scores).bool(), global_scores)
        selected = self._select(scores)
        if self.config.element == "topk":
            chosen = self._select(global_scores[:, None])[:, 0]
            return Selected(pixels, chosen, scores, selected, global_scores)
        expression = self._extract(scores, selected, pixels)
        if self.attend is not None:
            allowed_pixels = selected if self.config.attention == "selected" else None
            expression = self.attend(expression, pixels, allowed_pixels)
        assert self.relate is not None
        expression = self.relate(expression, allowed=cue_mask)
        return Selected(expression, cue_mask, scores, selected, global_scores)

    def _cue(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that ask, and which of them are real (Table 3b)."""
        if self.config.cues == "global":
            return tokens[:, :1], token_mask[:, :1]
        if self.config.cues == "local":
            return tokens[:, 1:], token_mask[:, 1:]
        if self.queries is not None:
            if tokens.shape[1] > len(self.queries):
                raise ConfigError(
                    f"{tokens.shape[1]} tokens, but only {len(self.queries)} learned queries",
                    remedy="let selection.max_tokens be at least the tokenizer's max_words",
                )
            learned = self.queries[: tokens.shape[1]].to(tokens.dtype)
            return learned.expand(tokens.shape[0], -1, -1), token_mask
        return tokens, token_mask

    def _select(self, scores: Tensor) -> Tensor:
        if self.config.method == "topk":
            return top_share(scores, self.config.ratio)
        return above_zero(scores)

    def _extract(self, scores: Tensor, selected: Tensor, pixels: Tensor) -> Tensor:
        """Eq. 4. [B, T, N] x [B, N, D] -> [B, T, D]; [B, T, N, D] is never built."""
        weights = pixel_weights(scores, selected, self.config.weighting)
        extracted = weights.to(pixels.dtype) @ pixels
        if self.config.divide_by_k:
            extracted = extracted / selected.sum(dim=-1, keepdim=True).to(pixels.dtype)
        return extracted
