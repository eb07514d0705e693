"""The studies of Shatter and Gather in parts: variants, answers on the same weights, words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refseg.errors import ConfigError
from refseg.methods.sag.config import AnswerConfig
from refseg.models import Model
from refseg.recipes.catalog import get_recipe
from studies import charts, results, sag, sag_ablations, sag_answers, sag_page, sag_runs, weak
from studies.base import open_scenes
from studies.sag_answers import DRAWS, PLAIN, TAUS
from studies.sag_runs import BASE, ON_REQUEST, PATCHES, VARIANTS, Asked
from tests.recipes.test_tris_recipes import changes
from tests.studies.sag_asked import small_asked

pytestmark = pytest.mark.usefixtures("small_world")


@pytest.fixture(scope="module")
def asked(small_world: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with small_asked(tmp_path_factory.mktemp("sag")) as asked:
        yield asked


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("made again")


# -- variants ------------------------------------------------------------------------------------


def test_variants_differ_by_what_their_names_say(asked: Asked) -> None:
    of = {name: sag_runs.variant_recipe(asked, name, 3) for name in VARIANTS}
    assert {name: changes(of[BASE], recipe) for name, recipe in of.items()} == {
        BASE: set(),
        PATCHES: {"method.slots.over"},
        "no reconstruction": {"method.reconstruction.weight"},
        "T 1": {"method.slots.iterations"},
        "T 2": set(),  # the small recipe's own
        "T 4": {"method.slots.iterations"},
        "no interaction": {"method.slots.interaction"},
        "random slots": {"method.slots.kind"},
        "query slots": {"method.slots.kind"},
        "all others are negatives": {"method.loss.others"},
        "no discovery": {"method.discovery"},
        "no fusion, no C3": {"method.fusion.kind"},
    }
    for recipe in of.values():
        assert (recipe.train.seed, recipe.select) == (3, None)
        assert str(recipe.labels()) == "text"


def test_the_recipes_t_is_none_of_the_variants() -> None:
    """Else the base would stand in the table twice."""
    slots = sag_runs.method_of(get_recipe("sag_scenes")).slots
    assert (slots.iterations, slots.kind, slots.over) == (6, "entity", "slots")
    assert slots.interaction


def test_what_is_asked_wins(asked: Asked) -> None:
    own = replace(asked, steps=7, overrides=("train.lr=1e-3", "method.slots.groups=3"))
    recipe = sag_runs.variant_recipe(own, "T 1", 0)
    assert (recipe.train.steps, recipe.train.lr) == (7, 1e-3)
    assert sag_runs.method_of(recipe).slots.groups == 3
    assert recipe.weights.vision == asked.vit
    assert recipe.weights.text == recipe.tokens.source == asked.text


def test_ablations_through_the_command(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["ablations", "--folder", str(asked.folder), "--vit", asked.vit, "--text", asked.text]
    words += ["--variants", BASE, "T 1", "T 2", "query slots", "--out", str(tmp_path)]
    assert sag.main(words) == 0
    text = (tmp_path / "sag_ablations.json").read_text()
    assert str(asked.folder.parent) not in text
    record = json.loads(text)
    assert record["command"] == (
        "python -m studies.sag ablations --vit vit --text bert "
        "--variants base 'T 1' 'T 2' 'query slots'"
    )
    assert record["labels"] == "text; encoders: vit (attributes of whole pictures), bert (text)"
    assert record["protocols"] == ["original", "sag"]
    numbers = record["numbers"]
    assert (numbers["slots"], numbers["steps"]) == ({"groups": 2, "per group": 2, "T": 2}, 2)
    assert set(numbers["left out"]) == set(VARIANTS) - {BASE, "T 1", "T 2", "query slots"}
    told = {
        (row["of"], row["over"]): row["claim"]
        for row in numbers["differences"]
        if row["measure"] == "mIoU"
    }
    assert told == {
        (BASE, "T 1"): "+6.8", (BASE, "T 2"): "+3.0", (BASE, "query slots"): "too coarse",
        ("T 2", "T 1"): "+3.8",
    }  # fmt: skip
    rows = {row["variant"]: row["scores"] for row in numbers["rows"]}
    for row in numbers["summary"]:
        scores = rows[row["variant"]]
        assert row["mIoU"] == scores["original"]["metrics"]["mIoU"]
        assert row["A@0.3, sag"] == scores["sag"]["metrics"]["Pr@0.3"]
        assert row["A@0.7"] == scores["original"]["metrics"]["Pr@0.7"]
    page = sag_page.ablations(numbers)
    assert "| T 1 | 1 |" in page["table"]
    assert "| +6.8 | base | T 1 | mIoU | 1 |" in page["differences"]
    assert "no discovery" in page["left"]
    assert "$" not in results._text("sag_ablations", {**page, "made": ""})
    monkeypatch.setattr(weak, "evaluate_all", refuse)  # what is kept is not measured again
    assert sag.main(words) == 0
    assert json.loads((tmp_path / "sag_ablations.json").read_text())["numbers"] == numbers


def test_every_variant_is_compared_and_the_guesses_wait_to_be_asked_for() -> None:
    named = {name for _, of, over in sag_ablations.PAIRS for name in (of, over)}
    assert named == set(VARIANTS)
    assert set(sag_ablations.DEFAULT) == set(VARIANTS) - set(ON_REQUEST)
    for _, of, over in sag_ablations.PAIRS:
        for measure in ("mIoU", "oIoU"):
            assert sag_ablations.claimed({"of": of, "over": over, "measure": measure})


# -- answers -------------------------------------------------------------------------------------


def asked_alone(asked: Asked, answer: AnswerConfig) -> Model:
    """The base as somebody would have it that answers in this way."""
    model = sag_runs.trained(asked, BASE, 0).load()
    model.method.config = model.method.config.model_copy(update={"answer": answer})
    return model


#: What each answer is, in the words of `method.answer`.
TWINS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "max": {"scheme": "max"},
    "min": {"scheme": "min"},
    **{f"tau {tau:g}": {"threshold": tau} for tau in TAUS if tau != 0.5},
    "S 4": {"draws": 4},
    "lattice, full size": {"crf": "lattice"},
    "lattice, half size": {"crf": "lattice", "crf_scale": 0.5},
    "lattice, full size, rmi": {"crf": "lattice", "crf_settings": "rmi"},
}


def test_one_pass_answers_as_a_model_that_is_told_so(asked: Asked) -> None:
    """Every answer against the method asked anew with its own settings; the network looks once."""
    data = open_scenes("scenes", "val")
    samples = data.samples(range(len(data)))
    model = sag_runs.trained(asked, BASE, 0).load()
    one_pass, looks = sag_answers.OnePass(model), []
    model.method.vision.register_forward_hook(lambda *_: looks.append(1))
    seen = {}
    for answer in sag_answers.answers():
        found = sag_answers.Answering(one_pass, answer).predict(samples)
        seen[answer.name] = np.concatenate([one.mask.ravel() for one in found])
        if answer.name not in TWINS:
            continue
        twins = asked_alone(asked, AnswerConfig(**TWINS[answer.name])).predict(samples)
        for mine, twin in zip(found, twins, strict=True):
            np.testing.assert_array_equal(mine.mask, twin.mask, err_msg=answer.name)
            assert (mine.response is None) == (twin.response is None)
            assert mine.score == pytest.approx(twin.score, abs=1e-5)
    assert set(TWINS) <= seen.keys()
    assert len(looks) == 1
    for name in ("max", "min", "tau 0.3", "tau 0.7", "S 4", "draw 2 alone", "lattice, full size"):
        assert (seen[name] != seen[PLAIN]).any(), name


def test_draws_alone_are_those_that_are_averaged(asked: Asked) -> None:
    data = open_scenes("scenes", "val")
    samples = data.samples(range(3))
    outputs, _ = sag_answers.OnePass(sag_runs.trained(asked, BASE, 0).load()).look(samples)
    assert outputs.attention is not None
    assert outputs.fuse.shape[1] == outputs.attention.shape[1] == DRAWS
    told = {answer.name: answer.draws for answer in sag_answers.answers()}
    alone = [told[PLAIN], *(told[f"draw {n} alone"] for n in (2, 3, 4))]
    assert alone == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert told["S 4"] == (0, 4)


@pytest.fixture(scope="module")
def numbers(asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(sag_answers.run(asked).numbers))
    return found


def test_the_curve_is_each_tau_by_itself(asked: Asked, numbers: dict[str, Any]) -> None:
    data = open_scenes("scenes", "val")
    samples = data.samples(range(len(data)))  # together: one by one a pixel may round otherwise
    hidden = [replace(sample, mask=None, box_xyxy=None) for sample in samples]
    rows = {row["tau"]: row for row in numbers["rows"] if row["tau"] is not None}
    assert sorted(rows) == list(TAUS)
    plain: list[float] = []
    for tau in (0.5, *TAUS):
        model, ious, areas = asked_alone(asked, AnswerConfig(threshold=tau)), [], [0, 0]
        for sample, found in zip(samples, model.predict(hidden), strict=True):
            assert sample.mask is not None
            both, either = (found.mask & sample.mask).sum(), (found.mask | sample.mask).sum()
            areas = [areas[0] + both, areas[1] + either]
            ious.append(both / either)
        plain = plain or ious
        assert rows[tau]["mIoU"] == pytest.approx(np.mean(ious), abs=1e-9)
        assert rows[tau]["oIoU"] == pytest.approx(areas[0] / areas[1], abs=1e-9)
        change = np.mean(ious) - np.mean(plain)
        assert rows[tau]["change"] == pytest.approx(change, abs=1e-9)
        low, high = rows[tau]["interval"]
        assert low - 1e-9 <= change <= high + 1e-9
    assert len({row["mIoU"] for row in rows.values()}) > 3  # no curve of zeros
    assert charts.tau(numbers).startswith(b"\x89PNG")


def test_noise_is_what_draws_alone_differ_by(numbers: dict[str, Any]) -> None:
    rows = {row["answer"]: row for row in numbers["rows"]}
    alone = [rows[name]["mIoU"] for name in (PLAIN, *(f"draw {n} alone" for n in (2, 3, 4)))]
    assert numbers["noise"]["mIoU of each draw"] == [pytest.approx(alone)]
    assert numbers["noise"]["spread"] == pytest.approx(np.std(alone, ddof=1))
    assert 0 <= numbers["noise"]["moved"] <= 1


def test_changes_are_means_over_all_models() -> None:
    """Two models about two pictures, by hand."""
    answers = [sag_answers.Answer(PLAIN, ""), sag_answers.Answer("max", "scheme")]

    def scores(*ious: float) -> dict[str, Any]:
        names = ("mIoU", "oIoU", *(f"Pr@{x}" for x in (0.3, 0.5, 0.7)))
        told = {"n": 3, "metrics": dict.fromkeys(names, float(np.mean(ious)))}
        samples = {"image_id": [1, 1, 2], "iou": list(ious)}
        return {"original": told, "sag": told, "samples": samples}

    found = [
        {PLAIN: scores(0.1, 0.2, 0.3), "max": scores(0.4, 0.2, 0.3)},
        {PLAIN: scores(0.0, 0.5, 0.5), "max": scores(0.0, 0.5, 0.8)},
    ]
    plain, best = (sag_answers.row_of(one, found) for one in answers)
    assert (plain["change"], tuple(plain["interval"]), plain["seeds"]) == (0, (0, 0), 2)
    assert best["change"] == pytest.approx(0.1)
    # All expressions of a picture are drawn together: 0.3 of four, or 0.3 of two.
    assert tuple(best["interval"]) == pytest.approx((0.075, 0.15))
    assert (best["mIoU"], plain["tau"], best["tau"]) == (pytest.approx(0.3667, abs=1e-3), 0.5, None)


def test_answers_are_kept_one_by_one(
    asked: Asked, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = asked.folder / "base-seed0" / "train" / "scores"
    kept = sorted(folder.glob("sag-answers-*.json"))
    assert len(kept) == len(sag_answers.answers())
    monkeypatch.setattr(sag_answers, "evaluate_all", refuse)
    monkeypatch.setattr(sag_answers, "OnePass", refuse)
    again = json.loads(json.dumps(sag_answers.run(asked).numbers))
    assert again == numbers


def test_the_package_is_left_out_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sag_answers, "find_spec", lambda _: None)
    without = [one.name for one in sag_answers.answers()]
    assert not [name for name in without if "pydensecrf2" in name]
    assert [name for name in without if name.startswith("lattice")] == list(TWINS)[-3:]
    monkeypatch.setattr(sag_answers, "find_spec", lambda name: name)
    with_it = [one.name for one in sag_answers.answers()]
    assert [name for name in with_it if name not in without] == [
        name.replace("lattice", "pydensecrf2") for name in list(TWINS)[-3:]
    ]
    assert len(set(with_it)) == len(with_it)


def test_the_page_takes_the_answers(numbers: dict[str, Any]) -> None:
    page = sag_page.answers(numbers)
    text = results._text("sag_answers", {**page, "made": ""})
    assert f"| {PLAIN} | - | 1 |" in text
    assert "| max | scheme | 1 |" in text
    assert "| tau 0.3 | tau | 1 |" in text
    assert "$" not in text
    missing = sag_page.answers({**numbers, "left out": ["pydensecrf2"]})
    assert "Not installed where this ran: pydensecrf2." in missing["left"]


@pytest.mark.parametrize("setting", ["method.discovery=false", "method.slots.kind=query"])
def test_answers_need_slots_and_noise(asked: Asked, setting: str) -> None:
    with pytest.raises(ConfigError, match="single slots and draws"):
        sag_answers.run(replace(asked, overrides=(setting,)))


# -- the command and the page --------------------------------------------------------------------


def test_every_study_has_words_a_function_and_a_section() -> None:
    assert sag.STUDIES.keys() == sag.ABOUT.keys()
    for name in sag.STUDIES:
        words = results.COMMANDS[f"sag_{name}"].split()
        parsed = sag._parser().parse_args(words[3:])
        assert parsed.study == name
        assert sag.command(parsed) == results.COMMANDS[f"sag_{name}"]
        assert f"sag_{name}" in results.SECTIONS


def test_the_command_is_told_without_places() -> None:
    words = ["table", "--vit", "a/b/vit/model", "--pair", "c/pair", "--folder", "x"]
    words += ["--models", "vega-scenes", "runs/tris_scenes", "--seeds", "0", "1", "--limit", "9"]
    told = sag.command(sag._parser().parse_args(words))
    assert told == (
        "python -m studies.sag table --vit vit --seeds 0 1 --limit 9 "
        "--models vega-scenes tris_scenes --pair pair"
    )


def test_an_absent_encoder_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablations", "--vit", str(tmp_path / "nowhere"), "--folder", str(tmp_path / "runs")]
    assert sag.main([*words, "--out", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_sections_of_studies_not_run_say_so(tmp_path: Path) -> None:
    page = results.page(tmp_path)
    for name in sag.STUDIES:
        assert f"Not run yet. Command: `{results.COMMANDS[f'sag_{name}']}`" in page
