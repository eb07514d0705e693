"""What a proposal looks like: pooled under its mask, added to O, taught by the heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.mutual.appearance import pool
from refseg.methods.mutual.model import Mutual
from refseg.methods.mutual.proposals import Level, Proposals
from tests.methods.toy import toy_batch, toy_samples
from tests.methods.toy_configs import annotated_config, mutual_config


def method(**changes: object) -> Mutual:
    torch.manual_seed(0)
    return Mutual(mutual_config(appearance=True, **changes))


def test_pooling_is_a_mean_under_each_mask() -> None:
    torch.manual_seed(1)
    masks = 3 * torch.randn(2, 3, 8, 8)
    maps = (torch.randn(2, 5, 8, 8), torch.randn(2, 4, 4, 4))
    found = pool(Proposals(torch.zeros(2, 3, 6), None, (Level(masks, masks),), maps))
    for image in range(2):
        for proposal in range(3):
            wanted: list[Tensor] = []
            for part in maps:
                side = part.shape[2]
                cells = F.avg_pool2d(masks[image, proposal].sigmoid()[None], 8 // side)[0]
                mean = (part[image] * cells).sum(dim=(1, 2)) / cells.sum()
                wanted.append(mean)
            torch.testing.assert_close(found[image, proposal], torch.cat(wanted))


def gradients(made: Mutual, term: str) -> dict[str, bool]:
    """Part -> whether the term moves it."""
    batch = toy_batch(toy_samples(2), share_images=True)
    made.zero_grad()
    made.loss(made(batch), batch)[term].backward()
    parts = {"appearance": made.appearance, "backbone": made.extractor.backbone}  # type: ignore[attr-defined]
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in parts.items()
    }


@pytest.mark.parametrize("term", ["selection", "generation"])
def test_heads_teach_it_and_the_backbone_through_it(term: str) -> None:
    assert gradients(method(), term) == {"appearance": True, "backbone": True}
    alone = {"appearance": True, "backbone": False}  # the rows "E2E off"
    assert gradients(method(end_to_end=False), term) == alone


def test_masks_learn_nothing_from_it() -> None:
    assert gradients(method(), "mask") == {"appearance": False, "backbone": True}


def test_it_is_added_and_off_by_default() -> None:
    made, batch = method().eval(), toy_batch(toy_samples(2), share_images=True)
    with torch.no_grad():
        bare = made.extractor(batch)
        shown = made.propose(batch)
        assert made.appearance is not None
        torch.testing.assert_close(shown.features, bare.features + made.appearance(bare))
        torch.testing.assert_close(made.encode_image(batch).features, shown.features)
        plain = Mutual(mutual_config()).eval()
        torch.testing.assert_close(plain.propose(batch).features, plain.extractor(batch).features)


def test_annotated_objects_have_none() -> None:
    with pytest.raises(ValueError, match="no pixels"):
        type(mutual_config())(
            **{**mutual_config(annotated_config()).model_dump(), "appearance": True}
        )
