"""Loading weights: other spellings, hub folders, errors that name the keys, no code from files."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from refseg.errors import ModelError
from refseg.methods.mutual.mask2former import Mask2FormerExtractor
from refseg.nn.text import BertTextConfig, BertWords
from refseg.nn.vision import SwinPyramid, SwinVisionConfig
from refseg.nn.weights import canonical, load_hub_part, load_state, local_folder, read_state
from tests.methods.toy_configs import mask2former_config

# The other way round than refseg.nn.weights: from transformers 5 to the names of 4.
TO_OLD_SWIN = (
    (r"\.attention\.(q|k|v)_proj\.", r".attention.self.\1_proj."),
    (r"self\.q_proj", "self.query"),
    (r"self\.k_proj", "self.key"),
    (r"self\.v_proj", "self.value"),
    (
        r"\.attention\.relative_position_bias\.relative_position_bias_table",
        ".attention.self.relative_position_bias_table",
    ),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def swin(seed: int = 0, **changes: Any) -> SwinPyramid:
    torch.manual_seed(seed)
    config = {"image_size": 32, "patch": 2, "width": 8, "depths": (1, 2, 1, 1)}
    heads = {"heads": (1, 2, 2, 2), "window": 4}
    return SwinPyramid(SwinVisionConfig.model_validate({**config, **heads, **changes})).eval()


def bert(seed: int = 0) -> BertWords:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 40, "width": 16, "layers": 2, "heads": 2, "mlp_width": 32}
    return BertWords(BertTextConfig.model_validate({**sizes, "max_positions": 16})).eval()


def old_spelling(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, name in TO_OLD_SWIN:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for key, value in state.items()
    }


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_version_4_names_of_swin_load() -> None:
    source, target = swin(1), swin(2)
    state = old_spelling(source.state_dict())
    assert any(".attention.self.query." in key for key in state)
    assert any(re.search(r"blocks\.\d+\.output\.dense", key) for key in state)
    assert not any("_proj" in key or "mlp" in key for key in state)
    # Version 4 also stored the computed index.
    for key in [k for k in state if k.endswith("relative_position_bias_table")]:
        state[key.replace("bias_table", "index")] = torch.zeros(16, 16, dtype=torch.int64)
    load_state(target, state, source="a test")
    assert same(source, target)


def test_version_4_names_of_a_mask2former_load() -> None:
    """Its Swin was no part by itself; a version's own names may be either."""
    source, target = (made_mask2former(seed) for seed in (1, 2))
    names = old_spelling(source.state_dict())
    state = {key.replace("encoder.swin.", "encoder."): value for key, value in names.items()}
    assert any("pixel_level_module.encoder.encoder.layers" in key for key in state)
    assert not any(".swin." in key for key in state)
    found = [canonical(key) for key in state]
    assert [canonical(key) for key in found] == found
    assert len(set(found)) == len(state)
    load_state(target, state, source="a test")
    assert same(source, target)


def made_mask2former(seed: int) -> Mask2FormerExtractor:
    torch.manual_seed(seed)
    return Mask2FormerExtractor(mask2former_config())


def test_gamma_and_beta_of_old_bert_load() -> None:
    source, target = bert(1), bert(2)
    state = old_names(source.state_dict())
    state["bert.embeddings.position_ids"] = torch.arange(16)[None]
    load_state(target, state, source="a test")
    assert same(source, target)


def test_canonical_is_its_own_fixed_point_and_loses_no_name() -> None:
    for state in (swin().state_dict(), bert().state_dict()):
        for names in (state, old_spelling(state), old_names(state)):
            found = [canonical(key) for key in names]
            assert [canonical(key) for key in found] == found
            assert len(set(found)) == len(found)
            assert set(found) == {canonical(key) for key in state}


def test_berts_own_dense_layers_keep_their_names() -> None:
    """`attention.self.query` and `output.dense` mean other things outside Swin's blocks."""
    for key in bert().state_dict():
        assert canonical(key) == key


def broken(change: Callable[[dict[str, Tensor]], None]) -> str:
    state = dict(swin().state_dict())
    change(state)
    with pytest.raises(ModelError) as caught:
        load_state(swin(), state, source="the donor")
    return str(caught.value)


def test_missing_and_unknown_keys_are_named() -> None:
    key = "swin.embeddings.norm.weight"
    said = broken(lambda state: state.update(stranger=state.pop(key)))
    assert "the donor" in said
    assert key in said
    assert "stranger" in said


def test_many_missing_keys_are_counted() -> None:
    said = broken(lambda state: state.clear())
    assert re.search(r"and \d+ more", said)
    assert len(said) < 600


def test_other_shapes_are_named() -> None:
    key = "swin.embeddings.norm.weight"
    said = broken(lambda state: state.update({key: torch.zeros(9)}))
    assert f"{key} (9,) instead of (8,)" in said


def test_nothing_is_loaded_when_something_does_not_fit() -> None:
    target, before = swin(1), swin(1)
    state = swin(2).state_dict()
    state["swin.embeddings.norm.weight"] = torch.zeros(9)
    with pytest.raises(ModelError):
        load_state(target, state, source="a test")
    assert same(target, before)


# -- files -----------------------------------------------------------------------------------


class Bomb:
    """A pickle that would write a file when read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def test_a_malicious_pickle_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "exploded"
    for name, write in {
        "pytorch_model.bin": lambda p: torch.save({"w": torch.zeros(1), "x": Bomb(trap)}, p),
        "plain.pth": lambda p: p.write_bytes(pickle.dumps(Bomb(trap), 2)),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ModelError, match=name):
            read_state(tmp_path / name)
    assert not trap.exists()


def test_a_hub_folder_with_a_malicious_pickle_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "exploded"
    torch.save({"bert.x": Bomb(trap)}, tmp_path / "pytorch_model.bin")
    before = bert(1)
    target = bert(1)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        load_hub_part(target.bert, str(tmp_path), prefix="bert.")
    assert not trap.exists()
    assert same(target, before)


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict"])
def test_state_dicts_come_wrapped(wrap: str, tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b.c": torch.zeros(2, 2)}
    torch.save(state if wrap == "plain" else {wrap: state, "epoch": 3}, tmp_path / "x.pth")
    found = read_state(tmp_path / "x.pth")
    assert found.keys() == state.keys()
    assert torch.equal(found["a"], state["a"])


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"model": torch.zeros(2)}, 7])
def test_files_without_named_tensors_say_so(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.bin")
    with pytest.raises(ModelError, match=r"odd\.bin hold a \w+, not named tensors"):
        read_state(tmp_path / "odd.bin")


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
@pytest.mark.parametrize("cut", [0, 5, 40])
def test_truncated_files_are_refused_by_name(name: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / name
    (save_file if name.endswith("s") else torch.save)({"a": torch.zeros(40)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=re.escape(str(path))):
        read_state(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_absent_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights at"):
        read_state(tmp_path / name)


# -- folders in the hub's format, written by transformers itself ------------------------------


def hub_bert(folder: Path, kind: str) -> Any:
    from transformers import BertConfig, BertForMaskedLM, BertModel

    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    model = {"bare": BertModel, "task": BertForMaskedLM}[kind](config).eval()
    model.save_pretrained(folder)
    return model


def hub_swin(folder: Path, kind: str) -> Any:
    from transformers import SwinConfig, SwinForImageClassification, SwinModel

    torch.manual_seed(7)
    config = SwinConfig(
        image_size=64,
        patch_size=2,
        embed_dim=8,
        depths=[1, 2, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        num_labels=3,
    )
    model = {"bare": SwinModel, "task": SwinForImageClassification}[kind](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["bare", "task"])
@pytest.mark.parametrize("old", [False, True])
def test_bert_from_a_hub_folder(kind: str, old: bool, tmp_path: Path) -> None:
    source = hub_bert(tmp_path, kind)
    if old:
        state = old_names(dict(load_file(tmp_path / "model.safetensors")))
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    target = bert(3)
    load_hub_part(target.bert, str(tmp_path), prefix="bert.")
    ids, mask = torch.randint(1, 40, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
    inner = source if kind == "bare" else source.bert
    with torch.no_grad():
        torch.testing.assert_close(target(ids, mask), inner(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize("kind", ["bare", "task"])
@pytest.mark.parametrize("old", [False, True])
def test_swin_from_a_hub_folder(kind: str, old: bool, tmp_path: Path) -> None:
    source = hub_swin(tmp_path, kind)
    if old:
        save_file(
            old_spelling(dict(load_file(tmp_path / "model.safetensors"))),
            tmp_path / "model.safetensors",
        )
    target = swin(3, image_size=64)
    load_hub_part(target.swin, str(tmp_path), prefix="swin.")
    inner = source if kind == "bare" else source.swin
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = inner(images, output_hidden_states=True).reshaped_hidden_states[-1]
        ours, hw = target(images)[-1]
    ours = ours.transpose(1, 2).unflatten(2, hw)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_a_donor_of_another_size_is_refused(tmp_path: Path) -> None:
    hub_swin(tmp_path, "task")
    with pytest.raises(ModelError, match=r"relative_position_bias_table .* instead of"):
        load_hub_part(swin(window=2).swin, str(tmp_path), prefix="swin.")


def test_a_shallower_donor_is_refused(tmp_path: Path) -> None:
    hub_swin(tmp_path, "task")
    with pytest.raises(ModelError, match=r"missing encoder\.layers\.2\.blocks\.1"):
        load_hub_part(swin(depths=(1, 2, 2, 1)).swin, str(tmp_path), prefix="swin.")


def test_a_deeper_donor_is_refused(tmp_path: Path) -> None:
    """Half of somebody's encoder is no pre-trained encoder."""
    hub_swin(tmp_path, "task")
    with pytest.raises(ModelError, match=r"unknown encoder\.layers\.1\.blocks\.1"):
        load_hub_part(swin(depths=(1, 1, 1, 1)).swin, str(tmp_path), prefix="swin.")


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    hub_bert(tmp_path, "task")
    target, before = swin(3), swin(3)
    with pytest.raises(ModelError, match="missing"):
        load_hub_part(target.swin, str(tmp_path), prefix="swin.")
    assert same(target, before)


def test_absent_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, before = bert(3), bert(3)
    with pytest.raises(ModelError, match="no folder"):
        load_hub_part(target.bert, str(tmp_path / "nowhere"), prefix="bert.")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no weights in .*empty"):
        load_hub_part(target.bert, str(tmp_path / "empty"), prefix="bert.")
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=r"google-bert/bert-base-uncased.*hub"):
        load_hub_part(target.bert, "google-bert/bert-base-uncased", prefix="bert.")
    assert same(target, before)


def test_a_hub_id_is_fetched_without_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked = {}

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert local_folder("owner/name") == tmp_path
    assert not [p for p in asked["owner/name"] if p.endswith((".py", "*"))]
