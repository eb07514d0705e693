"""The studies of TRIS in parts: recipes of variants, the encoder by itself, ablations, words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refseg.models import find_encoder
from refseg.nn.clip_weights import read_pair
from studies import (
    results,
    tris,
    tris_ablations,
    tris_encoder,
    tris_labels,
    tris_page,
    tris_runs,
)
from studies.tris_runs import PAPER, REFSEG, VARIANTS, Asked
from studies.weak import Scored
from tests.studies.tris_asked import small_asked

pytestmark = pytest.mark.usefixtures("small_world")


@pytest.fixture(scope="module")
def asked(small_world: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with small_asked(tmp_path_factory.mktemp("tris")) as asked:
        yield asked


# -- what is trained -----------------------------------------------------------------------------


def test_variants_differ_by_what_their_names_say(asked: Asked) -> None:
    of = {name: tris_runs.first_recipe(asked, name, 3) for name in VARIANTS}
    parts = {name: tris_runs.part_of(recipe).response for name, recipe in of.items()}
    assert (
        parts[tris_runs.BASE]
        == tris_runs.part_of(tris_runs.whole_recipe(asked, REFSEG, 3)).response
    )
    told = [part.loss.classification for part in parts.values()]
    assert told == [1, 2, 5, 10, 5, 5]
    assert not parts["no calibration"].loss.calibrated
    assert parts["no prompt"].prompt == "off"
    assert parts["lambda 1"].prompt == "words"
    for recipe in of.values():
        part = tris_runs.part_of(recipe)
        assert recipe.stages == ("respond",)
        assert {recipe.train.seed, part.train.seed, part.edges_train.seed} == {3}
        assert recipe.select == "margin"


def test_presets_and_lengths(asked: Asked) -> None:
    longer = replace(asked, first_steps=7, steps=8, edge_steps=9)
    ours, theirs = (tris_runs.whole_recipe(longer, name, 0) for name in (REFSEG, PAPER))
    assert tris_runs.part_of(ours).response.prompt == "words"
    assert tris_runs.part_of(theirs).response.prompt == "batch"
    assert tris_runs.told_steps(longer) == {"step 1": 7, "edges": 9, "step 2": 8}
    student = tris_runs.student_recipe(longer, PAPER, 4)
    assert (student.train.steps, student.train.seed) == (8, 4)
    assert (student.select, student.data.evaluate) == (None, None)
    assert student.train.batch_size == theirs.train.batch_size
    assert Path(student.data.name) == longer.folder / "paper-seed4" / "refine" / "data"


def test_what_is_asked_wins(asked: Asked) -> None:
    own = replace(asked, overrides=("train.seed=5", "tris.choice=first"))
    recipe = tris_runs.whole_recipe(own, REFSEG, 0)
    assert recipe.train.seed == 5
    assert tris_runs.part_of(recipe).choice == "first"


# -- the encoder by itself -----------------------------------------------------------------------


def _batch(asked: Asked) -> tuple[Any, Any]:
    recipe = tris_runs.whole_recipe(asked, REFSEG, 0)
    answers = tris_encoder.EncoderAnswers(asked.pair, recipe.preprocess, "maskclip")
    data = tris_labels.training_pictures(recipe, 2)
    samples = [data[row] for row in (0, 1, len(data) - 1)]
    batch = tris_encoder.collate(samples, answers.tokenizer, recipe.preprocess, share_images=True)
    return batch, samples


@torch.no_grad()
def test_maskclip_against_a_loop(asked: Asked) -> None:
    pair, (batch, samples) = read_pair(find_encoder(asked.pair)), _batch(asked)
    maps = tris_encoder.maskclip(pair, batch)
    texts = pair.embed_texts(batch.words, batch.word_mask)
    pool: Any = pair.vision.attnpool
    assert len(batch.images) < len(samples) == len(maps)
    for row, image in enumerate(batch.image_of.tolist()):
        last = pair.vision(batch.images[image : image + 1])[-1][0]
        for y in range(last.shape[1]):
            for x in range(last.shape[2]):
                value = pool.v_proj.weight @ last[:, y, x] + pool.v_proj.bias
                place = pool.c_proj.weight @ value + pool.c_proj.bias
                cosine = float(place @ texts[row]) / math.sqrt(float(place @ place))
                assert float(maps[row, y, x]) == pytest.approx(cosine, abs=1e-5)


@torch.no_grad()
def test_saliency_is_strength_and_hears_no_words(asked: Asked) -> None:
    pair, (batch, _) = read_pair(find_encoder(asked.pair)), _batch(asked)
    maps = tris_encoder.saliency(pair, batch)
    last = pair.vision(batch.images)[-1].abs()
    expected = sum(last[:, channel] for channel in range(last.shape[1])) / last.shape[1]
    torch.testing.assert_close(maps, expected[batch.image_of])
    torch.testing.assert_close(maps[0], maps[1])  # of one picture


def test_an_encoders_answer_is_what_exceeds_the_middle(asked: Asked) -> None:
    recipe = tris_runs.whole_recipe(asked, REFSEG, 0)
    _, samples = _batch(asked)
    for rule in tris_encoder.LOOKS:
        answers = tris_encoder.EncoderAnswers(asked.pair, recipe.preprocess, rule)
        for sample, one in zip(samples, answers.predict(samples), strict=True):
            assert one.response is not None
            assert (one.response.min(), one.response.max()) == (0, 1)
            assert one.mask.shape == sample.image.shape[:2]
            assert 0 < one.mask.mean() < 1
        assert answers.card["labels used"] == "text"


# -- ablations -----------------------------------------------------------------------------------


def test_ablations_through_the_command(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablations", "--folder", str(asked.folder), "--pair", asked.pair, "--limit", "4"]
    words += ["--variants", "lambda 1", "lambda 5", "no prompt", "--out", str(tmp_path)]
    assert tris.main(words) == 0
    text = (tmp_path / "tris_ablations.json").read_text()
    assert str(asked.folder.parent) not in text
    record = json.loads(text)
    assert record["command"].startswith("python -m studies.tris ablations --pair pair --limit 4")
    assert record["labels"].startswith("text; encoders: pair (text)")
    numbers = record["numbers"]
    assert [row["variant"] for row in numbers["summary"]] == ["lambda 1", "lambda 5", "no prompt"]
    pairs = {(row["claim"], row["of"], row["over"]) for row in numbers["differences"]}
    assert pairs == {("D6", "lambda 5", "lambda 1"), ("D9", "lambda 5", "no prompt")}
    told = tris_page.ablations(numbers)
    assert "| lambda 5 | 1 |" in told["table"]
    assert "| D6 | lambda 5 | lambda 1 | PointIt | 1 |" in told["differences"]


def test_points_are_those_of_the_protocol_where_it_is_asked() -> None:
    both = {
        "original": {"metrics": {"PointIt": 0.1, "mIoU": 0.2}},
        "tris": {"metrics": {"PointIt": 0.3, "mIoU": 0.4}},
    }
    measures = tris_runs.MEASURES
    told = {name: measures[name](Scored("", 0, both)) for name in ("PointIt", "mIoU")}
    assert told == {"PointIt": 0.3, "mIoU": 0.2}
    alone = {"original": both["original"]}
    assert measures["PointIt"](Scored("", 0, alone)) == 0.1
    assert measures["PointM"](Scored("", 0, alone)) is None


# -- the command and the page --------------------------------------------------------------------


def test_every_study_has_words_a_function_and_a_section() -> None:
    assert tris.STUDIES.keys() == tris.ABOUT.keys()
    for name in tris.STUDIES:
        words = results.COMMANDS[f"tris_{name}"].split()
        parsed = tris._parser().parse_args(words[3:])
        assert parsed.study == name
        assert tris.command(parsed) == results.COMMANDS[f"tris_{name}"]
        assert f"tris_{name}" in results.SECTIONS


def test_the_command_is_told_without_places() -> None:
    words = ["steps", "--pair", "some/where/pair", "--folder", "x", "--seeds", "0", "1"]
    told = tris.command(tris._parser().parse_args([*words, "--set", "train.lr=1"]))
    assert told == "python -m studies.tris steps --pair pair --seeds 0 1 --set train.lr=1"


def test_an_absent_pair_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablations", "--pair", str(tmp_path / "nowhere"), "--folder", str(tmp_path / "runs")]
    assert tris.main([*words, "--out", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_sections_of_studies_not_run_say_so(tmp_path: Path) -> None:
    page = results.page(tmp_path)
    for name in tris.STUDIES:
        assert f"Not run yet. Command: `{results.COMMANDS[f'tris_{name}']}`" in page


def test_ablations_compare_what_there_is() -> None:
    names = {name for _, of, over in tris_ablations.PAIRS for name in (of, over)}
    assert names == set(VARIANTS)
