"""What training starts from: the labels that the weights were learned from, and their hashes.

Encoders say theirs in the entry "refseg" of config.json, whole models in their card. Weights of
others (ImageNet's, BERT's own) say nothing, which is told as "not stated".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refseg import models
from refseg.errors import LabelsError, ModelError, UnknownName
from refseg.nn.clip_weights import OPEN_CLIP
from refseg.nn.weights import weight_file
from refseg.ops.files import sha256_file
from refseg.recipes.base import Recipe, WeightsConfig
from refseg.recipes.stages import OPEN_CLIP_KEY, OPEN_CLIP_PARTS

NOT_STATED = "not stated"
#: Weights that saw one of these are not for recipes that are granted neither.
DENSE = frozenset({"box", "mask"})
#: Where an encoder's config.json says {"labels": "box+attributes", ...}.
ENCODER_ENTRY = "refseg"
#: Where a model's card keeps `Starts.parts`.
CARD_ENTRY = "starts from"


@dataclass(frozen=True)
class Start:
    """Weights that training starts from. name: as the recipe calls them.

    labels: what they were learned from, in words. parts: the same for each of them and of what
    they themselves started from, name -> "box+attributes".
    """

    name: str
    labels: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Starts:
    """A whole model, or encoders, or neither (random weights)."""

    model: Start | None = None
    encoders: Sequence[Start] = ()

    @property
    def parts(self) -> dict[str, str]:
        """Everything that goes in: name -> labels."""
        found = [*([self.model] if self.model else []), *self.encoders]
        return {name: labels for one in found for name, labels in one.parts.items()}

    def told(self, granted: str) -> str:
        """All labels in one line: "text+mask; encoders: swin-scenes (box+attributes), ..."."""
        line = granted
        if self.model is not None:
            line += f"; model: {self.model.name} ({self.model.labels})"
        if self.encoders:
            line += "; encoders: " + ", ".join(f"{e.name} ({e.labels})" for e in self.encoders)
        return line


def find_starts(weights: WeightsConfig) -> Starts:
    """What the weights say of themselves. Raises ModelError, UnknownName: absent or broken."""
    whole = weights.model or weights.rec
    parts = () if whole else (weights.vision, weights.text, weights.proposals)
    # What judges, is looked through or learned before goes in as well, whatever the method itself
    # starts from.
    encoders = []
    for name in dict.fromkeys((*parts, weights.calibrator, weights.edges, weights.respond)):
        if name is not None:
            labels = NOT_STATED if _is_darknet(name) else encoder_labels(models.find_encoder(name))
            encoders.append(Start(name, labels, {name: labels}))
    return Starts(None if whole is None else _whole_model(whole), encoders)


def _whole_model(name: str) -> Start:
    card = models.read_model_file(models.find_model(name)).card
    labels = str(card.get("labels used", NOT_STATED))
    own = str(card.get("labels granted", labels))
    return Start(name, labels, {name: own, **card.get(CARD_ENTRY, {})})


def _is_darknet(name: str) -> bool:
    """A file in darknet's own format says nothing of itself."""
    return name.endswith(".weights")


def encoder_labels(where: Path) -> str:
    """The labels that an encoder's folder, or that of a weight file, says it was learned from, or
    "not stated".

    Raises ModelError for a broken config.json; weights of others need not have one.
    """
    path = (where.parent if where.is_file() else where) / "config.json"
    if not path.is_file():
        return NOT_STATED
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        labels = config.get(ENCODER_ENTRY, {}).get("labels", NOT_STATED)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"broken {path}: {error}", remedy="get the encoder again") from None
    return str(labels)


def check_starts(recipe: Recipe, starts: Starts) -> None:
    """Refuse weights that saw boxes or masks where neither is granted. Raises LabelsError."""
    granted = recipe.labels()
    if granted.granted & DENSE:
        return
    for name, labels in starts.parts.items():
        if {part.partition("(")[0].strip() for part in labels.split("+")} & DENSE:
            raise LabelsError(
                f"recipe {recipe.name} is granted {granted} alone, but would start from {name}, "
                f"which was learned from {labels}",
                remedy="start from weights that saw neither boxes nor masks (null: random ones), "
                "or grant in data.labels what they saw",
            )


def start_hashes(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each file that training starts from, by key of the recipe, and of those of the
    package that decide what it learns, by name.

    What cannot be found is left out: a finished run outlives the weights it started from.
    """
    found = dict[str, str]()
    for key, name in _named(recipe):
        found |= weight_hashes(key, name)
    for path in learned_with(recipe):
        found[path.name] = sha256_file(path)
    return found


def weight_hashes(key: str, name: str) -> dict[str, str]:
    """SHA-256 of what the weights `name` under a key of the recipe may be read from; none where
    they cannot be found.
    """
    with suppress(ModelError, UnknownName, OSError):
        return {part: sha256_file(path) for part, path in _files(key, name).items()}
    return {}


def learned_with(recipe: Recipe) -> dict[Path, str]:
    """Files of the package that decide what the method learns -> the labels they were made of."""
    return dict(getattr(recipe.method, "learned_with", {}))


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    weights = recipe.weights
    if weights.calibrator is not None:
        yield "weights.calibrator", weights.calibrator
    if weights.edges is not None:
        yield "weights.edges", weights.edges
    if weights.respond is not None:
        yield "weights.respond", weights.respond
    if weights.model is not None:
        yield "weights.model", weights.model
        return
    if weights.rec is not None:
        yield "weights.rec", weights.rec
        return
    if weights.vision is not None:
        yield "weights.vision", weights.vision
    if weights.text is not None:
        yield "weights.text", weights.text
    if weights.proposals is not None:
        yield "weights.proposals", weights.proposals
    if recipe.tokens.source != "data":
        yield "tokens.source", recipe.tokens.source


def _files(key: str, name: str) -> dict[str, Path]:
    """What may be read under a key: the usual file, and that of OpenCLIP's folders."""
    if key in ("weights.model", "weights.rec"):
        return {key: models.find_model(name) / "model.safetensors"}
    if _is_darknet(name):
        return {key: Path(name).expanduser()}
    where = models.find_encoder(name)
    if key == "tokens.source":
        pieces = where if where.is_file() else where / "tokenizer.json"
        return {key: pieces if pieces.is_file() else where / "vocab.txt"}
    found = {}
    if key in OPEN_CLIP_PARTS and (where / OPEN_CLIP).is_file():
        found[key + OPEN_CLIP_KEY] = where / OPEN_CLIP
    with suppress(ModelError):
        found[key] = weight_file(str(where))
    return found
