"""The whole of VEGA against its literal, one-at-a-time form, on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refseg.models import build_method
from refseg.types import Batch
from tests.methods.toy import toy_batch, toy_samples, vega_config, with_padding
from tests.methods.vega.literal import whole_model


def method(seed: int, **changes: Any) -> Any:
    """A VEGA whose weights are far from their start: gates open, biases and norms in play."""
    torch.manual_seed(seed)
    made = build_method("vega", vega_config(gate_zero_init=False, **changes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fast_equals_literal(seed: int) -> None:
    vega = method(seed)
    batch = with_padding(toy_batch(toy_samples(2), share_images=True), 3)
    with torch.no_grad():
        logits = vega(batch).logits
        for row in range(len(batch)):
            ids = batch.words[row, batch.word_mask[row]]
            literal = whole_model(vega, batch.images[batch.image_of[row]], ids)
            torch.testing.assert_close(logits[row], literal[0], atol=2e-4, rtol=2e-4)
    assert logits.std() > 0.05, "a flat answer would agree with anything"


def test_the_twin_notices_a_change() -> None:
    """Guards the test above: each part, disturbed on one side only, makes the two differ."""
    vega = method(0)
    batch: Batch = toy_batch(toy_samples(1))
    ids = batch.words[0, batch.word_mask[0]]
    with torch.no_grad():
        literal = whole_model(vega, batch.images[0], ids)
        for part in ("text", "encoder", "enhance", "enhance_pixels", "select", "decoder"):
            kept = {k: v.clone() for k, v in getattr(vega, part).state_dict().items()}
            for parameter in getattr(vega, part).parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            assert (vega(batch).logits[0] - literal[0]).abs().max() > 1e-3, part
            getattr(vega, part).load_state_dict(kept)
