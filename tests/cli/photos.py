"""A model for photographs without weights: untrained heads, and eyes that are told what to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from refseg import models, predict
from refseg.methods.mutual.config import DetectedExtractorConfig
from tests.cli.mutual import toy_mutual
from tests.methods.mutual.test_photographs import WHOLE, ToldEyes


def shelve_photos(shelf: Path, least: float = 0.2) -> None:
    """Put the model into a folder of bundled ones. least: probability of what it takes as seen."""
    looking = DetectedExtractorConfig(width=32, mlp_width=16, least=least, most=5)
    model = toy_mutual(looking, absent=0.25)
    model.preprocess = WHOLE
    models.save(shelf / "photos", model)


def open_eyes(folder: Path, monkeypatch: pytest.MonkeyPatch, eyes: Any = None) -> Any:
    """As if the weights had been pulled into `folder`. Returns the eyes, `ToldEyes` by default."""
    told = ToldEyes() if eyes is None else eyes

    class Opened:
        @staticmethod
        def load(given: Path, device: torch.device) -> Any:
            assert given == folder
            return told

    def whole(name: str, *, hashes: bool) -> Path:
        assert hashes, "what is looked through is checked to the byte"
        return folder

    monkeypatch.setattr(models, "pulled_folder", whole)
    monkeypatch.setattr(predict, "pulled_folder", lambda name: folder)
    monkeypatch.setattr(models, "Eyes", Opened)
    return told
