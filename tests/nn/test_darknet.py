"""DarkNet: equal to its layer table run line by line, frozen parts, files read to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from refseg.errors import ModelError
from refseg.nn.darknet import DarkNet, DarkNetVisionConfig, load_darknet_weights
from refseg.nn.vision import SwinVisionConfig

SMALL = {"width": 2, "depths": (1, 2, 1, 1, 1)}
Row = tuple[int, int, int, int, int]  # channels in, channels out, kernel, stride, output to add


def darknet(seed: int = 0, **changes: Any) -> DarkNet:
    """A small one with statistics and norms that are not those of the beginning."""
    torch.manual_seed(seed)
    made = DarkNet(DarkNetVisionConfig.model_validate({**SMALL, **changes}))
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point() and "norm" in name:
                value.normal_(0.5, 0.5)
    return made


def table(width: int, depths: tuple[int, ...], neck: bool = True) -> Iterator[Row]:
    """YOLOv3's convolutions in the order of its file; 1 adds the output before the last two."""
    yield 3, width, 3, 1, 0
    for depth in depths:
        yield width, 2 * width, 3, 2, 0
        width *= 2
        for _ in range(depth):
            yield width, width // 2, 1, 1, 0
            yield width // 2, width, 3, 1, 1
    for _ in range(3 if neck else 0):
        yield width, width // 2, 1, 1, 0
        yield width // 2, width, 3, 1, 0


def numbers_of(made: DarkNet) -> NDArray[np.float32]:
    """The weights as a file has them, by names of the state and no helper of the module."""
    state = made.state_dict()
    parts = []
    for key in state:
        if key.endswith("conv.weight"):
            unit = key.removesuffix("conv.weight")
            for name in ("bias", "weight", "running_mean", "running_var"):
                parts.append(state[f"{unit}norm.{name}"].flatten())
            parts.append(state[key].flatten())
    return torch.cat(parts).numpy()


def write(path: Path, numbers: NDArray[np.float32], version: tuple[int, int] = (0, 2)) -> Path:
    seen = np.array([32013312], "<i8" if version == (0, 2) else "<i4")
    path.write_bytes(np.array([*version, 0], "<i4").tobytes() + seen.tobytes() + numbers.tobytes())
    return path


def literal(numbers: NDArray[np.float32], rows: list[Row], images: Tensor) -> list[Tensor]:
    """Every output of the table's rows, from the file's numbers alone."""
    rest, x, outputs = torch.from_numpy(numbers), images, [images]
    for inside, out, kernel, stride, adds in rows:
        sizes = [out, out, out, out, out * inside * kernel**2]
        bias, weight, mean, var, flat = rest[: sum(sizes)].split(sizes)
        rest = rest[sum(sizes) :]
        x = F.conv2d(x, flat.view(out, inside, kernel, kernel), None, stride, kernel // 2)
        column = (slice(None), None, None)
        x = (x - mean[column]) / (var[column] + 1e-5).sqrt() * weight[column] + bias[column]
        x = torch.where(x > 0, x, 0.1 * x)
        if adds:
            x = x + outputs[-2]
        outputs.append(x)
    assert len(rest) == 0
    return outputs[1:]


@pytest.mark.parametrize("neck", [True, False])
def test_it_is_the_table_line_by_line(neck: bool) -> None:
    made = darknet(neck=neck, frozen="all")
    rows = list(table(2, SMALL["depths"], neck))  # type: ignore[arg-type]
    images = torch.rand(2, 3, 48, 80)
    outputs = literal(numbers_of(made), rows, images)
    last = {out.shape[1]: out for out in outputs}  # the last of so many channels
    stage3 = [out for out in outputs if out.shape[-1] == 10 and out.shape[1] == 16][-1]
    stage4 = [out for out in outputs if out.shape[-1] == 5 and out.shape[1] == 32][-1]
    for ours, theirs in zip(made(images), [stage3, stage4, last[64]], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((64, 64), [(8, 8), (4, 4), (2, 2)]),
        ((96, 64), [(12, 8), (6, 4), (3, 2)]),
        ((33, 65), [(5, 9), (3, 5), (2, 3)]),
        ((1, 31), [(1, 4), (1, 2), (1, 1)]),
    ],
)
def test_shapes(size: tuple[int, int], sides: list[tuple[int, int]]) -> None:
    made = darknet().eval()
    assert made.channels == (16, 32, 64)
    assert made.strides == (8, 16, 32)
    shapes = [tuple(out.shape) for out in made(torch.rand(1, 3, *size))]
    assert shapes == [(1, c, *side) for c, side in zip(made.channels, sides, strict=True)]


@pytest.mark.parametrize(("neck", "millions", "floats"), [(True, 56.3, 0), (False, 40.6, 40620640)])
def test_the_full_size(neck: bool, millions: float, floats: int) -> None:
    config = DarkNetVisionConfig(neck=neck, frozen="all but neck end" if neck else "all")
    with torch.device("meta"):
        made = DarkNet(config)
        shapes = [tuple(x.shape) for x in made(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(1, 256, 8, 8), (1, 512, 4, 4), (1, 1024, 2, 2)]
    rows = list(table(32, config.depths, neck))
    assert len(rows) == 52 + 6 * neck
    count = sum(p.numel() for p in made.parameters())
    assert count == sum(i * o * k**2 + 2 * o for i, o, k, *_ in rows)
    assert count / 1e6 == pytest.approx(millions, abs=0.05)
    trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(5.2 * neck, abs=0.05)
    # darknet53.conv.74 has 162,482,580 bytes, 20 of them its header.
    assert neck or sum(i * o * k**2 + 4 * o for i, o, k, *_ in rows) == floats == 162482560 // 4


@pytest.mark.parametrize(
    ("frozen", "learning"),
    [("none", "stem stages neck"), ("all but neck end", "neck.4 neck.5"), ("all", "")],
)
def test_what_is_frozen_stays_and_the_rest_learns(frozen: str, learning: str) -> None:
    made = darknet(frozen=frozen)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    for _ in range(2):  # as made, and after .train() of a model around it
        images = torch.rand(2, 3, 64, 64)
        total = torch.stack([out.square().mean() for out in made(images)]).sum()
        if total.requires_grad:
            total.backward()
        torch.nn.Sequential(made).train()

    def learns(name: str) -> bool:
        return any(name.startswith(f"{part}.") for part in learning.split())

    for name, parameter in made.named_parameters():
        assert (parameter.grad is not None) == learns(name), name
    for name, value in made.named_buffers():
        assert torch.equal(value, before[name]) != learns(name), name


def test_frozen_means_the_same_maps_in_training() -> None:
    made, images = darknet(frozen="all"), torch.rand(2, 3, 32, 32)
    for one, two in zip(made.train()(images), made.eval()(images), strict=True):
        assert torch.equal(one, two)


def test_channels_last_images_have_a_gradient() -> None:
    images = torch.rand(2, 3, 40, 40).to(memory_format=torch.channels_last).requires_grad_()
    darknet(frozen="none")(images)[2].sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize("version", [(0, 2), (0, 1)])
@pytest.mark.parametrize("neck", [True, False])
def test_a_file_is_read_to_the_bit(tmp_path: Path, version: tuple[int, int], neck: bool) -> None:
    wanted, made = darknet(0, frozen="all"), darknet(1, neck=neck, frozen="all")
    rest = np.full(77, np.nan, np.float32)  # more layers of the detector, not looked at
    path = write(tmp_path / "whole.weights", np.append(numbers_of(wanted), rest), version)
    load_darknet_weights(made, path)
    state = wanted.state_dict()
    assert all(torch.equal(state[name], value) for name, value in made.state_dict().items())


def refused(made: DarkNet, path: Path) -> ModelError:
    """The error, after which the module is what it was."""
    before = {name: value.clone() for name, value in made.state_dict().items()}
    with pytest.raises(ModelError, match=path.name) as caught:
        load_darknet_weights(made, path)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    return caught.value


def test_too_short_files(tmp_path: Path) -> None:
    made = darknet()
    numbers = numbers_of(darknet(1))
    cut = refused(made, write(tmp_path / "cut.weights", numbers[:-1]))
    assert f"{len(made.units()) - 1} of {len(made.units())} convolutions" in cut.message
    backbone = numbers_of(darknet(1, neck=False, frozen="all"))
    error = refused(made, write(tmp_path / "backbone.weights", backbone))
    assert "neck=false" in error.remedy
    load_darknet_weights(darknet(neck=False, frozen="all"), tmp_path / "backbone.weights")
    refused(made, write(tmp_path / "header.weights", numbers[:0]))


def test_wrong_files(tmp_path: Path) -> None:
    made = darknet()
    numbers = numbers_of(darknet(1))
    broken = numbers.copy()
    broken[100] = np.nan
    assert "not finite" in refused(made, write(tmp_path / "nan.weights", broken)).message
    other = np.append(numbers[40:], numbers[:40])
    assert "variance" in refused(made, write(tmp_path / "other.weights", other)).message
    for name, content in {"empty": b"", "odd": b"12345", "text": b"<!DOCTYPE html>" * 999}.items():
        (tmp_path / name).write_bytes(content)
        assert "no .weights file" in refused(made, tmp_path / name).message
    torch.save(made.state_dict(), tmp_path / "torch.pth")
    refused(made, tmp_path / "torch.pth")
    assert "No such file" in refused(made, tmp_path / "absent").message
    refused(made, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"neck": False}, {"depths": (1, 2, 8, 8)}, {"depths": (1, 2, 8, 8, 0)}, {"patch": 4}],
)
def test_contradictions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DarkNetVisionConfig(**wrong)


def test_a_union_with_swin_tells_them_apart() -> None:
    class Either(BaseModel):
        model_config = ConfigDict(extra="forbid")
        vision: SwinVisionConfig | DarkNetVisionConfig

    for vision in (SwinVisionConfig(), DarkNetVisionConfig(width=4)):
        dumped = Either(vision=vision).model_dump(mode="json")
        assert Either.model_validate(dumped).vision == vision
    assert Either.model_validate({"vision": {"kind": "darknet"}}).vision == DarkNetVisionConfig()
    assert Either.model_validate({"vision": {"width": 8}}).vision == SwinVisionConfig(width=8)
