from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from refseg.train.config import TrainConfig
from refseg.train.schedule import lr_factor


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"steps": 100, **changes})


def test_poly_golden_values() -> None:
    assert lr_factor(config(), 0, 100) == 1.0
    assert lr_factor(config(), 50, 100) == pytest.approx(0.5359, abs=5e-5)
    assert lr_factor(config(), 99, 100) == pytest.approx(0.01**0.9)


def test_cosine_and_constant() -> None:
    assert lr_factor(config(schedule="cosine"), 25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert lr_factor(config(schedule="constant"), 99, 100) == 1.0


def test_step_drops_at_its_fractions() -> None:
    steps = config(schedule="step", step_at=(0.5, 0.9), step_factor=0.1)
    found = [lr_factor(steps, i, 10) for i in (0, 4, 5, 8, 9)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warmup_rises_to_the_schedule() -> None:
    warm = config(schedule="constant", warmup=4)
    assert [lr_factor(warm, i, 10) for i in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert lr_factor(config(warmup=4), 50, 100) == pytest.approx(0.5359, abs=5e-5)


SEQTR = {
    "steps": None, "epochs": 90, "lr": 5e-4, "warmup_epochs": 5,
    "schedule": "step", "step_at": (74 / 90,), "step_factor": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("per_epoch", [1, 2, 3, 4, 5, 7, 11, 49, 97, 331])
def test_seqtrs_schedule_in_all_its_epochs(per_epoch: int) -> None:
    """A rise of five epochs, then 5e-4 through epoch 74 of 90 (from 1), then a tenth."""
    seqtr = config(**SEQTR)
    seqtr = TrainConfig.model_validate_json(seqtr.model_dump_json())  # as from a run's file
    for epoch in range(90):
        factor = (epoch + 1) / 6 if epoch < 5 else 1.0 if epoch < 74 else 0.1
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            assert lr_factor(seqtr, step, 90 * per_epoch) == factor
            assert seqtr.lr * factor == pytest.approx(5e-4 * factor, rel=1e-15)


def test_a_drop_comes_with_its_epoch_in_runs_of_any_length() -> None:
    """The fraction is the quotient of two whole numbers, and so is what is done of the run."""
    for epochs in range(2, 101):
        for at in range(1, epochs):
            drop = config(epochs=epochs, steps=None, schedule="step", step_at=(at / epochs,))
            for per_epoch in (1, 3, 10):
                step, total = at * per_epoch, epochs * per_epoch
                assert lr_factor(drop, step - 1, total) == 1.0
                assert lr_factor(drop, step, total) == 0.1


def test_warmup_epochs_multiply_the_other_schedules() -> None:
    warm = config(steps=None, epochs=4, warmup_epochs=2, schedule="poly")
    plain = config(steps=None, epochs=4, schedule="poly")
    for step in range(12):
        rise = (1 / 3, 2 / 3, 1, 1)[step // 3]
        assert lr_factor(warm, step, 12) == pytest.approx(rise * lr_factor(plain, step, 12))
    # Fewer steps than epochs (a run for a look): each counts as one.
    assert [lr_factor(config(**SEQTR), i, 3) for i in range(2)] == pytest.approx([1 / 6, 2 / 6])


@settings(deadline=None, max_examples=50)
@given(
    schedule=st.sampled_from(["constant", "poly", "step", "cosine"]),
    total=st.integers(1, 500),
    warmup=st.integers(0, 50),
)
def test_factor_is_in_0_1_and_falls_after_warmup(schedule: str, total: int, warmup: int) -> None:
    found = [lr_factor(config(schedule=schedule, warmup=warmup), i, total) for i in range(total)]
    assert all(0 < f <= 1 for f in found)
    assert all(a >= b for a, b in zip(found[warmup:], found[warmup + 1 :], strict=False))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 3},
        {"steps": None},
        {"lr": float("nan")},
        {"batch_size": 0},
        {"step_at": (2.0,)},
        {"evaluate_every": 0},
        {"learning_rate": 1.0},
        {"eps": 0.0},
        {"eps": float("inf")},
        {"warmup_epochs": 5},
        {"steps": None, "epochs": 90, "warmup_epochs": 5, "warmup": 10},
        {"steps": None, "epochs": 90, "warmup_epochs": -1},
    ],
)
def test_contradictions_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)
