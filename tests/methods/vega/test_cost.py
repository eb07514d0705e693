"""Parameters and multiply-adds at paper size, against the counts of the notes. No memory is used.

The notes count LAVT: four gates (2.79 M; the last one is never used, we build three) and a first
decoder convolution that reads 1,024 + 512 channels (ours reads 512 + 512 after a 1 x 1
reduction, because the coarsest level attends to the guidance set first).
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from refseg.methods.vega import Vega, VegaConfig
from refseg.methods.vega.config import DecoderConfig
from refseg.methods.vega.decoder import GuidedDecoder

SWIN_B = (128, 256, 512, 1024)
SIDES = (120, 60, 30, 15)


@pytest.fixture(scope="module")
def vega() -> Vega:
    with torch.device("meta"):
        return Vega(VegaConfig())


def millions(*parts: nn.Module) -> float:
    return sum(p.numel() for part in parts for p in part.parameters()) / 1e6


def test_parameters_of_the_encoders(vega: Vega) -> None:
    assert millions(vega.encoder.pyramid) == pytest.approx(86.88, abs=0.005)
    assert millions(vega.text) == pytest.approx(108.89, abs=0.005)
    assert millions(vega.text.bert.embeddings) == pytest.approx(23.84, abs=0.005)


def test_parameters_of_the_fusion(vega: Vega) -> None:
    assert millions(vega.encoder.fusion) == pytest.approx(8.53, abs=0.005)
    last_gate = 2 * SWIN_B[3] ** 2 / 1e6
    assert millions(vega.encoder.gates) == pytest.approx(0.688, abs=0.0005)
    assert millions(vega.encoder.gates) + last_gate == pytest.approx(2.79, abs=0.005)


def test_parameters_of_the_selection(vega: Vega) -> None:
    """7.3 M in the notes, with a 0.6 M map that the paper does not name; ours has five maps."""
    assert vega.select is not None
    d, c = 768, 1024
    maps = (c * d + d) + 2 * (d * d + d)
    attention = 2 * (4 * (d * d + d) + 2 * d)
    assert millions(vega.select) == pytest.approx((maps + attention) / 1e6)


def test_parameters_of_the_decoder(vega: Vega) -> None:
    decoder = vega.decoder
    lavt_first = 9 * (1024 - 512) * 512 / 1e6  # reads the unreduced map
    lavt_head = 2 * 513 / 1e6
    assert millions(decoder.refine) + lavt_first + lavt_head == pytest.approx(20.65, abs=0.005)
    ours = millions(decoder.reduce, decoder.refine, decoder.head)
    assert ours == pytest.approx(18.82, abs=0.005)


def test_lavts_total_from_our_parts(vega: Vega) -> None:
    ours = millions(vega.encoder.pyramid, vega.text, vega.encoder.fusion, vega.encoder.gates)
    last_gate = 2 * SWIN_B[3] ** 2 / 1e6
    decoder = millions(vega.decoder.refine) + 9 * (1024 - 512) * 512 / 1e6 + 2 * 513 / 1e6
    assert ours + last_gate + decoder == pytest.approx(227.74, abs=0.005)


def test_the_embeddings_are_frozen_and_nothing_else(vega: Vega) -> None:
    frozen = [n for n, p in vega.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("text.bert.embeddings.") for name in frozen)


def gmacs(module: nn.Module, *inputs: object) -> float:
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        module(*inputs)
    return float(counter.get_total_flops()) / 2e9


def test_work_of_the_encoder(vega: Vega) -> None:
    assert gmacs(vega.encoder.pyramid, torch.empty(1, 3, 480, 480, device="meta")) == pytest.approx(
        85.2, abs=0.05
    )
    words = torch.empty(1, 21, 768, device="meta")
    mask = torch.ones(1, 21, dtype=torch.bool, device="meta")
    fusion = gates = 0.0
    for i, (side, channels) in enumerate(zip(SIDES, SWIN_B, strict=True)):
        pixels = torch.empty(1, side**2, channels, device="meta")
        fusion += gmacs(vega.encoder.fusion[str(i)], pixels, words, mask)
        if i < 3:
            gates += gmacs(vega.encoder.gates[str(i)], pixels, pixels)
    assert fusion == pytest.approx(4.0, abs=0.05)
    last_gate = 2 * SWIN_B[3] ** 2 * SIDES[3] ** 2 / 1e9
    assert gates + last_gate == pytest.approx(1.9, abs=0.05)


def decoder_gmacs(widths: tuple[int, int, int, int]) -> tuple[float, float]:
    """(convolutions, cross-attention) of a decoder with these widths."""
    with torch.device("meta"):
        decoder = GuidedDecoder(DecoderConfig(widths=widths), SWIN_B, 768)
    maps = [torch.empty(1, c, s, s, device="meta") for c, s in zip(SWIN_B, SIDES, strict=True)]
    guidance = torch.empty(1, 42, 768, device="meta")
    mask = torch.ones(1, 42, dtype=torch.bool, device="meta")
    whole = gmacs(decoder, maps, guidance, mask)
    listening = sum(
        gmacs(block, torch.empty(1, side**2, width, device="meta"), guidance, mask)
        for block, side, width in zip(decoder.listen, reversed(SIDES), widths, strict=True)
    )
    return whole - listening, listening


def test_work_of_the_decoder() -> None:
    convolutions, listening = decoder_gmacs((512, 512, 512, 512))
    lavt_first = 9 * 512 * 512 * 30**2 / 1e9
    reduce = 1024 * 512 * 15**2 / 1e9
    assert convolutions + lavt_first - reduce == pytest.approx(106.2, abs=0.05)
    assert listening == pytest.approx(10.8, abs=0.3)


def test_a_slim_decoder_does_an_eighth_of_the_work() -> None:
    wide, _ = decoder_gmacs((512, 512, 512, 512))
    slim, _ = decoder_gmacs((512, 256, 128, 128))
    assert slim == pytest.approx(11.8, abs=0.1)
    assert wide / slim > 8
