"""An image-text pair learned from captions: what it reads, its loss by a loop, that it learns."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.data.tokens import train_wordpiece
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError, DataError
from refseg.methods.encoders.pairs import PairBatch, PairLearner
from refseg.nn.clip import Pixels
from refseg.nn.clip_pair import PairConfig
from refseg.nn.clip_weights import read_pair
from refseg.recipes.captions import PairBatches, Retrieval, read_captioned
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from tests.recipes.tris_small import TEXT, VISION, small_pair

NET = PreprocessConfig(size=64)


def test_pictures_come_with_their_own_captions(world: Path) -> None:
    found = read_captioned(str(world), "train", NET, 5)
    assert found.images.shape == (5, 64, 64, 3)
    lines = (world.parent / "captions.jsonl").read_text().splitlines()
    told = [tuple(json.loads(line)["captions"]) for line in lines]
    assert all(captions in told for captions in found.captions)
    assert not any(" left" in c or "behind" in c for cs in found.captions for c in cs)


def test_data_without_captions_is_refused(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare" / "scenes"
    folder.mkdir(parents=True)
    for file in world.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="no captions"):
        read_captioned(str(folder), "train", NET, None)


def test_captions_are_drawn_and_pictures_mirrored(world: Path) -> None:
    pictures = read_captioned(str(world), "train", NET, 6)
    texts = [caption for captions in pictures.captions for caption in captions]
    tokens = train_wordpiece(texts, size=300, max_words=48)
    batches = PairBatches(pictures, tokens, NET, 0.5, 0)
    plain = PairBatches(pictures, tokens, NET, 0.0, 0)
    mirrored = same = 0
    seen = set()
    for epoch in range(12):
        batch, straight = batches([0, 3], epoch), plain([0, 3], epoch)
        for row in range(2):
            flipped = torch.equal(batch.images[row], straight.images[row].flip(-1))
            mirrored, same = mirrored + flipped, same + (not flipped)
        seen.add(tokens.decode(batch.words[0][batch.word_mask[0]].tolist()))
        again = batches([3], epoch)
        assert torch.equal(again.images[0], batch.images[1])  # alone or together, the same draw
    assert mirrored > 5 < same
    assert len(seen) > 1


def test_the_loss_is_its_loop_both_ways() -> None:
    torch.manual_seed(0)
    learner = PairLearner(PairConfig(vision=VISION, text=TEXT)).eval()
    batch = PairBatch(
        torch.randn(3, 3, 64, 64), torch.randint(5, 300, (3, 6)), torch.ones(3, 6).bool()
    )
    with torch.no_grad():
        scores = learner(batch)
        loss = float(learner.loss(scores, batch)["total"])
        seen = learner.pair.embed_images(batch.images)
        read = learner.pair.embed_texts(batch.words, batch.word_mask)
        found = learner.found(batch)
    total = 0.0
    for i in range(3):
        row = np.array([float(seen[i] @ read[j]) / 0.07 for j in range(3)])
        column = np.array([float(seen[j] @ read[i]) / 0.07 for j in range(3)])
        total += (np.log(np.exp(row).sum()) - row[i] + np.log(np.exp(column).sum()) - column[i]) / 6
        assert bool(found[i]) == (int(column.argmax()) == i)
    assert loss == pytest.approx(total, rel=1e-4)


def test_retrieval_is_over_whole_groups(world: Path) -> None:
    pictures = read_captioned(str(world), "train", NET, 7)
    tokens = train_wordpiece([c for cs in pictures.captions for c in cs], size=300, max_words=48)
    learner = PairLearner(PairConfig(vision=VISION, text=TEXT)).eval()
    batches = PairBatches(pictures, tokens, NET, 0.0, 0)
    (name, share), *rest = Retrieval(batches)(learner).items()
    assert name == "found among 7"
    assert rest == []
    assert share == pytest.approx(float(learner.found(batches(list(range(7)), 0)).float().mean()))


def test_learning_tells_captions_apart(world: Path, tmp_path: Path) -> None:
    """Sixty steps on two dozen pictures; guessing finds one in as many."""
    train = small_pair(world).train.model_copy(
        update={"steps": 60, "batch_size": 16, "lr": 3e-3, "evaluate_every": 60, "save_every": 60}
    )
    data = small_pair(world).data.model_copy(update={"evaluate": "train", "evaluate_limit": 16})
    run_encoder(small_pair(world, train=train, data=data), tmp_path / "run", progress="none")
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    line = next(line for line in card.splitlines() if "found among 16" in line)
    assert float(line.split()[-1].rstrip("%")) > 30


def test_the_exported_pair_says_what_its_pixels_were(world: Path, tmp_path: Path) -> None:
    train = small_pair(world).train.model_copy(update={"steps": 1, "evaluate_every": None})
    net = PreprocessConfig(size=64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = run_encoder(small_pair(world, train=train, preprocess=net), tmp_path, progress="none")
    told = json.loads((model / "config.json").read_text())
    assert told["pixels"] == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert read_pair(model).pixels == Pixels(mean=net.mean, std=net.std)


def test_captions_longer_than_the_table_are_refused(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"pair\.text\.max_positions only 48"):
        apply_overrides(small_pair(world), ["tokens.max_words=60"])


def test_captions_of_a_picture_may_be_read_together(world: Path) -> None:
    """One to three of its own, each at most once, in any order; the rest of the draw is as ever."""
    pictures = read_captioned(str(world), "train", NET, 1)
    texts = list(pictures.captions[0])
    assert len(texts) == 3
    tokens = train_wordpiece([*texts, "and"], size=300, max_words=200)
    batches = PairBatches(pictures, tokens, NET, 0.0, 0, most=3)
    orders = [order for count in (1, 2, 3) for order in permutations(texts, count)]
    allowed = {tokens.decode(tokens.encode([" and ".join(order)]).words[0]) for order in orders}
    found = []
    for epoch in range(60):
        batch = batches([0], epoch)
        found.append(tokens.decode(batch.words[0][batch.word_mask[0]].tolist()))
    assert set(found) <= allowed
    assert len(set(found)) > 10  # of 15
    alone = {tokens.decode(tokens.encode([text]).words[0]) for text in texts}
    assert 10 < sum(text in alone for text in found) < 30  # a third
