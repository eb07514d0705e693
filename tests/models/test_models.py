"""Model folders: whole or not at all, safe to read, errors that name the file."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from refseg import models
from refseg.card import card_text
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError, ModelError, RefsegError, UnknownName
from refseg.models import Model
from tests.methods.toy import toy_model, toy_samples


@pytest.fixture(scope="module")
def model() -> Model:
    made = toy_model("vega", seed=1)
    made.card = {
        "data": "drawn shapes",
        "labels": "text+mask",
        "metrics": {"mIoU": 0.51239, "n": 4},
    }
    return made


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    models.save(tmp_path / "my-model", model)
    return tmp_path / "my-model"


def test_a_folder_holds_what_it_says(folder: Path, model: Model) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["my-model"], "nothing left behind"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    again = models.load(folder)
    assert (again.name, again.method_name) == ("my-model", "vega")
    assert again.card == model.card
    assert again.preprocess == model.preprocess
    assert again.tokenizer.max_words == model.tokenizer.max_words
    texts = ["left red disc", "the unseen wörd", "x" * 40]
    for one, other in zip(
        model.tokenizer.encode(texts).words, again.tokenizer.encode(texts).words, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert not again.method.training
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "drawn shapes" in card
    assert "| mIoU | 0.5124 |" in card


def test_loading_asks_no_seed(folder: Path) -> None:
    """Weights come from the file alone."""
    torch.manual_seed(1)
    one = models.load(folder).method.state_dict()
    torch.manual_seed(2)
    other = models.load(folder).method.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_half_precision_is_half_the_size_and_nearly_the_same(
    folder: Path, model: Model, tmp_path: Path
) -> None:
    models.save(tmp_path / "half", model, half=True)
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = models.load(tmp_path / "half")
    parameters = list(loaded.method.parameters())
    assert {p.dtype for p in parameters} == {torch.float32}
    for ours, theirs in zip(
        model.predict(toy_samples(2)), loaded.predict(toy_samples(2)), strict=True
    ):
        assert ours.response is not None
        assert theirs.response is not None
        np.testing.assert_allclose(ours.response, theirs.response, atol=0.02)


def test_saving_again_replaces_all(folder: Path, model: Model) -> None:
    (folder / "stray.txt").write_text("old")
    card = {**model.card, "data": "other shapes"}
    models.save(folder, replace(model, card=card))
    assert not (folder / "stray.txt").exists()
    assert models.load(folder).card["data"] == "other shapes"
    assert [path.name for path in folder.parent.iterdir()] == ["my-model"]


class Unsaveable:
    """A tokenizer that cannot be written."""

    max_words = 12

    def save(self, path: Path) -> None:
        raise OSError(28, "No space left on device")


def test_a_failed_save_leaves_the_old_folder(folder: Path, model: Model) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(OSError, match="No space left"):
        models.save(folder, replace(model, tokenizer=Unsaveable()))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No space left"):
        models.save(folder.parent / "new", replace(model, tokenizer=Unsaveable()))  # type: ignore[arg-type]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["my-model"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_half_written_folder_names_what_is_missing(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"incomplete: no {name}"):
        models.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"{}", b"[]", b"null"])
def test_broken_files_are_refused_by_name(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=name) as caught:
        models.load(folder)
    assert caught.value.remedy


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_unknown_method_is_named(folder: Path) -> None:
    edit(folder, method="vgea")
    with pytest.raises(UnknownName, match="vgea") as caught:
        models.load(folder)
    assert caught.value.nearest == ["vega"]


def test_an_unknown_key_is_refused(folder: Path) -> None:
    edit(folder, surprise=1)
    with pytest.raises(ModelError, match=r"config\.json.*\n*.*surprise"):
        models.load(folder)


def test_a_configuration_that_the_method_does_not_know_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["method_config"]
    edit(folder, method_config={**config, "fusion": "sideways"})
    with pytest.raises(ModelError, match="does not fit method vega"):
        models.load(folder)


def test_weights_of_another_configuration_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["method_config"]
    edit(folder, method_config={**config, "guidance": "language"})
    with pytest.raises(ModelError, match="unknown enhance"):
        models.load(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("decoder.head.bias")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing decoder\.head\.bias"):
        models.load(folder)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder: Path) -> None:
    """Otherwise a rare word would end in an index error, long after loading."""
    from refseg.data.tokens import SPECIALS, wordpiece

    words = [*SPECIALS, *(f"word{i}" for i in range(500))]
    wordpiece(words, 12).save(folder / "tokenizer.json")
    with pytest.raises(ModelError, match="505 token ids"):
        models.load(folder)


def test_more_words_than_the_model_has_places_for_are_refused(folder: Path) -> None:
    edit(folder, max_words=1000)
    with pytest.raises(ModelError, match="1000 words at most, its method takes 32"):
        models.load(folder)


def test_names_and_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUNDLED", folder.parent)
    assert models.list_bundled() == ["my-model"]
    assert models.find_model("my-model") == folder
    assert models.load("my-model").name == "my-model"
    with pytest.raises(UnknownName, match="my-modle") as caught:
        models.load("my-modle")
    assert caught.value.nearest == ["my-model"]
    with pytest.raises(ModelError, match="no model folder"):
        models.load("./nowhere")
    monkeypatch.setattr(models, "BUNDLED", folder / "nowhere")
    assert models.list_bundled() == []


def test_an_unreachable_hub_id_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match='"somebody/something" is no local folder'):
        models.load("somebody/something")


def test_a_hub_id_loads_like_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(folder))
    assert models.load("somebody/something").method_name == "vega"


def test_descriptions(folder: Path, model: Model) -> None:
    (row,) = models.describe_models([folder])
    assert row["name"] == "my-model"
    assert row["method"] == "vega"
    assert row["card"] == model.card
    assert row["bytes"] == sum(p.stat().st_size for p in folder.iterdir())


def test_a_table_in_the_card_cannot_be_broken_by_its_values(model: Model, tmp_path: Path) -> None:
    text = card_text("toy", "vega", {"metrics": {"mIoU": 1 / 3, "note": "plain"}})
    assert "| mIoU | 0.3333 |" in text
    assert "| note | plain |" in text


def test_a_card_lists_its_plain_entries_before_its_tables(model: Model) -> None:
    parts = {"data": "shapes", "expressions": 4}
    card = {"evaluation": parts, "metrics": {"mIoU": 0.5}, "numbers": "float16"}
    text = card_text("toy", model.method_name, card)
    assert text.startswith("# toy\n\n- **method**: vega\n- **numbers**: float16\n\n## evaluation")
    assert "| data | shapes |\n| expressions | 4 |\n\n## metrics" in text


def test_predictions_are_in_px_and_in_order(model: Model) -> None:
    samples = toy_samples(3, ((40, 60), (33, 21), (64, 64)))
    predictions = model.predict(samples)
    assert [p.mask.shape for p in predictions] == [s.image.shape[:2] for s in samples]
    alone = [model.predict([sample])[0] for sample in samples]
    for together, single in zip(predictions, alone, strict=True):
        assert together.response is not None
        assert single.response is not None
        np.testing.assert_allclose(together.response, single.response, atol=2e-5)


def test_a_picture_is_encoded_once_however_many_ask(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    encode = model.method.encode_image
    monkeypatch.setattr(
        model.method,
        "encode_image",
        lambda batch: (seen.append(len(batch.images)), encode(batch))[1],
    )
    model.predict(toy_samples(2))
    assert seen == [2]


def test_two_pictures_with_one_number_are_two_pictures(model: Model) -> None:
    """A caller who leaves image_id at 0 must not get the first picture's mask for the second."""
    first, _, second, _ = toy_samples(2)
    same_id = [replace(first, image_id=0), replace(second, image_id=0)]
    batch = model.batch(same_id, share_images=True)
    assert batch.image_of.tolist() == [0, 1]
    _, answer = model.predict(same_id)
    (alone,) = model.predict([second])
    np.testing.assert_allclose(answer.response, alone.response, atol=2e-5)


def test_predicting_leaves_no_graph_and_turns_dropout_off(model: Model) -> None:
    model.method.train()
    one, other = (model.predict(toy_samples(1))[0] for _ in range(2))
    assert not model.method.training
    np.testing.assert_array_equal(one.response, other.response)


@pytest.mark.parametrize("text", ["", "   ", "...", "x" * 10_000])
def test_bad_expressions_are_refused(model: Model, text: str) -> None:
    with pytest.raises(RefsegError):
        model.predict([replace(toy_samples(1)[0], text=text)])


def test_the_method_is_built_from_a_dict_or_its_config() -> None:
    config = toy_model("vega").method.config
    torch.manual_seed(0)
    one = models.build_method("vega", config)
    torch.manual_seed(0)
    other = models.build_method("vega", config.model_dump())
    assert one.config == other.config
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(UnknownName, match="nothing"):
        models.build_method("nothing", {})


def test_preprocessing_travels(model: Model, tmp_path: Path) -> None:
    own = PreprocessConfig(size=48, fit="letterbox", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    models.save(tmp_path / "m", replace(model, preprocess=own))
    assert models.load(tmp_path / "m").preprocess == own


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"selection": {"heads": 7}}, "selection.heads: 7 heads"),
        ({"text": {"width": 0}}, "text.width: Input should be greater than 0"),
        ({"vision": {"width": 2**50}}, "does not fit method vega"),
        ({"fusion": "sideways", "zoom": 3}, "zoom: Extra inputs"),
    ],
)
def test_whatever_cannot_be_built_is_the_folders_fault(
    changes: dict[str, Any], told: str, folder: Path
) -> None:
    edit(folder, method_config=changes)
    with pytest.raises(ModelError) as caught:
        models.load(folder)
    assert told in caught.value.message
    assert str(folder / "config.json") in caught.value.message
    assert caught.value.remedy
    assert "http" not in caught.value.message
    assert "\n" not in caught.value.message


def test_an_error_of_a_library_is_told_as_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from refseg.methods.vega import Vega

    def refuse(self: Any, config: Any) -> None:
        raise ValueError("sizes\n  differ")

    monkeypatch.setattr(Vega, "__init__", refuse)
    with pytest.raises(ConfigError, match="method vega cannot be built: sizes differ"):
        models.build_method("vega", {})


def test_more_words_than_learned_queries_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["method_config"]
    selection = {**config["selection"], "cues": "none", "max_tokens": 5}
    made = toy_model("vega")
    method = models.build_method("vega", {**config, "selection": selection})
    models.save(folder, replace(made, method=method))
    with pytest.raises(ModelError, match=r"its method takes 5 \(selection\.max_tokens\)"):
        models.load(folder)


def test_an_encoder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    with pytest.raises(ModelError, match="is an encoder") as caught:
        models.load(tmp_path)
    assert "weights.vision" in caught.value.remedy


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves it alone behind the = of --set weights.vision=~/swin."""
    (tmp_path / "swin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.find_encoder("~/swin") == tmp_path / "swin"
    for name in ("~/absent", "~nobody-at-all/swin"):
        with pytest.raises(ModelError, match=f"no folder {name}"):
            models.find_encoder(name)


# -- scores of proposals, and the ids that a writer writes -------------------------------------


@pytest.mark.parametrize("name", ["mutual", "mutual annotated"])
def test_scores_are_those_of_the_method_one_by_one(name: str) -> None:
    made, samples = toy_model(name, seed=1), toy_samples(3)
    objects = samples[2].objects
    assert objects is not None
    assert objects.boxes_xyxy is not None
    boxes = np.concatenate([objects.boxes_xyxy, objects.boxes_xyxy])
    boxes[3] = np.nan
    more = replace(
        objects,
        ann_ids=np.arange(4) + 90,
        categories=(objects.categories or ()) * 2,
        boxes_xyxy=boxes,
        masks=(objects.masks or ()) * 2,
    )
    samples[2], samples[3] = (replace(s, objects=more) for s in samples[2:4])
    together = made.scores(samples)
    made.method.eval()
    for sample, found in zip(samples, together, strict=True):
        with torch.no_grad():
            alone = made.method(made.batch([sample])).scores[0].numpy()
        assert found.dtype == np.float32
        if name == "mutual annotated":
            assert sample.objects is not None
            assert len(found) == len(sample.objects) == len(alone)
        np.testing.assert_allclose(found, alone, atol=1e-5)
    assert [len(found) for found in together] == (
        [8] * 6 if name == "mutual" else [2, 2, 4, 4, 2, 2]
    )
    assert np.isneginf(together[2][3]) == (name == "mutual annotated")


def test_a_method_without_proposals_has_no_scores(model: Model) -> None:
    with pytest.raises(ConfigError, match="scores no proposals") as caught:
        model.scores(toy_samples(1))
    assert caught.value.remedy


def test_a_model_that_has_only_a_recipe_is_to_be_trained() -> None:
    """No other model's name is offered: it would do something else."""
    assert "mutual-refcoco" not in models.list_bundled()
    with pytest.raises(ModelError, match="mutual-refcoco is not in this installation") as caught:
        models.find_model("mutual-refcoco")
    assert "refseg train mutual_refcoco --out RUN" in caught.value.remedy
