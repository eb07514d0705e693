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
    ],
)
def test_contradictions_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)
