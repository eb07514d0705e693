"""The GRU adapter: sentences one by one without packing, padding, one word, autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from refseg.nn.gru import GruTextConfig, GruWords, max_over_words

SMALL = {"vocab_size": 50, "word_width": 5, "hidden": 6}
LENGTHS = (4, 1, 7, 2)


def gru(**changes: Any) -> GruWords:
    torch.manual_seed(0)
    return GruWords(GruTextConfig.model_validate({**SMALL, **changes}))


def sentences(width: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(0, 50, (len(LENGTHS), width))
    return ids, torch.arange(width) < torch.tensor(LENGTHS)[:, None]


def cell(made: GruWords, layer: int, suffix: str) -> nn.GRUCell:
    """A cell with the weights of one direction of one layer."""
    inside = made.config.word_width if layer == 0 else made.width
    copy = nn.GRUCell(inside, made.config.hidden)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        value = getattr(made.gru, f"{name}_l{layer}{suffix}")
        getattr(copy, name).data.copy_(value.data)
    return copy


def literal(made: GruWords, ids: list[int]) -> Tensor:
    """One sentence, one word after the other, there and back: [T, 2 * hidden]."""
    steps = list(made.words.weight[ids])
    for layer in range(made.config.layers):
        found = []
        for suffix in ("", "_reverse"):
            step, state, states = cell(made, layer, suffix), torch.zeros(made.config.hidden), []
            for x in reversed(steps) if suffix else steps:
                state = step(x[None], state[None])[0]
                states.append(state)
            found.append(states[::-1] if suffix else states)
        steps = [torch.cat(pair) for pair in zip(*found, strict=True)]
    return torch.stack(steps)


@pytest.mark.parametrize("layers", [1, 2])
def test_it_is_a_loop_over_words(layers: int) -> None:
    made = gru(layers=layers)
    ids, mask = sentences()
    features, sentence = made(ids, mask)
    assert made.width == features.shape[-1] == sentence.shape[-1] == 12
    for row, length in enumerate(LENGTHS):
        expected = literal(made, ids[row, :length].tolist())
        torch.testing.assert_close(features[row, :length], expected)
        torch.testing.assert_close(sentence[row], expected.max(dim=0).values)
        assert not features[row, length:].any()


def outcome(
    made: GruWords, ids: Tensor, mask: Tensor, bf16: bool = False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Features, sentences, and all gradients of a sum that weighs every number differently."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features, sentence = made(ids, mask)
    torch.manual_seed(2)
    word_weights, weights = torch.randn(len(ids), 7, 12), torch.randn(len(ids), 12)
    total = (features[:, :7] * word_weights).sum() + (sentence * weights).sum()
    return features, sentence, list(torch.autograd.grad(total, list(made.parameters())))


@pytest.mark.parametrize("width", [7, 11])
def test_padding_changes_nothing(width: int) -> None:
    made = gru()
    ids, mask = sentences()
    features, sentence, gradients = outcome(made, ids, mask)
    other = torch.randint(-100, 1000, (len(LENGTHS), width))  # ids that no table has among them
    wider = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    other[wider] = ids[mask]
    again = outcome(made, other, wider)
    assert torch.equal(again[0][:, :7], features)
    assert not again[0][:, 7:].any()
    assert torch.equal(again[1], sentence)
    for one, two in zip(gradients, again[2], strict=True):
        assert torch.equal(one, two)
    said = set(ids[mask].tolist())
    for word, row in enumerate(gradients[0]):  # the table's
        assert bool(row.any()) == (word in said)


def test_a_batch_is_its_sentences() -> None:
    made = gru()
    ids, mask = sentences()
    features, sentence = made(ids, mask)
    for row in range(len(LENGTHS)):
        alone, told = made(ids[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(alone[0], features[row])
        torch.testing.assert_close(told[0], sentence[row])


def test_one_word_is_its_own_maximum() -> None:
    features, sentence = gru()(torch.tensor([[3], [4]]), torch.ones(2, 1, dtype=torch.bool))
    assert torch.equal(features[:, 0], sentence)


def test_max_over_words_is_a_loop() -> None:
    _, mask = sentences()
    features = torch.randn(len(LENGTHS), 7, 3) - 5  # all below the zeros of padding
    for row, found in enumerate(max_over_words(features, mask)):
        expected = [max(features[row, t, c] for t in range(LENGTHS[row])) for c in range(3)]
        assert found.tolist() == expected
    features.requires_grad_()
    nothing = max_over_words(features, torch.zeros_like(mask))
    assert not nothing.any()
    nothing.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()


def test_under_bf16_it_is_what_it_is_without() -> None:
    made = gru()
    ids, mask = sentences()
    expected = outcome(made, ids, mask)
    found = outcome(made, ids, mask, bf16=True)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    for one, two in zip(found[2], expected[2], strict=True):
        assert torch.equal(one, two)


def test_frozen_words() -> None:
    made = gru(frozen_words=True)
    made(*sentences())[1].sum().backward()
    assert made.words.weight.grad is None
    assert all(p.grad is not None for p in made.gru.parameters())


def test_dropout_only_while_training() -> None:
    made, (ids, mask) = gru(drop=0.5).eval(), sentences()
    assert torch.equal(made(ids, mask)[0], made(ids, mask)[0])
    made.train()
    assert not torch.equal(made(ids, mask)[0], made(ids, mask)[0])


def test_the_full_size() -> None:
    """SeqTR's, 2.5 M without the table."""
    with torch.device("meta"):
        made = GruWords(GruTextConfig())
    count = sum(p.numel() for p in made.gru.parameters())
    assert count == 2 * 3 * 512 * (300 + 512 + 2)
    assert count / 1e6 == pytest.approx(2.5, abs=0.05)
    assert made.words.weight.shape == (30522, 300)
    assert made.width == 1024


@pytest.mark.parametrize(
    ("row", "message"), [([False, True], "come first"), ([False, False], "no words")]
)
def test_gaps_and_silence_are_refused(row: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gru()(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[True, True], row]))


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"drop": 1.0}, {"heads": 2}, {"kind": "bert"}])
def test_contradictions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GruTextConfig(**wrong)
