"""Visual information selection: counts, weights, and three forms of one formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from refseg.methods.vega.config import SelectionConfig
from refseg.methods.vega.selection import (
    VisualSelection,
    above_zero,
    cosine_scores,
    count_selected,
    pixel_weights,
    top_share,
)
from tests.methods.vega.literal import LiteralSelection, attention, gathered_selection

B, T, N, C, D = 2, 7, 30, 12, 16


def module(seed: int = 0, **changes: Any) -> VisualSelection:
    torch.manual_seed(seed)
    made = VisualSelection(SelectionConfig(heads=4, **changes), C, D)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.double().eval()


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(B, T, D, generator=generator).double()
    pixels = torch.randn(B, N, C, generator=generator).double()
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[1, 4:] = False
    return tokens, mask, pixels


@pytest.mark.parametrize(
    ("ratio", "k"),
    [(0.1, 22), (0.2, 45), (0.3, 67), (0.4, 90), (0.5, 112), (0.6, 135), (0.7, 157), (0.8, 180)],
)
def test_k_at_the_papers_size(ratio: float, k: int) -> None:
    assert count_selected(225, ratio) == k
    chosen = top_share(torch.randn(1, 3, 225), ratio)
    assert (chosen.sum(-1) == k).all()


def test_k_elsewhere() -> None:
    assert count_selected(900, 0.3) == 270
    assert count_selected(2, 0.3) == 1, "never fewer than one pixel"
    assert count_selected(225, 1.0) == 225


@given(n=st.integers(1, 4000), percent=st.integers(1, 100))
@example(n=100, percent=29)
@example(n=90, percent=70)
def test_k_is_the_exact_fraction_cut_off(n: int, percent: int) -> None:
    """Integers know what 0.29 * 100 is; floats say 28.999999999999996."""
    assert count_selected(n, percent / 100) == max(1, n * percent // 100)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), ratio=st.floats(0.01, 1.0))
def test_selected_are_the_best(seed: int, ratio: float) -> None:
    scores = torch.randn(2, 3, 17, generator=torch.Generator().manual_seed(seed))
    chosen = top_share(scores, ratio)
    worst_in = scores.masked_fill(~chosen, float("inf")).amin(-1)
    best_out = scores.masked_fill(chosen, float("-inf")).amax(-1)
    assert (chosen.sum(-1) == count_selected(17, ratio)).all()
    assert (worst_in >= best_out).all()


def test_scores_are_cosines() -> None:
    tokens, pixels = torch.randn(2, 3, 8) * 50, torch.randn(2, 5, 8) * 0.01
    scores = cosine_scores(tokens, pixels)
    assert scores.shape == (2, 3, 5)
    for b in range(2):
        for t in range(3):
            for n in range(5):
                expected = F.cosine_similarity(tokens[b, t], pixels[b, n], dim=0)
                torch.testing.assert_close(scores[b, t, n], expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine_scores(tokens.bfloat16(), pixels.bfloat16()).dtype == torch.float32


def test_sigmoid_selection_keeps_positive_scores_and_never_nothing() -> None:
    scores = torch.tensor([[[0.2, -0.1, 0.0, 0.7], [-0.5, -0.2, -0.9, -0.3]]])
    expected = torch.tensor([[[True, False, False, True], [False, True, False, False]]])
    assert torch.equal(above_zero(scores), expected)
    assert torch.equal(above_zero(scores)[0, 0], scores[0, 0].sigmoid() > 0.5)


def test_masked_weights_sum_to_one_and_are_exactly_zero_elsewhere() -> None:
    scores = torch.rand(2, 4, 25) * 2 - 1
    chosen = top_share(scores, 0.3)
    weights = pixel_weights(scores, chosen, "masked")
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))
    assert (weights[~chosen] == 0).all()
    assert (weights[chosen] > 0).all()
    # With cosines and no temperature the weights hardly differ.
    best = weights.amax(-1) / weights.masked_fill(~chosen, 1).amin(-1)
    assert (best <= 2.718281828**2).all()


@pytest.mark.parametrize("weighting", ["masked", "unmasked", "raw", "none"])
def test_weights_against_a_loop(weighting: str) -> None:
    scores = (torch.rand(1, 2, 9) * 2 - 1).double()
    chosen = top_share(scores, 0.34)
    weights = pixel_weights(scores, chosen, weighting)
    for t in range(2):
        row, kept = scores[0, t], chosen[0, t]
        over_selected = float(sum(s.exp() for s, k in zip(row, kept, strict=True) if k))
        over_all = float(row.exp().sum())
        for n in range(9):
            value = {
                "masked": float(row[n].exp()) / over_selected,
                "unmasked": float(row[n].exp()) / over_all,
                "raw": float(row[n]),
                "none": 1.0,
            }[weighting]
            expected = value if kept[n] else 0.0
            assert float(weights[0, t, n]) == pytest.approx(expected, abs=1e-12)


def test_extraction_lies_in_the_convex_hull_of_the_selected() -> None:
    """The weights are found again from E and the selected pixels: non-negative, summing to one."""
    selection = module(divide_by_k=False, ratio=0.2)
    tokens, _, features = inputs()
    pixels = selection.pixels(features)
    scores = cosine_scores(
        selection.project_tokens(tokens), selection.project_pixels(pixels)
    ).double()
    chosen = top_share(scores, 0.2)
    extracted = selection._extract(scores, chosen, pixels)
    for b in range(B):
        for t in range(T):
            mine = pixels[b, chosen[b, t]]  # 6 points in 16 dimensions: weights are unique
            found = torch.linalg.lstsq(mine.T, extracted[b, t, :, None]).solution[:, 0]
            torch.testing.assert_close(mine.T @ found, extracted[b, t], atol=1e-8, rtol=0)
            assert (found > 0).all()
            assert float(found.detach().sum()) == pytest.approx(1, abs=1e-8)
    divided = module(divide_by_k=True, ratio=0.2)._extract(scores, chosen, pixels)
    torch.testing.assert_close(divided * count_selected(N, 0.2), extracted)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("divide", [True, False])
def test_three_forms_of_one_module(ratio: float, divide: bool) -> None:
    """Masked matrices == the pseudocode's [B, T, N, D] == every token gathering its K pixels."""
    selection = module(ratio=ratio, divide_by_k=divide)
    tokens, mask, features = inputs()
    with torch.no_grad():
        ours = selection(tokens, mask, features)
        literal, row = LiteralSelection(selection)(tokens, mask, features)
        gathered = gathered_selection(selection, tokens, mask, features)
    real = mask[..., None]
    torch.testing.assert_close(ours.guidance * real, literal * real, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.guidance * real, gathered * real, atol=1e-5, rtol=0)
    # cosine_scores is float32 on purpose
    torch.testing.assert_close(ours.global_scores.double(), row, atol=1e-6, rtol=0)
    assert torch.equal(ours.guidance_mask, mask)
    assert ours.guidance.abs().amax() > 0.1


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def test_the_four_dimensional_tensor_is_never_built() -> None:
    selection = module()
    tokens, mask, features = inputs()
    with Largest() as ours:
        selection(tokens, mask, features).guidance.sum().backward()
    with Largest() as literal:
        LiteralSelection(selection)(tokens, mask, features)[0].sum().backward()
    assert literal.numel >= B * T * N * D
    assert ours.numel < B * T * N * D / 2


def test_the_order_of_pixels_does_not_matter() -> None:
    selection = module()
    tokens, mask, features = inputs()
    turn = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        straight = selection(tokens, mask, features)
        turned = selection(tokens, mask, features[:, turn])
    torch.testing.assert_close(straight.guidance, turned.guidance, atol=1e-6, rtol=0)
    torch.testing.assert_close(straight.scores[..., turn], turned.scores, atol=1e-6, rtol=0)


def test_all_of_the_pixels_selected_is_all_pixels() -> None:
    tokens, mask, features = inputs()
    with torch.no_grad():
        everything = module(ratio=1.0)(tokens, mask, features)
        unmasked = module(ratio=1.0, weighting="unmasked", attention="all")(tokens, mask, features)
    assert everything.selected.all()
    torch.testing.assert_close(everything.guidance, unmasked.guidance, atol=1e-7, rtol=0)


def test_padded_words_are_not_heard() -> None:
    selection = module()
    tokens, mask, features = inputs()
    changed = torch.where(mask[..., None], tokens, torch.randn_like(tokens) * 9)
    longer = F.pad(changed, (0, 0, 0, 4), value=3.0)
    with torch.no_grad():
        before = selection(tokens, mask, features)
        after = selection(longer, F.pad(mask, (0, 4)), features)
    kept = mask[..., None]
    torch.testing.assert_close(
        before.guidance * kept, after.guidance[:, :T] * kept, atol=1e-7, rtol=0
    )
    assert not after.guidance_mask[:, T:].any()


@pytest.mark.parametrize("scale", [0.02, 0.5, 7.0, 300.0])
def test_the_size_of_e_does_not_change_what_it_asks(scale: float) -> None:
    """Fact 13: pre-normalised, so 1/K cannot flatten the cross-attention (up to the norm's eps)."""
    selection = module()
    assert selection.attend is not None
    tokens, _, features = inputs()
    with torch.no_grad():
        pixels = selection.pixels(features)
        scores = cosine_scores(selection.project_tokens(tokens), selection.project_pixels(pixels))
        chosen = top_share(scores, 0.3)
        e = selection._extract(scores.double(), chosen, pixels) * count_selected(N, 0.3)
        ask, norm = selection.attend.attention, selection.attend.norm
        torch.testing.assert_close(
            ask(norm(e), pixels, chosen), ask(norm(scale * e), pixels, chosen), atol=2e-2, rtol=0
        )
        # No residual around E, so the expression as a whole does not depend on its size either.
        block = selection.attend
        torch.testing.assert_close(
            block(scale * e, pixels, chosen), block(e, pixels, chosen), atol=2e-2, rtol=0
        )


@pytest.mark.parametrize("n", [225, 900])
def test_dividing_by_k_still_asks_a_question(n: int) -> None:
    """At the paper's sizes E / K is so small that a norm's usual eps would swallow it."""
    torch.manual_seed(0)
    selection = VisualSelection(SelectionConfig(), 64, 96)
    assert selection.attend is not None
    features, tokens = torch.randn(1, n, 64), torch.randn(1, 5, 96)
    with torch.no_grad():
        pixels = selection.pixels(features)
        scores = cosine_scores(selection.project_tokens(tokens), selection.project_pixels(pixels))
        chosen = top_share(scores, 0.3)
        asked = selection.attend.norm(selection._extract(scores, chosen, pixels))
    rms = float(asked.square().mean().sqrt())
    assert rms == pytest.approx(1, abs=0.05)


def test_gradients_reach_both_projections_through_the_weights_alone() -> None:
    selection = module()
    tokens, mask, features = inputs()
    selection(tokens, mask, features).guidance.square().sum().backward()
    for part in (selection.project_pixels, selection.project_tokens, selection.pixels):
        assert part.weight.grad is not None
        assert part.weight.grad.abs().sum() > 0


def test_cross_attention_sees_only_its_own_selection() -> None:
    """A pixel outside every selection of a token may be anything."""
    selection = module(cues="global")
    tokens, mask, features = inputs()
    with torch.no_grad():
        before = selection(tokens, mask, features)
        outside = ~before.selected[:, 0]
        pixels = selection.pixels(features)
        ask = selection.attend
        assert ask is not None
        e = selection._extract(before.scores.double(), before.selected, pixels)
        junk = torch.where(outside[..., None], torch.full_like(pixels, 50.0), pixels)
        torch.testing.assert_close(
            ask(e, pixels, before.selected), ask(e, junk, before.selected), atol=1e-9, rtol=0
        )
        free = attention(ask.attention, ask.norm(e), junk, None)
        assert (free - attention(ask.attention, ask.norm(e), pixels, None)).abs().amax() > 1


def test_cues_choose_who_asks() -> None:
    tokens, mask, features = inputs()
    with torch.no_grad():
        everyone = module(cues="both")(tokens, mask, features)
        sentence = module(cues="global")(tokens, mask, features)
        words = module(cues="local")(tokens, mask, features)
        nobody = module(cues="none")(tokens, mask, features)
    assert everyone.guidance.shape == (B, T, D)
    assert sentence.guidance.shape == (B, 1, D)
    assert words.guidance.shape == (B, T - 1, D)
    assert nobody.guidance.shape == (B, T, D)
    for other in (sentence, words):
        torch.testing.assert_close(other.global_scores, everyone.global_scores)
    torch.testing.assert_close(words.scores, everyone.scores[:, 1:])
    torch.testing.assert_close(sentence.scores, everyone.scores[:, :1])


def test_learned_queries_know_nothing_of_the_text() -> None:
    tokens, _, features = inputs()
    mask = torch.ones(B, T, dtype=torch.bool)
    selection = module(cues="none")
    with torch.no_grad():
        one = selection(tokens, mask, features)
        other = selection(tokens.flip(1) * 2, mask, features)
    torch.testing.assert_close(one.guidance, other.guidance)
    assert not torch.allclose(one.global_scores, other.global_scores)


@pytest.mark.parametrize("element", ["all", "topk"])
def test_pixels_as_the_visual_element(element: str) -> None:
    selection = module(element=element)
    tokens, mask, features = inputs()
    with torch.no_grad():
        result = selection(tokens, mask, features)
        torch.testing.assert_close(result.guidance, selection.pixels(features))
    expected = N if element == "all" else count_selected(N, 0.3)
    assert (result.guidance_mask.sum(-1) == expected).all()
    if element == "topk":
        best = top_share(result.global_scores[:, None], 0.3)[:, 0]
        assert torch.equal(result.guidance_mask, best)
