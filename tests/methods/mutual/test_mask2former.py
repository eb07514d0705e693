"""The proposal extractor and the traps of transformers' Mask2Former."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from refseg.errors import DataError
from refseg.methods.mutual.config import Mask2FormerExtractorConfig, ResNetVisionConfig
from refseg.methods.mutual.mask2former import Mask2FormerExtractor, fill_boxes, net_config
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.pretraining import ProposalLearner
from refseg.nn.vision import SwinVisionConfig
from refseg.types import Batch, Objects
from tests.methods.mutual.toy import FIRST, RESNET, first_weight
from tests.methods.toy import losses, toy_batch, toy_samples, without_labels
from tests.methods.toy_configs import mask2former_config, toy_vision

BOTH = pytest.mark.parametrize("kind", sorted(FIRST))


def extractor(kind: str = "swin", **changes: Any) -> Mask2FormerExtractor:
    torch.manual_seed(0)
    backbone = toy_vision() if kind == "swin" else RESNET
    return Mask2FormerExtractor(mask2former_config(backbone=backbone, **changes)).eval()


def batch_of(images: int = 2, **options: Any) -> Batch:
    return toy_batch(toy_samples(images), share_images=True, **options)


def empty_objects() -> Objects:
    return Objects(np.zeros(0, np.int64), (), np.zeros((0, 4), np.float32), ())


def test_o_is_the_normalised_hidden_state() -> None:
    made, images = extractor(), batch_of().images
    norm = made.net.transformer_module.decoder.layernorm
    nn.init.normal_(norm.weight)  # as trained; a fresh norm hardly differs from none
    with torch.no_grad():
        raw = made.net(images).transformer_decoder_last_hidden_state  # [I, N, C]
        features = made.extract(images).features
    assert features.shape == (2, 8, 32)
    torch.testing.assert_close(features, norm(raw))
    assert (features - raw).abs().max() > 0.1


@BOTH
def test_levels_are_what_transformers_predicts(kind: str) -> None:
    made, images = extractor(kind), batch_of().images
    with torch.no_grad():
        theirs = made.whole(images, output_auxiliary_logits=True)
        levels = made.extract(images).levels
    assert len(levels) == made.config.layers + 1  # the queries' own prediction is one more
    assert levels[0].masks.shape == (2, 8, *((32, 32) if kind == "swin" else (16, 16)))
    last = (theirs.masks_queries_logits, theirs.class_queries_logits)
    others = [
        (one["masks_queries_logits"], one["class_queries_logits"])
        for one in theirs.auxiliary_logits
    ]
    for level, (masks, classes) in zip(levels, [*others, last], strict=True):
        torch.testing.assert_close(level.masks, masks)
        torch.testing.assert_close(level.classes, classes)


def test_masks_are_products_of_o_and_the_pixels() -> None:
    made, images = extractor(), batch_of().images
    with torch.no_grad():
        found = made.extract(images)
        pixels = made.net.pixel_level_module(images).decoder_last_hidden_state
        embed = made.net.transformer_module.decoder.mask_predictor.mask_embedder
        masks = torch.einsum("inc,ichw->inhw", embed(found.features), pixels)
    torch.testing.assert_close(found.masks, masks)


@BOTH
def test_weights_are_in_transformers_format(kind: str) -> None:
    """All of a public Mask2Former's weights have a place, but the loss's and an unused norm's."""
    from transformers import Mask2FormerForUniversalSegmentation

    made = extractor(kind)
    theirs = set(Mask2FormerForUniversalSegmentation(net_config(made.config)).state_dict())
    ours = set(made.whole.state_dict())
    assert ours <= theirs
    unused = {name for name in theirs - ours if not name.startswith("criterion.")}
    assert {name.rsplit(".", 2)[1] for name in unused} <= {"layernorm"}


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [
        (ResNetVisionConfig(), 63.0),
        (SwinVisionConfig(image_size=384, depths=(2, 2, 18, 2), window=12), 106.9),
    ],
    ids=["ResNet-101", "Swin-B"],
)
def test_the_papers_sizes(backbone: Any, millions: float) -> None:
    classes = tuple(map(str, range(80)))
    with torch.device("meta"):
        made = Mask2FormerExtractor(Mask2FormerExtractorConfig(backbone=backbone, classes=classes))
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("gradients", [True, False])
def test_batch_norm_is_frozen_in_statistics_and_in_weights(gradients: bool) -> None:
    """Trap 5: a plain BatchNorm changes its buffers in train mode, under no_grad too."""
    learner = ProposalLearner(mask2former_config(backbone=RESNET))
    norms = [m for m in learner.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in norms]
    batch = batch_of()
    learner.eval().train()
    assert not any(m.training for m in norms)
    with torch.set_grad_enabled(gradients):
        terms = losses(learner, batch)
    if gradients:
        optimiser = torch.optim.AdamW(learner.parameters(), lr=0.1, weight_decay=0.1)
        terms["total"].backward()
        optimiser.step()
    for norm, old in zip(norms, before, strict=True):
        for name, value in norm.state_dict().items():
            assert torch.equal(value, old[name]), name
    plain = nn.BatchNorm2d(3).train()  # guards the test: this is what would happen
    with torch.no_grad():
        plain(batch.images)
    assert plain.running_mean is not None
    assert plain.running_mean.any()


@BOTH
def test_it_learns_and_covers_its_parameters(kind: str) -> None:
    learner = ProposalLearner(extractor(kind).config)
    batch, first = batch_of(), first_weight(kind, learner)
    groups = learner.parameter_groups()  # raises if one is missing or twice
    assert {g.name.split(".")[0] for g in groups} == {"backbone", "extractor"}
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    seen = []
    for _ in range(6):
        terms = losses(learner, batch)
        assert set(terms) == {"class", "mask", "dice", "total"}
        seen.append(float(terms["total"].detach()))
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
    assert first.grad is not None
    assert first.grad.any()
    assert seen[-1] < seen[0]
    assert learner.loss_weight(batch) == 4


def test_what_is_added_to_features_by_place_is_not_decayed() -> None:
    """As in Mask2Former's own recipe: Swin's absolute positions, levels, queries."""
    made = extractor()
    decayed = {id(p) for g in made.parameter_groups() if g.decay_scale for p in g.parameters}
    added = {
        name.removesuffix(".weight").rsplit(".", 1)[-1]: id(parameter) in decayed
        for name, parameter in made.named_parameters()
        if "_embed" in name and "patch" not in name and "mask_embedder" not in name
    }
    added |= {"position_embeddings": id(made.vision.embeddings.position_embeddings) in decayed}
    assert {"position_embeddings", "level_embed", "queries_embedder"} <= set(added)
    assert not any(added.values()), added
    assert id(first_weight("swin", made)) in decayed


def test_an_image_without_instances_is_an_image() -> None:
    """Beside others and alone: every query learns that nothing is there."""
    samples = toy_samples(2)
    bare = [replace(s, objects=empty_objects(), target=None) for s in samples[:2]]
    learner = ProposalLearner(mask2former_config()).eval()
    for chosen, count in (([*bare, *samples[2:]], 2), (bare, 0)):
        batch = toy_batch(chosen, share_images=True)
        proposals = learner(batch)
        matching = learner.extractor.match(proposals, objects_of(batch))
        assert int((matching.proposal >= 0).sum()) == count
        assert (matching.proposal[0] == -1).all()
        terms = losses(learner, batch)
        assert all(bool(value.isfinite()) for value in terms.values())
        assert bool(terms["mask"] > 0) == (count > 0)
        terms["total"].backward()


def test_more_objects_than_queries() -> None:
    learner = ProposalLearner(mask2former_config(queries=1)).eval()
    batch = batch_of()
    matching = learner.extractor.match(learner(batch), objects_of(batch))
    assert (matching.proposal >= 0).sum(dim=1).tolist() == [1, 1]
    losses(learner, batch)["total"].backward()


def test_one_kind_of_object_needs_no_category() -> None:
    """Nor does it heed one: what is granted besides changes neither matching nor loss."""
    learner = ProposalLearner(mask2former_config(classes=("object",))).eval()
    assert learner.extractor.needs.granted == {"text", "mask"}
    batch = batch_of()
    bare = replace(batch, objects=replace(objects_of(batch), categories=None, boxes=None))
    seen = []
    for one in (batch, bare):
        proposals = learner(one)
        assert proposals.levels[0].classes.shape[-1] == 2
        seen.append((learner.extractor.match(proposals, objects_of(one)), losses(learner, one)))
    (k, terms), (other_k, other_terms) = seen
    assert torch.equal(k.proposal, other_k.proposal)
    assert torch.equal(terms["total"], other_terms["total"])


def test_several_kinds_need_their_names() -> None:
    made, batch = extractor(), batch_of()
    assert made.needs.granted == {"text", "mask", "category"}
    objects = objects_of(batch)
    nameless = replace(objects, categories=None)
    proposals = made(batch)
    found = made.match(proposals, nameless)  # a person's region has no name
    with pytest.raises(DataError, match=r'(?s)categories.*label "category"'):
        made.loss(proposals, nameless, found, 1.0)
    strange = replace(objects, categories=(("square", "dragon"), *objects.categories[1:]))
    with pytest.raises(DataError, match=r'(?s)"dragon".*method\.extractor\.classes'):
        made.match(proposals, strange)


@pytest.mark.parametrize("region", ["mask", "box"])
def test_without_its_labels_it_says_so(region: str) -> None:
    made, batch = extractor(region=region), batch_of()
    objects = replace(objects_of(batch), masks=None, has_mask=None, boxes=None)
    with pytest.raises(DataError, match=rf'(?s)need the {region}.*label "{region}"'):
        made.match(made(batch), objects)
    with pytest.raises(DataError, match="objects=True"):
        objects_of(without_labels(batch))


def test_data_without_pixels_are_refused() -> None:
    batch = replace(batch_of(), images=torch.zeros(2, 3, 0, 0))
    with pytest.raises(DataError, match="pixels=True"):
        extractor()(batch)


def test_an_object_without_a_pixel_is_nobodys() -> None:
    """Cut away by a crop: no proposal is taught to be an empty mask."""
    made, batch = extractor(), batch_of()
    objects = objects_of(batch)
    assert objects.masks is not None
    masks = objects.masks.clone()
    masks[0, 1] = False
    cut = replace(objects, masks=masks)
    assert made.targets(cut)[1].tolist() == [[True, False], [True, True]]
    found = made.match(made(batch), cut)
    assert (found.proposal >= 0).tolist() == [[True, False], [True, True]]


def test_boxes_are_filled_by_pixel_centres() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = 14 * torch.rand(2, 3, 2, 2, generator=generator) - 2
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1)
    boxes[0, 1] = torch.nan
    boxes[1, 2] = torch.tensor([0.0, 0.5, 1.5, 2.5])  # edges on centres: the near one counts
    filled = fill_boxes(boxes, (8, 10))
    assert filled.shape == (2, 3, 8, 10)
    for i in range(2):
        for k in range(3):
            x0, y0, x1, y1 = boxes[i, k].tolist()
            for y in range(8):
                for x in range(10):
                    inside = x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1
                    assert bool(filled[i, k, y, x]) == inside
    assert not filled[0, 1].any()
    assert filled[1, 2].nonzero().tolist() == [[0, 0], [1, 0]]


def test_the_box_variant_learns_boxes_and_sees_no_mask() -> None:
    learner = ProposalLearner(mask2former_config(region="box")).eval()
    assert learner.extractor.needs.granted == {"text", "box", "category"}
    batch = batch_of()
    objects = objects_of(batch)
    assert objects.boxes is not None
    boxes = objects.boxes.clone()
    boxes[0, 0] = torch.nan
    unstated = replace(objects, boxes=boxes, masks=None, has_mask=None)
    masks, known = learner.extractor.targets(unstated)
    assert known.tolist() == [[False, True], [True, True]]
    assert torch.equal(masks, fill_boxes(boxes, (64, 64)))
    assert objects.masks is not None
    assert objects.categories is not None
    for i, k in known.nonzero().tolist():  # a square fills its box, a disc does not
        is_square = objects.categories[i][k] == "square"
        assert torch.equal(masks[i, k], objects.masks[i, k]) == is_square
    terms = losses(learner, replace(batch, objects=unstated))
    assert bool(terms["total"].isfinite())


@BOTH
def test_bits_are_compared_in_one_mode(kind: str) -> None:
    """Trap 6: with gradients other kernels may run, so bits agree within a mode alone.

    No answer hangs on the last bit: across modes all agrees to rounding, and the matching wholly.
    """
    made, batch = extractor(kind), batch_of()
    found = []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            one, again = made(batch), made(batch)
        assert torch.equal(one.features, again.features)
        for level, other in zip(one.levels, again.levels, strict=True):
            assert torch.equal(level.masks, other.masks)
            assert torch.equal(level.classes, other.classes)
        found.append(one)
    taught, asked = found
    assert taught.features.requires_grad
    assert not asked.features.requires_grad
    torch.testing.assert_close(taught.features, asked.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(taught.masks, asked.masks, atol=1e-4, rtol=1e-4)
    k = [made.match(one, objects_of(batch)).proposal for one in found]
    assert torch.equal(*k)


def test_padding_is_seen_a_little() -> None:
    """Fact 13: transformers masks no padding, so one padded size is used throughout."""
    made, images = extractor("resnet"), batch_of().images
    with torch.no_grad():
        masks = made.extract(images).levels[-1].masks
        wider = made.extract(nn.functional.pad(images, (0, 32))).levels[-1].masks
    assert wider.shape[-2:] == (16, 24)
    here = wider[..., :16]
    assert not torch.allclose(masks, here, atol=1e-4)
    both = torch.stack([masks.flatten(), here.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.5  # how like depends on the weights that are drawn
