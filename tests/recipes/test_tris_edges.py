"""The stages "edges" and "refine" by themselves: which pixels the frozen encoder sees, where the
network works, and pictures that are grey or smaller than a stride.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from refseg.methods.tris.edges import EdgeNet, cells
from refseg.nn.clip import PIXEL_MEAN, PIXEL_STD
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.resnet import ResNetVisionConfig
from refseg.recipes import tris_seeds
from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.labelling import ref_masks
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.training import Job
from refseg.recipes.tris_edges import (
    NET,
    Refiner,
    build_edges,
    learn_edges,
    read_refiner,
    write_masks,
)
from refseg.recipes.tris_select import Selected
from refseg.types import Labels
from tests.data.refer_trees import HW, make_refer
from tests.methods.toy import toy_model
from tests.nn.clip_toys import own_folder
from tests.recipes.tris_small import TEXT, VISION, small_tris

OWN = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.2]}
TINY = (5, 7)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random pair, as a run of `clip_scenes` leaves one."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    return own_folder(folder, ClipPair(PairConfig(vision=VISION, text=TEXT)), pixels=OWN)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Refs 0 and 1 lie in a grey picture of 5 x 7 px, ref 2 in a grey one of 24 x 32."""

    def smaller(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
        instances["images"][0].update(height=TINY[0], width=TINY[1])
        instances["annotations"] = [one for one in instances["annotations"] if one["image_id"] > 1]
        instances["annotations"] += [
            {"id": 10 + n, "image_id": 1, "category_id": 1, "bbox": [n, 0, 2, 2], "iscrowd": 0,
             "segmentation": [[n, 0, n + 2, 0, n + 2, 2, n, 2]]}
            for n in (0, 1)
        ]  # fmt: skip

    root = tmp_path_factory.mktemp("refer")
    folder = make_refer(root, change=smaller)
    for number, hw in ((1, TINY), (2, HW)):
        grey = np.full(hw, 40, np.uint8)
        grey[:, : hw[1] // 2] = 200
        path = root / "images" / "train2014" / f"COCO_train2014_{number:012d}.jpg"
        Image.fromarray(grey).save(path, quality=95)
        assert Image.open(path).mode == "L"
    return folder


def recipe_of(tree: Path, pair: Path, *more: str) -> Recipe:
    small = small_tris(tree, pair)
    return apply_overrides(small, ["tris.edge_crop=64", "data.split_by=unc", *more])


def part_of(recipe: Recipe) -> TrisPart:
    assert recipe.tris is not None
    return recipe.tris


def refs_of(tree: Path) -> ReferDataset:
    return open_data(tree, "train", Labels(), split_by="unc").with_options(view="ref")


def selected() -> Selected:
    """Positive on the left half; ref 1 is nowhere."""
    maps = np.full((3, 4, 4), -1.0, np.float32)
    maps[[0, 2], :, :2] = 1.0
    return Selected(maps, [0, 1, 2], [0, 0, 0], [1.0, 1.0, 1.0])


# -- pixels --------------------------------------------------------------------------------------


def seen_by_the_encoder(net: EdgeNet, picture: np.ndarray) -> np.ndarray:
    """What the encoder's first layer is handed of a picture: [3, H, W]."""
    handed: list[torch.Tensor] = []
    first = next(m for m in net.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda _, given: handed.append(given[0]))
    Refiner(net, selected(), None, None).look(picture)  # type: ignore[arg-type]
    hook.remove()
    return handed[0][0, :, : picture.shape[0], : picture.shape[1]].numpy()


def assert_normalised(found: np.ndarray, picture: np.ndarray, mean: Any, std: Any) -> None:
    """Value by value."""
    for c, y, x in np.ndindex(*found.shape):
        expected = (int(picture[y, x, c]) / 255 - mean[c]) / std[c]
        assert found[c, y, x] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("told", [True, False])
def test_a_clip_sees_pixels_as_it_knows_them(
    told: bool, tree: Path, pair: Path, tmp_path: Path
) -> None:
    """Its own where it says so, else CLIP's; never those of the recipe."""
    about = json.loads((pair / "config.json").read_text())
    if not told:
        del about["pixels"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").write_bytes((pair / "model.safetensors").read_bytes())
    recipe = recipe_of(tree, tmp_path, "preprocess.mean=[0.9,0.9,0.9]")
    net = build_edges(recipe, part_of(recipe))
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    mean, std = (OWN["mean"], OWN["std"]) if told else (PIXEL_MEAN, PIXEL_STD)
    assert_normalised(seen_by_the_encoder(net, picture), picture, mean, std)


def test_a_resnet_sees_imagenets_pixels(tree: Path, pair: Path, tmp_path: Path) -> None:
    """Also where the recipe's networks are CLIPs and see CLIP's."""
    clip = [f"preprocess.mean={list(PIXEL_MEAN)}", f"preprocess.std={list(PIXEL_STD)}"]
    recipe = recipe_of(tree, pair, *clip, f"weights.edges={tmp_path}")
    part = part_of(recipe)
    vision = ResNetVisionConfig(layers=(1, 1, 1, 1), width=8, last_stride=1)
    edges = part.edges.model_copy(update={"vision": vision})
    part = part.model_copy(update={"edges": edges})
    module, _ = EdgeNet(part.edges).hub_part()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    found = seen_by_the_encoder(build_edges(recipe, part), picture)
    assert_normalised(found, picture, IMAGENET_MEAN, IMAGENET_STD)


# -- grey and tiny pictures ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tree: Path, pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/edges of pictures that are grey, two of three refs' smaller than a stride."""
    recipe = recipe_of(tree, pair)
    folder = tmp_path_factory.mktemp("run") / "edges"
    job = Job(recipe, folder.parent, True, "none", None)
    made: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        plain = tris_seeds.seeds
        patch.setattr(tris_seeds, "seeds", lambda *args: made.append(1) or plain(*args))
        learn_edges(job, part_of(recipe), refs_of(tree), selected(), folder)
    assert len(made) <= 2  # ref 1 says nothing; two steps of two ask for four
    return folder


def test_edges_are_learned_from_them_and_seeds_go(learned: Path, tree: Path, pair: Path) -> None:
    recipe = recipe_of(tree, pair)
    assert {path.name for path in learned.iterdir()} >= {NET, "log.jsonl"}
    assert not (learned / "seeds").exists()
    assert not list(learned.glob(".*.tmp"))
    net = read_refiner(learned, recipe, part_of(recipe), selected()).net
    assert torch.isfinite(net.mean_displacement).all()
    assert net.mean_displacement.any()
    assert net.pixel_mean.tolist() == pytest.approx(OWN["mean"])  # kept with the weights
    start = build_edges(recipe, part_of(recipe))
    changed = [
        not torch.equal(a, b) for a, b in zip(net.parameters(), start.parameters(), strict=True)
    ]
    assert any(changed)


def test_they_are_refined_into_a_data_set(
    learned: Path, tree: Path, pair: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tree, pair)
    models.save(tmp_path / "model", toy_model("tris_response"))
    options = ref_masks(recipe, tmp_path / "model", tmp_path / "data")
    job = Job(recipe, tmp_path, True, "none", None)
    refiner = read_refiner(learned, recipe, part_of(recipe), selected())
    write_masks(job, part_of(recipe), options, {}, refiner)
    made = open_data(tmp_path / "data", "train", Labels.parse("text+mask"))
    found = {made[row].image_id: made[row].mask for row in range(len(made))}
    for image_id, hw in ((1, TINY), (2, HW)):
        mask = found[image_id]
        assert mask is not None
        assert mask.shape == hw
        # The map's left half is kept: nothing here could carry it to the far right.
        assert mask[:, 0].mean() > 0.5
        assert mask[:, : hw[1] // 2].mean() > mask[:, -(hw[1] // 2) :].mean()
    counts = json.loads((tmp_path / "data" / "labels.json").read_text())["counts"]
    assert (counts["refs"], counts["nothing found"]) == (2, 1)


@pytest.mark.parametrize("hw", [(1, 1), (1, 9), TINY, (24, 32)])
def test_a_picture_of_any_size_is_looked_at_at_its_own_scale(
    hw: tuple[int, int], tree: Path, pair: Path
) -> None:
    recipe = recipe_of(tree, pair)
    net, handed = build_edges(recipe, part_of(recipe)), []
    plain = net.look
    net.look = lambda images: handed.append(images) or plain(images)  # type: ignore
    refiner = Refiner(net, selected(), recipe.preprocess, part_of(recipe).refine)
    picture = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    answers = refiner(picture, [0, 1, 7])  # 7: a ref without a map
    assert torch.equal(handed[0], tris_seeds.in_unit(picture[None]))
    assert [mask.shape for mask, _ in answers] == [hw] * 3
    assert answers[0][0].any()
    assert not answers[1][0].any()
    assert not answers[2][0].any()
    edge, displacement = refiner.look(picture)
    assert edge.shape == cells(hw)
    assert displacement.shape == (2, *cells(hw))


def test_refinement_looks_where_it_is_told(learned: Path, tree: Path, pair: Path) -> None:
    """On the device of the job, pictures and all."""
    recipe, where = recipe_of(tree, pair), []
    refiner = read_refiner(learned, recipe, part_of(recipe), selected(), "meta")
    assert {p.device.type for p in refiner.net.state_dict().values()} == {"meta"}

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        where.append(images.device.type)
        return torch.zeros(1, 6, 8), torch.zeros(1, 2, 6, 8)

    refiner.net.look = look  # type: ignore[method-assign]
    refiner(np.zeros((*HW, 3), np.uint8), [0])
    assert where == ["meta"]
