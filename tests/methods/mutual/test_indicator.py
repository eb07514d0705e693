"""The indicator is an addition of two vectors, to the bit (fact 1)."""

from __future__ import annotations

import pytest
import torch

from refseg.methods.mutual.config import IndicatorConfig
from refseg.methods.mutual.indicator import Indicator
from tests.methods.mutual.toy import IMAGE_OF, TARGET, C, E, N, proposals


def test_every_row_to_the_bit() -> None:
    torch.manual_seed(0)
    indicator = Indicator(IndicatorConfig(), C)
    objects = proposals().float()
    marked = indicator.mark(objects, IMAGE_OF, TARGET)
    assert marked.shape == (E, N, C)
    for e in range(E):
        for i in range(N):
            vector = indicator.positive if i == TARGET[e] else indicator.negative
            assert torch.equal(marked[e, i], objects[IMAGE_OF[e], i] + vector)
    assert torch.equal(indicator.difference(), indicator.positive - indicator.negative)


def test_both_vectors_get_their_share_of_gradient() -> None:
    """I_neg's is N - 1 times I_pos's here, and nothing when the target is alone."""
    indicator = Indicator(IndicatorConfig(), C)
    indicator.mark(proposals(), IMAGE_OF, TARGET).sum().backward()
    assert torch.equal(indicator.positive.grad, torch.full((C,), float(E)))
    assert torch.equal(indicator.negative.grad, torch.full((C,), float(E * (N - 1))))
    alone = Indicator(IndicatorConfig(), C)
    alone.mark(proposals()[:, :1], IMAGE_OF, torch.zeros_like(TARGET)).sum().backward()
    assert not alone.negative.grad.any()


def test_target_only_is_the_target() -> None:
    indicator = Indicator(IndicatorConfig(target_only=True), C)
    assert list(indicator.parameters()) == []
    objects = proposals()
    marked = indicator.mark(objects, IMAGE_OF, TARGET)
    assert marked.shape == (E, 1, C)
    for e in range(E):
        assert torch.equal(marked[e, 0], objects[IMAGE_OF[e], TARGET[e]])


@pytest.mark.parametrize("target", [-1, N])
def test_a_target_is_a_proposal(target: int) -> None:
    with pytest.raises(RuntimeError):
        Indicator(IndicatorConfig(), C).mark(proposals(), torch.tensor([0]), torch.tensor([target]))


def test_the_spread_is_that_of_the_config() -> None:
    torch.manual_seed(0)
    spread = Indicator(IndicatorConfig(), 4096).positive.detach().std()
    assert float(spread) == pytest.approx(1, abs=0.05)
    assert not Indicator(IndicatorConfig(init_std=0), 8).negative.any()
