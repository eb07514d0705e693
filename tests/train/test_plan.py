from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refseg.errors import ConfigError
from refseg.train.config import TrainConfig
from refseg.train.plan import Plan


def plan(size: int, batch: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> Plan:
    told = TrainConfig(epochs=3, batch_size=batch, accumulate=accumulate, seed=5)
    return Plan.make(told, size, rank, world)


def global_batches(plans: list[Plan]) -> list[tuple[list[int], int]]:
    """The dumb twin: per step, everything that all processes read, sorted."""
    accumulate, found = plans[0].accumulate, []
    for step in range(plans[0].total_steps):
        read: list[int] = []
        epochs = set()
        for one in plans:
            for part in range(accumulate):
                indices, epoch = one.micro_batch(step * accumulate + part)
                read += indices
                epochs.add(epoch)
        assert len(epochs) == 1
        found.append((sorted(read), epochs.pop()))
    return found


@settings(deadline=None, max_examples=50)
@given(
    size=st.integers(1, 60),
    width=st.integers(1, 4),
    world=st.integers(1, 4),
    accumulate=st.integers(1, 3),
)
def test_processes_share_the_batches_of_one(
    size: int, width: int, world: int, accumulate: int
) -> None:
    batch = width * world * accumulate
    assume(batch <= size)
    alone = global_batches([plan(size, batch)])
    together = global_batches([plan(size, batch, rank, world, accumulate) for rank in range(world)])
    assert together == alone
    for epoch in range(3):
        seen = [i for indices, e in alone if e == epoch for i in indices]
        assert len(set(seen)) == len(seen) == size // batch * batch


def test_order_depends_on_seed_and_epoch_alone() -> None:
    one = plan(20, 4)
    backwards = [one.order(e).tolist() for e in (2, 1, 0)][::-1]
    assert [plan(20, 4).order(e).tolist() for e in range(3)] == backwards
    assert backwards[0] != backwards[1]


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="equal parts") as caught:
        plan(20, 6, world=4)
    assert "multiple of 4" in caught.value.remedy
    with pytest.raises(ConfigError, match="more than the 3 samples"):
        plan(3, 4)
