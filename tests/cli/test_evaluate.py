"""`refseg eval` and `evaluate`: the same numbers as a plain loop, one pass for many protocols."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refseg.baselines import NAMES, centre_disc, make_baseline
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.errors import DataError, LabelsError, RunError, UnknownName
from refseg.evaluate import Options, evaluate, evaluate_all, packed
from refseg.ops.masks import decode_segmentation
from refseg.types import Geometry, Labels, Prediction, Sample
from tests.cli.conftest import Run, files_below, refused

LABELS = Labels.parse("text+box+mask")


class Guess:
    """Answers with a disc that depends on the words alone, and remembers what it was shown."""

    def __init__(self) -> None:
        self.name = "guess"
        self.card: dict[str, Any] = {"labels used": "text"}
        self.shown: list[Sample] = []
        self.calls: list[int] = []

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        self.shown += samples
        self.calls.append(len(samples))
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> Prediction:
        hw = sample.image.shape[0], sample.image.shape[1]
        mask = np.roll(centre_disc(hw), 3 * (sum(map(ord, sample.text)) % 7) - 9, axis=1)
        response = mask.astype(np.float32) * 0.9 + 0.05
        return Prediction(mask, 0.5, Geometry(hw, hw, (1.0, 1.0)), response)


def opened(labels: Labels = LABELS, **options: Any) -> ReferDataset:
    return open_data("scenes", "val", labels, **options)


def test_scores_equal_a_plain_loop() -> None:
    data, ious, inside, outside = opened(), [], 0, 0
    for index in range(len(data)):
        sample = data[index]
        mask = Guess().predict([sample])[0].mask
        both = int((mask & sample.mask).sum())
        either = int((mask | sample.mask).sum())
        ious.append(both / either)
        inside, outside = inside + both, outside + either
    report = evaluate(Guess(), data)
    assert report.n == len(data) > 5
    assert report.metrics["mIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert report.metrics["oIoU"] == pytest.approx(inside / outside, abs=1e-12)
    assert report.metrics["Pr@0.5"] == pytest.approx(np.mean(np.array(ious) > 0.5))
    for name in ("mIoU", "oIoU"):
        low, high = report.intervals[name]
        assert low <= report.metrics[name] <= high


def test_consistency_equals_a_loop_over_pairs() -> None:
    data, groups = opened(), {}
    for index in range(len(data)):
        sample = data[index]
        groups.setdefault(sample.ref_id, []).append(Guess().predict([sample])[0].mask)
    means = []
    for masks in groups.values():
        pairs = list(itertools.combinations(masks, 2))
        if pairs:
            means.append(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))
    assert evaluate(Guess(), data).metrics["consistency"] == pytest.approx(np.mean(means))


def test_one_pass_serves_every_protocol() -> None:
    names, model = ["original", "lavt-480", "cgformer", "tris"], Guess()
    reports = evaluate_all(model, opened(), names)
    assert len(model.shown) == len(opened())
    assert [report.protocol for report in reports] == names
    for report in reports:
        alone = evaluate(Guess(), opened(), report.protocol)
        assert alone.metrics == report.metrics
        assert alone.intervals == report.intervals


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_batches_change_nothing(batch_size: int) -> None:
    model = Guess()
    report = evaluate(model, opened(), batch_size=batch_size)
    assert report.metrics == evaluate(Guess(), opened()).metrics
    assert max(model.calls) <= batch_size


def test_the_model_sees_no_label() -> None:
    model = Guess()
    evaluate(model, opened())
    for sample in model.shown:
        assert sample.mask is None
        assert sample.box_xyxy is None
        assert sample.category is None
        assert sample.empty is None
        assert sample.parts == 0


def test_masks_must_be_granted() -> None:
    with pytest.raises(LabelsError, match="masks"):
        evaluate(Guess(), opened(Labels.parse("text+box")))


def test_limit_progress_and_keep() -> None:
    steps: list[int] = []
    seen: list[tuple[str, float]] = []
    report = evaluate(
        Guess(),
        opened(),
        limit=4,
        batch_size=3,
        progress=steps.append,
        keep=lambda sample, prediction, iou: seen.append((sample.key, iou)),
    )
    assert report.n == sum(steps) == 4
    assert sorted(seen) == list(zip(report.samples["key"], report.samples["iou"], strict=True))


def test_perturbed_words_depend_on_the_key_alone() -> None:
    def spoil(text: str, rng: np.random.Generator) -> str:
        return f"{text} {rng.integers(1_000_000)}"

    first, second = Guess(), Guess()
    report = evaluate(first, opened(), perturb=spoil)
    evaluate(second, opened(), perturb=spoil, batch_size=1)
    assert {s.key: s.text for s in first.shown} == {s.key: s.text for s in second.shown}
    assert len({s.text.split()[-1] for s in first.shown}) > 1
    assert report.text == "perturbed"


def partly_empty(folder: Path, targets: int = 6, absent: int = 14) -> ReferDataset:
    """One expression a picture; the last `absent` mean nothing there."""
    lines = ["image,text,mask"]
    for place in ("images", "masks"):
        (folder / place).mkdir()
    for number in range(targets + absent):
        picture = np.zeros((24, 32, 3), np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        mask = "none" if number >= targets else f"{number}.png"
        if number < targets:
            picture[4 : 8 + 2 * number, 6:26] = 255
            Image.fromarray(picture[..., 0]).save(folder / "masks" / mask)
        lines.append(f"{number}.png,word {'x' * number},{mask}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return open_data(folder, "train", LABELS)


def test_intervals_are_over_what_their_metric_counts(tmp_path: Path) -> None:
    data = partly_empty(tmp_path)
    report = evaluate(Guess(), data)
    for name in ("mIoU", "oIoU", "gIoU", "cIoU"):
        low, high = report.intervals[name]
        assert low < report.metrics[name] < high, name
    # Twin: the targets alone, drawn by hand.
    rows = [n for n, empty in enumerate(report.samples["target_empty"]) if not empty]
    iou = np.array(report.samples["iou"])[rows]
    assert len(rows) == 6
    assert report.metrics["mIoU"] == pytest.approx(iou.mean())
    assert iou.min() <= report.intervals["mIoU"][0]
    drawn = iou[np.random.default_rng(0).integers(0, 6, (2000, 6))].mean(axis=1)
    assert report.intervals["mIoU"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)


def test_data_of_absences_alone_has_no_interval_of_targets(tmp_path: Path) -> None:
    report = evaluate(Guess(), partly_empty(tmp_path, targets=0))
    assert set(report.intervals) == {"gIoU", "cIoU"} <= set(report.metrics)


def overlapping(folder: Path) -> ReferDataset:
    """One target of two squares of 100 pixels that share 25."""
    outline = [[n, n, n + 10, n, n + 10, n + 10, n, n + 10] for n in (10, 15)]
    instances = {
        "images": [{"id": 1, "file_name": "1.png", "height": 40, "width": 50}],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [10, 10, 15, 15], "segmentation": outline}
        ],
        "categories": [],
    }
    sentences = [{"sent_id": 1, "raw": "cup", "sent": "cup"}]
    ref = {"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "sentences": sentences}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).json").write_text(json.dumps([ref]))
    Image.new("RGB", (50, 40)).save(folder / "1.png")
    return open_data(folder, "val", LABELS, images=folder)


def test_a_mask_rule_of_ones_own_renames_the_protocol(tmp_path: Path) -> None:
    data = overlapping(tmp_path)
    whole = make_baseline("baseline:whole-image", data)
    plain = evaluate(whole, data)
    forced = evaluate(whole, data, mask_rule="lavt_compat")
    assert (plain.protocol, forced.protocol) == ("original", "original+lavt_compat")
    assert plain.metrics["mIoU"] == pytest.approx(175 / 2000)
    assert forced.metrics["mIoU"] == pytest.approx(150 / 2000)
    assert evaluate(whole, data, mask_rule="union") == plain
    assert evaluate(whole, data, "lavt-480", mask_rule="lavt_compat").protocol == "lavt-480"


def test_the_mask_rule_is_an_option(run: Run, sandbox: Path) -> None:
    overlapping(sandbox)
    words = ("--data", sandbox, "--images", sandbox, "--mask-rule", "lavt_compat", "--json")
    told = json.loads(run("eval", "baseline:whole-image", *words).stdout)
    assert (told["protocol"], told["metrics"]["mIoU"]) == ("original+lavt_compat", 0.075)


def test_an_empty_selection_is_told() -> None:
    with pytest.raises(DataError, match="no expression"):
        evaluate_all(Guess(), opened(), ["original"], options=Options(limit=0))


@given(
    sizes=st.lists(st.integers(0, 7), max_size=12),
    batch_size=st.integers(1, 9),
    limit=st.none() | st.integers(0, 40),
)
def test_packing_keeps_order_bounds_and_images(
    sizes: list[int], batch_size: int, limit: int | None
) -> None:
    numbers = iter(range(sum(sizes)))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    batches = list(packed(groups, batch_size, limit))
    flat = [number for batch in batches for number in batch]
    assert flat == list(range(sum(sizes)))[:limit]
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    for group in groups:
        if len(group) <= batch_size:  # an image that fits is never cut in two
            assert sum(bool(set(group) & set(batch)) for batch in batches) <= 1


def test_baselines_against_their_definition() -> None:
    data = opened()
    sample = data[0]
    hw = sample.image.shape[:2]
    whole, disc, largest = (make_baseline(name, data) for name in NAMES)
    assert whole.predict([sample])[0].mask.all()
    mask = disc.predict([sample])[0].mask
    for row in range(hw[0]):
        for column in range(hw[1]):
            away = np.hypot(row + 0.5 - hw[0] / 2, column + 0.5 - hw[1] / 2)
            assert mask[row, column] == (away <= 0.25 * min(hw))
    entry = data.entry(0)
    objects = [
        decode_segmentation(data.records.segmentation(row), hw)[0]
        for row in data.records.annotation_rows(entry.image_row)
    ]
    found = largest.predict([sample])[0].mask
    assert found.sum() == max(one.sum() for one in objects)
    assert any(np.array_equal(found, one) for one in objects)
    assert largest.card["labels used"] == "masks of all objects in the image"


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(UnknownName, match="baseline"):
        make_baseline("baseline:wholeimage", opened())


def test_json_is_one_object(run: Run, toy_folder: Path) -> None:
    words = ("--data", "scenes", "--split", "val", "--limit", "5", "--json")
    told = json.loads(run("eval", "vega-scenes", *words).stdout)
    assert told["model"] == "vega-scenes"
    assert json.loads(run("eval", toy_folder, *words).stdout) == {**told, "model": str(toy_folder)}
    assert (told["data"], told["split"], told["protocol"]) == ("scenes", "val", "original")
    assert (told["labels"], told["n"]) == ("text+mask", 5)
    assert {"mIoU", "oIoU", "Pr@0.5", "Pr@0.9", "REC@0.5", "PointIt"} <= set(told["metrics"])
    assert all(0 <= value <= 1 for value in told["metrics"].values())


def test_several_protocols_make_a_list(run: Run) -> None:
    words = ("eval", NAMES[0], "--protocol", "original", "--protocol", "lavt-480", "--json")
    told = json.loads(run(*words, "--out", "scores/a.json").stdout)
    assert [one["protocol"] for one in told] == ["original", "lavt-480"]
    assert json.loads(Path("scores/a.json").read_text()) == told


@pytest.mark.parametrize("out", ["taken/a.json", "folder", "/proc/x.json"])
def test_a_file_that_cannot_be_written_is_told_before_the_work(
    run: Run, sandbox: Path, out: str
) -> None:
    (sandbox / "taken").touch()
    (sandbox / "folder").mkdir()
    refused(run("eval", NAMES[0], "--json", "--out", out), f"--out {out}: cannot be written", "->")
    assert files_below(sandbox) == ["folder", "taken"]


def test_a_disk_that_fills_up_costs_no_numbers(
    run: Run, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunError("cannot write a.json: the disk is full", remedy="free some space")

    monkeypatch.setattr("refseg.ops.files.atomic_write_json", full)
    result = run("eval", NAMES[0], "--json", "--out", "new/a.json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["n"] > 0
    assert "disk is full" in result.stderr
    assert files_below(sandbox) == []


def test_the_table_shows_percent(run: Run) -> None:
    words = ("eval", "baseline:largest-object", "--data", "scenes+")
    told = json.loads(run(*words, "--json").stdout)
    shown = run(*words).stdout
    assert f"{100 * told['metrics']['oIoU']:.1f}" in shown
    assert "learned from: masks of all objects in the image" in shown


def test_perturbed_expressions_change_the_answer(run: Run, toy_folder: Path) -> None:
    told = json.loads(run("eval", toy_folder, "--perturb", "typo", "--json").stdout)
    assert told["text"] == "typo"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--protocol", "orignal"), 'did you mean "original"'),
        (("--data", "scene"), 'did you mean "scenes"'),
        (("--split", "vall"), 'did you mean "val"'),
        (("--split-by", "orcle"), "oracle"),
        (("--mask-rule", "lavt"), 'did you mean "lavt_compat"'),
        (("--text-field", "row"), 'did you mean "raw"'),
        (("--perturb", "typos"), 'did you mean "typo"'),
        (("--images", "nowhere"), "nowhere"),
        (("--data", "./nowhere"), "nowhere"),
        (("--limit", "0"), "--limit 0"),
        (("--batch-size", "-1"), "--batch-size -1"),
    ],
)
def test_wrong_names_are_refused(
    run: Run, sandbox: Path, words: tuple[str, str], told: str
) -> None:
    refused(run("eval", NAMES[0], *words, "--json"), told, "->")
    assert files_below(sandbox) == []


def test_wrong_models_are_refused(run: Run) -> None:
    refused(run("eval", "vega-scens"), 'did you mean "vega-scenes"')
    refused(run("eval", "baseline:whole-imag"), 'did you mean "baseline:whole-image"')
    refused(run("eval", "./nowhere/model"), "nowhere/model")


def test_a_malicious_pickle_is_refused_by_name(run: Run, sandbox: Path) -> None:
    folder = sandbox / "refcoco"
    folder.mkdir()
    (folder / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    (folder / "instances.json").write_text(
        json.dumps({"images": [], "annotations": [], "categories": []})
    )
    refused(run("eval", NAMES[0], "--data", folder), "refs(unc).p", "os.system")
    assert not (sandbox / "harm").exists()
    (folder / "refs(unc).p").write_bytes(b"\x80\x02]q\x00(")
    refused(run("eval", NAMES[0], "--data", folder), "refs(unc).p", "->")
