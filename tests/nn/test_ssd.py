"""The detector: loops in place of its vector forms, and the original graph where it is at hand."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from refseg.errors import ModelError
from refseg.nn import ssd
from refseg.nn.graphdef import read_constants
from refseg.nn.weights import load_state

GRAPH, TEXT = "frozen_inference_graph.pb", "ssd_mobilenet_v2_coco_2018_03_29.pbtxt"


@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (5, 3, 1), (6, 1, 1)])
def test_same_padding_adds_the_odd_pixel_behind(size: int, kernel: int, stride: int) -> None:
    """TensorFlow's rule, pixel by pixel."""
    torch.manual_seed(0)
    conv = ssd.SameConv(2, 3, kernel, stride)
    x = torch.randn(1, 2, size, size)
    out = math.ceil(size / stride)
    before = max((out - 1) * stride + kernel - size, 0) // 2
    found = conv(x)
    assert found.shape == (1, 3, out, out)
    for row in range(out):
        for column in range(out):
            total = conv.bias.detach().clone()
            for i in range(kernel):
                for j in range(kernel):
                    y, z = row * stride + i - before, column * stride + j - before
                    if 0 <= y < size and 0 <= z < size:
                        total += conv.weight.detach()[:, :, i, j] @ x[0, :, y, z]
            torch.testing.assert_close(found[0, :, row, column].detach(), total)


def test_anchors_are_those_of_a_loop() -> None:
    scales = [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0]
    expected = []
    for index, size in enumerate((19, 10, 5, 3, 2, 1)):
        scale, coarser = scales[index], scales[index + 1]
        shapes = [(scale, r) for r in (1, 2, 1 / 2, 3, 1 / 3)] + [(math.sqrt(scale * coarser), 1)]
        if index == 0:
            shapes = [(0.1, 1), (scale, 2), (scale, 1 / 2)]
        for row in range(size):
            for column in range(size):
                for side, ratio in shapes:
                    height, width = side / math.sqrt(ratio), side * math.sqrt(ratio)
                    expected.append(((row + 0.5) / size, (column + 0.5) / size, height, width))
    found = ssd.anchors()
    assert found.shape == (1917, 4)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_boxes_are_decoded_as_they_are_encoded() -> None:
    anchor = ssd.anchors()[::97]
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.5, (len(anchor), 2))
    far = corner + rng.uniform(0.05, 0.5, (len(anchor), 2))
    rows = []
    for (x0, y0), (x1, y1), (ya, xa, ha, wa) in zip(corner, far, anchor.tolist(), strict=True):
        height, width = y1 - y0, x1 - x0
        rows.append(
            (
                10 * ((y0 + y1) / 2 - ya) / ha,
                10 * ((x0 + x1) / 2 - xa) / wa,
                5 * math.log(height / ha),
                5 * math.log(width / wa),
            )
        )
    found = ssd.decode_boxes(torch.tensor(rows, dtype=torch.float64), anchor.double())
    np.testing.assert_allclose(found.numpy(), np.concatenate([corner, far], axis=1), atol=1e-12)


@pytest.mark.parametrize("hw", [(1, 1), (3, 500), (480, 640), (300, 300), (301, 7)])
def test_resizing_looks_where_the_first_tensorflow_did(hw: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*hw, 3), dtype=np.uint8)
    side = 12
    found = ssd.resize_legacy(image, side)
    for row in range(side):
        for column in range(side):
            y, x = row * hw[0] / side, column * hw[1] / side
            top, left = min(int(y), hw[0] - 1), min(int(x), hw[1] - 1)
            below, right = min(top + 1, hw[0] - 1), min(left + 1, hw[1] - 1)
            dy, dx = y - top, x - left
            if top == below:
                dy = 0
            if left == right:
                dx = 0
            pixel = image.astype(float)
            expected = (1 - dy) * ((1 - dx) * pixel[top, left] + dx * pixel[top, right]) + dy * (
                (1 - dx) * pixel[below, left] + dx * pixel[below, right]
            )
            np.testing.assert_allclose(found[row, column], expected, atol=0.05)


@pytest.fixture(scope="module")
def constants() -> dict[str, NDArray[np.float32]]:
    """A graph's constants of the right shapes, made from a random network of ours."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    found: dict[str, NDArray[np.float32]] = {}
    parts = dict(ssd.Ssd().named_modules())
    for ours, (theirs, normed) in ssd.names().items():
        weight = parts[ours].weight.detach()  # type: ignore[union-attr]
        depthwise = theirs.endswith("depthwise")
        order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        kind = "depthwise_weights" if depthwise else "weights"
        found[f"{theirs}/{kind}"] = weight.permute(*order).numpy().copy()
        out = len(weight)
        if not normed:
            found[f"{theirs}/biases"] = rng.normal(size=out).astype(np.float32)
            continue
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            value = (
                rng.uniform(0.5, 1.5, out)
                if part in ("gamma", "moving_variance")
                else rng.normal(size=out)
            )
            found[f"{theirs}/BatchNorm/{part}"] = value.astype(np.float32)
    return found


def test_every_weight_is_named_once() -> None:
    """Our names are all the network's, and no constant stands for two."""
    network = {name.rpartition(".")[0] for name in ssd.Ssd().state_dict()}
    assert set(ssd.names()) == network
    theirs = [name for name, _ in ssd.names().values()]
    assert len(set(theirs)) == len(theirs)


def test_batch_norms_are_folded_in(constants: dict[str, NDArray[np.float32]]) -> None:
    """Convolution, then torch's own batch norm, is the folded convolution."""
    state = ssd.convert(constants)
    load_state(ssd.Ssd(), state, source="made up")
    for ours, stride, channels in (
        ("first", 2, 3),
        ("blocks.3.depthwise", 2, 144),
        ("last", 1, 320),
    ):
        theirs, normed = ssd.names()[ours]
        assert normed
        depthwise = theirs.endswith("depthwise")
        kind = "depthwise_weights" if depthwise else "weights"
        raw = torch.from_numpy(constants[f"{theirs}/{kind}"])
        weight = raw.permute(2, 3, 0, 1) if depthwise else raw.permute(3, 2, 0, 1)
        groups = channels if depthwise else 1
        gamma, beta, mean, variance = (
            torch.from_numpy(constants[f"{theirs}/BatchNorm/{part}"])
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = torch.randn(2, channels, 9, 9)
        plain = F.conv2d(x, weight, stride=stride, groups=groups)
        expected = F.batch_norm(plain, mean, variance, gamma, beta, eps=1e-3)
        found = F.conv2d(x, state[f"{ours}.weight"], state[f"{ours}.bias"], stride, groups=groups)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_graph_that_lacks_something_is_refused(constants: dict[str, NDArray[np.float32]]) -> None:
    name = "BoxPredictor_3/ClassPredictor/biases"
    short = {key: value for key, value in constants.items() if key != name}
    with pytest.raises(ModelError, match=name):
        ssd.convert(short)
    narrow = {**constants, name: constants[name][:-1]}
    with pytest.raises(ModelError, match=r"classes\.3\.bias"):
        load_state(ssd.Ssd(), ssd.convert(narrow), source="made up")


def test_maps_and_answers_have_their_sizes() -> None:
    network = ssd.Ssd().eval()
    with torch.inference_mode():
        maps = network.maps(torch.zeros(1, 3, 300, 300))
        boxes, logits = network(torch.zeros(2, 3, 300, 300))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (576, 19, 19), (1280, 10, 10), (512, 5, 5), (256, 3, 3), (256, 2, 2), (128, 1, 1)
    ]  # fmt: skip
    assert boxes.shape == (2, 1917, 4)
    assert logits.shape == (2, 1917, 91)


def test_a_cell_s_answers_stand_where_its_anchors_do() -> None:
    """One cell of one map is lit: the rows that change are that cell's."""
    x = torch.zeros(1, 8, 3, 3)
    x[0, :, 1, 2] = torch.arange(8.0) + 1
    rows = ssd._rows(x, 4)
    assert rows.shape == (1, 18, 4)
    lit = rows[0].any(dim=1).nonzero()[:, 0].tolist()
    assert lit == [2 * 5, 2 * 5 + 1]  # row 1, column 2 of three; two anchors a cell
    torch.testing.assert_close(rows[0, lit].flatten(), torch.arange(8.0) + 1)


@pytest.mark.parametrize("hw", [(1, 1), (40, 3000), (97, 61)])
def test_boxes_lie_inside_the_picture(hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = ssd.Ssd().eval()
    for head in network.boxes:
        assert isinstance(head, nn.Conv2d)
        nn.init.normal_(head.weight, std=1.0)
    found = ssd.look(network, np.random.default_rng(0).integers(0, 255, (*hw, 3), dtype=np.uint8))
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [hw[1], hw[0]] * 2).all()
    assert found.probabilities.min() >= 0
    assert found.probabilities.max() <= 1


def original() -> Path:
    """The folder with the graph and its description for OpenCV, if it is there."""
    stated = os.environ.get("REFSEG_SSD_GRAPH")
    folder = Path(stated) if stated else Path("nowhere")
    if not all((folder / name).is_file() for name in (GRAPH, TEXT)):
        pytest.skip(f"no {GRAPH} and {TEXT} in the folder $REFSEG_SSD_GRAPH")
    return folder


def test_it_sees_what_opencv_sees_in_the_same_graph(shared_data: Path) -> None:
    """OpenCV runs the original graph; both are given the same resized picture."""
    cv2 = pytest.importorskip("cv2")
    folder = original()
    theirs = cv2.dnn.readNetFromTensorflow(str(folder / GRAPH), str(folder / TEXT))
    network = ssd.Ssd().eval()
    load_state(network, ssd.convert(read_constants(folder / GRAPH)), source=GRAPH)
    seen = 0
    for path in sorted((shared_data / "coco_photos" / "images").iterdir())[:4]:
        image = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        height, width = image.shape[:2]
        small = ssd.resize_legacy(image).transpose(2, 0, 1)[None]
        theirs.setInput(np.ascontiguousarray(small))
        found = ssd.look(network, image)
        for _, number, score, *shares in theirs.forward()[0, 0]:
            if score < 0.05:
                continue
            box = np.clip(shares, 0, 1) * [width, height, width, height]
            apart = np.abs(found.boxes - box).max(axis=1)
            near = np.flatnonzero(apart < 0.1)  # px
            same = np.abs(found.probabilities[near, int(number)] - score)
            assert same.min() < 1e-5
            seen += 1
    assert seen > 10
