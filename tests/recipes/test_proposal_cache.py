"""Kept proposals stand for the extractor: the same rollouts, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refseg.data.collate import collate
from refseg.errors import DataError, RunError
from refseg.methods.mutual.config import PolicyConfig
from refseg.methods.mutual.disambiguation import Disambiguation, Texts
from refseg.methods.mutual.proposals import Proposals
from refseg.models import Model
from refseg.recipes import proposal_cache
from refseg.recipes.proposal_cache import CachedProposals, keep_proposals, open_proposals
from refseg.types import Batch, Objects, Picture, Sample
from tests.methods.toy import preprocess, toy_model, toy_samples
from tests.methods.toy_configs import toy_tokenizer

IMAGES = 5
#: Rows of the records, in the order in which they are looked at.
ROWS = [3, 0, 4, 1, 2]


def samples() -> list[Sample]:
    """Two expressions an image; image 1 has one object, and so padding beside the others."""
    made = toy_samples(IMAGES)
    for place in (2, 3):
        objects = made[place].objects
        assert objects is not None
        made[place] = replace(made[place], objects=one_of(objects), target=0)
    return made


def one_of(objects: Objects) -> Objects:
    assert objects.categories is not None
    assert objects.boxes_xyxy is not None
    assert objects.masks is not None
    return Objects(
        objects.ann_ids[:1], objects.categories[:1], objects.boxes_xyxy[:1], objects.masks[:1]
    )


@dataclass
class Pictures:
    """What is asked of a data set."""

    samples: list[Sample]

    def picture(self, row: int) -> Picture:
        sample = self.samples[2 * row]
        return Picture(row, sample.image, sample.objects)


@pytest.fixture
def model() -> Model:
    made = toy_model("mutual", seed=2)
    with torch.no_grad():
        for parameter in made.method.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.method.eval()
    return made


def keep(model: Model, folder: Path, rows: Sequence[int] = ROWS, **more: Any) -> CachedProposals:
    told: list[tuple[int, int]] = []
    pictures: Any = Pictures(samples())
    kept = keep_proposals(
        model, pictures, rows, folder, lambda done, of: told.append((done, of)), **more
    )
    assert told == [] or told[-1] == (len(rows), len(rows))
    return kept


def blind(chosen: Sequence[Sample]) -> Batch:
    """The batch as step 2 gets it: no pixels, of the objects only who they are."""
    seen = []
    for sample in chosen:
        assert sample.objects is not None
        objects = Objects(sample.objects.ann_ids, sample.objects.categories)
        nothing = np.empty((*sample.image.shape[:2], 0), np.uint8)
        seen.append(replace(sample, image=nothing, objects=objects, mask=None, box_xyxy=None))
    return collate(seen, toy_tokenizer(), preprocess(), share_images=True)


def whole(chosen: Sequence[Sample]) -> Batch:
    return collate(chosen, toy_tokenizer(), preprocess(), share_images=True)


def learner(model: Model, source: Any = None) -> Disambiguation:
    def read(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = model.tokenizer.encode(list(texts))
        return torch.from_numpy(encoded.words), torch.from_numpy(encoded.mask)

    def cider(ids: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        return np.array([ann_id + len(text) / 100 for ann_id, text in zip(ids, texts, strict=True)])

    texts = Texts(model.tokenizer.decode, read, cider)
    return Disambiguation(model.method, PolicyConfig(beams=3), texts, source)


@pytest.mark.parametrize("order", [range(10), (8, 1, 3, 2), (3,), (9, 0, 8)])
def test_kept_proposals_give_the_extractors_rollout(
    model: Model, tmp_path: Path, order: Sequence[int]
) -> None:
    kept, chosen = keep(model, tmp_path / "kept"), [samples()[row] for row in order]
    seen, blind_batch = whole(chosen), blind(chosen)
    assert blind_batch.images.shape[-1] == 0
    with torch.no_grad():
        proposals = model.method.propose(seen)
        matching = model.method.match(proposals, seen)
        known = seen.objects.known  # type: ignore[union-attr]
        ours, match = kept(blind_batch)
    assert ours.levels == ()
    assert ours.features.dtype == torch.float32
    torch.testing.assert_close(ours.features, proposals.features, atol=2e-3, rtol=2e-3)
    assert torch.equal(match.proposal, matching.proposal)
    assert (match.proposal[~known] == -1).all()
    torch.testing.assert_close(match.iou[known], matching.iou[known], atol=1e-6, rtol=0)
    assert match.iou[~known].isnan().all()

    live, cached = learner(model)(seen), learner(model, kept)(blind_batch)
    torch.testing.assert_close(cached.clear, live.clear, atol=0.02, rtol=0.02)
    # With the features as they were, not rounded to 16 bits, nothing at all differs.
    wide = np.zeros(kept.features.shape, np.float32)
    for place, image_id in enumerate(dict.fromkeys(sample.image_id for sample in chosen)):
        wide[ROWS.index(image_id)] = proposals.features[place].numpy()
    held = Proposals(proposals.features.contiguous())
    live = learner(model, lambda batch: (held, matching))(seen)
    same = learner(model, replace(kept, features=wide))(blind_batch)  # type: ignore[type-var]
    for name in ("log_p", "mask", "rewards", "clear", "cider"):
        assert torch.equal(getattr(same, name), getattr(live, name)), name


def test_an_image_that_was_not_kept_is_named(model: Model, tmp_path: Path) -> None:
    kept, made = keep(model, tmp_path / "kept", ROWS[:3]), samples()
    assert kept.features.shape == (3, 8, 32)
    kept(blind([made[0], made[6]]))
    with pytest.raises(DataError, match="no kept proposals") as caught:
        kept(blind([made[0], made[2]]))
    assert caught.value.remedy


def test_of_an_image_without_objects_nothing_is_asked(model: Model, tmp_path: Path) -> None:
    kept, made = keep(model, tmp_path / "kept"), samples()
    nobody = replace(made[2], objects=Objects(np.zeros(0, np.int64), ()), target=None)
    for chosen in ([made[0], nobody], [nobody]):
        proposals, matching = kept(blind(chosen))
        assert len(proposals.features) == len(chosen)
        assert (matching.proposal[-1] == -1).all()
    rollout = learner(model, kept)(blind([made[0], nobody]))
    assert len(rollout.rewards) == 1


def test_it_looks_once_and_in_parts(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal_cache, "AT_ONCE", 2)
    kept = keep(model, tmp_path / "kept", made_from="this")
    monkeypatch.setattr(proposal_cache, "AT_ONCE", 16)
    together = keep(model, tmp_path / "other")
    for name in ("ann_ids", "image", "proposal"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(together, name))
    np.testing.assert_allclose(kept.features, together.features, atol=2e-3)
    assert kept.features.dtype == np.float16
    assert (np.diff(kept.ann_ids) > 0).all()

    monkeypatch.setattr(proposal_cache, "_look", None)  # nobody looks again
    again = keep(model, tmp_path / "kept", made_from="this")
    np.testing.assert_array_equal(again.features, kept.features)
    with pytest.raises(RunError, match="another model") as caught:
        open_proposals(tmp_path / "kept", "that")
    assert str(tmp_path) in caught.value.remedy


def test_what_was_interrupted_is_not_there(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    pictures: Any = Pictures(samples())
    with pytest.raises(KeyboardInterrupt):
        keep_proposals(model, pictures, ROWS, tmp_path / "kept", stop)
    assert list(tmp_path.iterdir()) == []
