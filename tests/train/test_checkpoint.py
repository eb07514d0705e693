from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from refseg.errors import ModelError, RunError
from refseg.train import checkpoint as ckpt
from refseg.train.tensors import gather, put

TENSORS = {
    "model": {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)},
    "optimizer": {"a/exp_avg": torch.ones(2, 3), "a/step": torch.tensor(4.0)},
}


def save(folder: Path, step: int, keep_last: int = 2) -> Path:
    state = ckpt.State(step, 1.5, {"total": 0.25}, 3, {"train": {"lr": 0.1}})
    return ckpt.save_checkpoint(folder, state, TENSORS, keep_last=keep_last)


def test_round_trip_and_last_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, step)
    assert [p.name for p in ckpt.checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]
    found = ckpt.load_last(tmp_path)
    assert found is not None
    assert found.state == ckpt.State(100, 1.5, {"total": 0.25}, 3, {"train": {"lr": 0.1}})
    for part, tensors in TENSORS.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[part][name], tensor)


def test_nothing_there(tmp_path: Path) -> None:
    assert ckpt.load_last(tmp_path / "absent") is None


def test_half_written_ones_are_ignored_and_cleaned(tmp_path: Path) -> None:
    save(tmp_path, 5)
    half = tmp_path / ".step-00000010.123.00ff00ff.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    found = ckpt.load_last(tmp_path)
    assert found is not None
    assert found.state.step == 5
    assert not half.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 5)
    path = save(tmp_path, 10) / name
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RunError, match="step-00000010") as caught:
        ckpt.load_last(tmp_path)
    assert "checkpoint before it" in caught.value.remedy


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        with pytest.raises(RunError, match="step-00000010"):
            save(tmp_path, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    bad = {**TENSORS, "model": {"a": torch.tensor([1.0, float("nan")])}}
    with pytest.raises(RunError, match="weight a is not finite after step 5"):
        ckpt.save_checkpoint(tmp_path, ckpt.State(5), bad, keep_last=1)
    assert list(tmp_path.iterdir()) == []


def test_best_is_one_file_that_explains_itself(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    best = ckpt.Best("oIoU", 1 / 3, 40, "text+mask", {"oIoU": 1 / 3, "mIoU": 0.5}, path)
    ckpt.save_best(best, TENSORS["model"])
    assert ckpt.read_best(path) == best
    assert ckpt.read_best(tmp_path / "absent") is None
    first = path.read_bytes()
    ckpt.save_best(best, TENSORS["model"])
    assert path.read_bytes() == first
    path.write_bytes(first[:40])
    with pytest.raises(RunError, match=r"best\.safetensors"):
        ckpt.read_best(path)


def test_another_recipe_is_refused_key_by_key(tmp_path: Path) -> None:
    saved = {"train": {"lr": 0.1, "betas": (0.9, 0.99)}, "name": "x"}
    ckpt.check_identity(saved, {"name": "x", "train": {"betas": [0.9, 0.99], "lr": 0.1}}, tmp_path)
    with pytest.raises(RunError) as caught:
        ckpt.check_identity(saved, {"train": {"lr": 0.2, "betas": (0.9, 0.99)}}, tmp_path)
    assert "train.lr: 0.1 in the run, 0.2 now" in caught.value.message
    assert "name: 'x' in the run, '(absent)' now" in caught.value.message
    assert "betas" not in caught.value.message


def test_gather_copies_and_put_checks() -> None:
    weight = torch.zeros(2, 3)
    whole = gather({"a": weight, "same": weight, "t": weight.t()})
    assert whole["a"].data_ptr() != whole["same"].data_ptr() != weight.data_ptr()
    assert whole["t"].is_contiguous()
    put({"a": weight}, {"a": torch.ones(2, 3)}, "w")
    assert weight.sum() == 6
    with pytest.raises(ModelError, match=r"missing: a; unknown: b"):
        put({"a": weight}, {"b": weight}, "w")
    with pytest.raises(ModelError, match="another shape: a"):
        put({"a": weight}, {"a": torch.ones(3, 2)}, "w")
