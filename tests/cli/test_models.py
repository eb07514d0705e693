"""`refseg models`: what a model learned from is told whole, its encoders' labels too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from refseg import models
from tests.cli.conftest import Run
from tests.methods.toy import toy_model

METRICS = {"mIoU (original, val)": 0.724, "oracle (original, val)": 0.871}
LINE = "text+mask; encoders: swin-scenes (box+attributes), bert-scenes (text)"


def test_the_encoders_labels_are_told(run: Run, bundle: Path) -> None:
    models.save(bundle / "vega-started", replace(toy_model("vega"), card={"labels used": LINE}))
    try:
        rows = {row["name"]: row for row in json.loads(run("models", "--json").stdout)}
        assert rows["vega-started"]["labels"] == LINE
        assert rows["vega-scenes"]["labels"] == "text+mask"
        told = run("models").stdout.splitlines()
        assert f"* vega-started learned from {LINE}" in told
        assert not [line for line in told if line.startswith("* vega-scenes")]
        report = ("eval", "vega-started", "--limit", "2", "--device", "cpu", "--json")
        assert json.loads(run(*report).stdout)["labels"] == LINE
    finally:
        for path in (bundle / "vega-started").iterdir():
            path.unlink()
        (bundle / "vega-started").rmdir()


@pytest.mark.parametrize("metrics", [METRICS, dict(list(METRICS.items())[:1])])
def test_the_oracle_bound_is_beside_the_score(
    run: Run, sandbox: Path, monkeypatch: pytest.MonkeyPatch, metrics: dict[str, float]
) -> None:
    """ "-" for cards of before, and for methods without proposals."""
    models.save(sandbox / "mutual-toy", replace(toy_model("mutual"), card={"metrics": metrics}))
    monkeypatch.setattr(models, "BUNDLED", sandbox)
    told = [line for line in run("models").stdout.splitlines() if line.strip()]
    head, row = (next(line for line in told if one in line) for one in ("oracle %", "mutual-toy"))
    assert head.index("mIoU %") < head.index("oracle %")
    cell = row[head.index("mIoU %") + len("mIoU %") : head.index("oracle %") + len("oracle %")]
    assert cell.strip() == ("87.1" if len(metrics) == 2 else "-")
    assert "72.4" in row
