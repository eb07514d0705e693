"""The rearranged mask decoder gives what transformers' own gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refseg.nn.sam_decoder import decode_single
from tests.nn.sam_toys import TOY, toy

SIZES = {
    "toy": TOY,
    "four heads": TOY.model_copy(update={"heads": 4, "mlp_width": 8}),
    "one head, small image": TOY.model_copy(update={"heads": 1, "side": 32}),
    "one place": TOY.model_copy(update={"side": 16}),
}


def own_answer(
    decoder: torch.nn.Module, image: Tensor, places: Tensor, corners: Tensor
) -> tuple[Tensor, Tensor]:
    """transformers' decoder, all boxes of one image in its own batch axis."""
    found = decoder(
        image_embeddings=image[None],
        image_positional_embeddings=places[None],
        sparse_prompt_embeddings=corners[None],
        dense_prompt_embeddings=torch.zeros(1),
        multimask_output=False,
    )
    return found[0][0, :, 0], found[1][0, :, 0]


def inputs(side: int, boxes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    places = side // TOY.encoder.stride
    width = TOY.encoder.out
    return (
        torch.randn(width, places, places),
        torch.randn(width, places, places),
        torch.randn(boxes, 2, width),
    )


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("boxes", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_the_decoder_it_rearranges(name: str, boxes: int, seed: int) -> None:
    config = SIZES[name]
    decoder = toy(seed, config).mask_decoder
    given = inputs(config.side, boxes, seed)
    logits, iou = decode_single(decoder, *given)
    expected, expected_iou = own_answer(decoder, *given)
    assert logits.shape == (boxes, *expected.shape[1:])
    assert expected.std() > 1e-3  # lively enough to tell right from wrong
    scale = float(expected.abs().max())
    torch.testing.assert_close(logits, expected, atol=1e-5 * scale, rtol=1e-4)
    torch.testing.assert_close(iou, expected_iou, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("boxes", [2, 5])
def test_boxes_do_not_know_of_one_another(boxes: int) -> None:
    decoder = toy(2).mask_decoder
    image, places, corners = inputs(TOY.side, boxes, 3)
    together, iou = decode_single(decoder, image, places, corners)
    for index in range(boxes):
        alone, its_iou = decode_single(decoder, image, places, corners[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(its_iou[0], iou[index], atol=1e-5, rtol=1e-5)


def test_equal_whatever_weight_is_changed() -> None:
    """A bias left out of the rearrangement would go unnoticed where it happens to be small."""
    given = inputs(TOY.side, 2, 4)
    decoder = toy(3).mask_decoder
    before, iou_before = own_answer(decoder, *given)
    felt = 0
    for name, weight in decoder.named_parameters():
        kept = weight.data.clone()
        weight.data.add_(torch.randn_like(weight))
        expected, expected_iou = own_answer(decoder, *given)
        logits, iou = decode_single(decoder, *given)
        weight.data.copy_(kept)
        torch.testing.assert_close(
            logits, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4, msg=name
        )
        torch.testing.assert_close(iou, expected_iou, atol=1e-4, rtol=1e-4, msg=name)
        same = torch.allclose(expected, before, rtol=1e-3)
        felt += not (same and torch.allclose(iou_before, expected_iou, rtol=1e-3))
    # Not felt: the three other masks' maps (18), and biases of keys, which go in the softmax.
    assert felt == 120 - 18 - 7
