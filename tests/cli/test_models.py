"""`refseg models`: what a model learned from is told whole, its encoders' labels too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from refseg import models
from tests.cli.conftest import Run
from tests.methods.toy import toy_model

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
