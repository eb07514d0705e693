"""The BERT adapter: the same numbers as transformers', frozen parts, padding."""

from __future__ import annotations

import pytest
import torch

from refseg.nn.text import BertTextConfig, BertWords

SMALL = {
    "vocab_size": 50,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "mlp_width": 32,
    "max_positions": 24,
    "drop": 0.0,
}


def bert(**changes: object) -> BertWords:
    torch.manual_seed(0)
    return BertWords(BertTextConfig.model_validate({**SMALL, **changes})).eval()


def test_it_is_transformers_bert() -> None:
    from transformers import BertConfig, BertModel

    theirs = BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=24,
        )
    ).eval()
    ours = bert()
    report = ours.bert.load_state_dict(theirs.state_dict(), strict=False)
    assert report.missing_keys == []
    assert all(key.startswith("pooler.") for key in report.unexpected_keys)
    ids = torch.randint(1, 50, (2, 7))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(ours(ids, mask), expected)


def test_padding_changes_no_word() -> None:
    ours = bert()
    ids = torch.randint(1, 50, (2, 5))
    mask = torch.ones(2, 5, dtype=torch.bool)
    longer = torch.cat([ids, torch.randint(0, 50, (2, 4))], dim=1)
    with torch.no_grad():
        short = ours(ids, mask)
        long = ours(longer, torch.nn.functional.pad(mask, (0, 4)))
    torch.testing.assert_close(short, long[:, :5], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [("none", {"embeddings", "encoder"}), ("embeddings", {"encoder"}), ("all", set())],
)
def test_frozen_parts(frozen: str, trained: set[str]) -> None:
    parts = {n.split(".")[1] for n, p in bert(frozen=frozen).named_parameters() if p.requires_grad}
    assert parts == trained


def test_there_is_no_pooler() -> None:
    assert not [name for name, _ in bert().named_parameters() if "pooler" in name]


def test_dropout_only_while_training() -> None:
    ours = bert(drop=0.5)
    ids, mask = torch.randint(1, 50, (1, 5)), torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(ours(ids, mask), ours(ids, mask))
        ours.train()
        assert not torch.equal(ours(ids, mask), ours(ids, mask))
