"""A model as one folder: weights, tokenizer, preprocessing and card, saved and loaded together.

config.json         method, its configuration, preprocessing, max_words, card
model.safetensors   weights (float32, or float16 to be small)
tokenizer.json      word pieces
README.md           the model card for people
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

import refseg
from refseg.card import card_text
from refseg.data.collate import collate
from refseg.data.tokens import WordTokenizer, load_tokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError, ModelError, RefsegError, UnknownName
from refseg.methods import METHODS, method_types
from refseg.nn.eyes import Eyes
from refseg.nn.weights import load_state, local_folder, read_state
from refseg.pull.kept import pulled_folder
from refseg.recipes.overrides import reasons
from refseg.types import Batch, Prediction, Sample

BUNDLED = Path(refseg.__file__).parent / "checkpoints"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
PHOTOS = "photos"  # the bundled model for photographs, and what is pulled for it to see by


class ModelFile(BaseModel):
    """The content of `config.json`. min_score: see `Model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    refseg: str
    method: str
    method_config: dict[str, Any]
    preprocess: PreprocessConfig
    max_words: int = Field(ge=2)
    min_score: float = Field(default=0.0, ge=0, lt=1)
    card: dict[str, Any] = Field(default_factory=dict)


@dataclass
class Model:
    """A method with everything it needs to answer. card: what it is and what it learned from.

    min_score: below it an answer to a person is "nothing there", as measured; 0: always something,
    where anything is found.
    """

    name: str
    method_name: str
    method: Any
    tokenizer: WordTokenizer
    preprocess: PreprocessConfig
    card: dict[str, Any] = field(default_factory=dict)
    min_score: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        parameter: nn.Parameter = next(self.method.parameters())
        return parameter.device

    def batch(self, samples: Sequence[Sample], *, share_images: bool = False) -> Batch:
        """Samples (px) to a batch (net) on the CPU; see `refseg.data.collate.collate`."""
        return collate(
            samples,
            self.tokenizer,
            self.preprocess,
            share_images=share_images,
            originals=getattr(self.method, "wants_originals", False),
        )

    @torch.inference_mode()
    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """The score S of every proposal for each sample, [N_i] float32; their differences count.

        With annotated objects N_i is K and row i the image's object i; one without a box scores
        -inf. Raises ConfigError when the method scores no proposals.
        """
        self.method.eval()
        batch = self.batch(samples, share_images=True).to(self.device)
        found = getattr(self.method(batch), "scores", None)
        if found is None:
            raise ConfigError(
                f"{self.name}: method {self.method_name} scores no proposals",
                remedy="use a model of the method mutual",
            )
        rows = found.float().cpu().numpy()
        if batch.objects is None:
            return list(rows)
        counts = batch.objects.known.sum(dim=1)[batch.image_of].tolist()
        whole = self.method.reads_objects
        return [row[:k] if whole else row for row, k in zip(rows, counts, strict=True)]

    @torch.inference_mode()
    def predict(
        self, samples: Sequence[Sample], seen: Callable[[Any, Batch], None] | None = None
    ) -> list[Prediction]:
        """One prediction per sample; samples with the same image_id share its encoding.

        seen(outputs, batch): told what the method made of them.
        """
        self.method.eval()
        batch = self.batch(samples, share_images=True).to(self.device)
        outputs = self.method(batch)
        if seen is not None:
            seen(outputs, batch)
        predictions: list[Prediction] = self.method.decode(outputs, batch)
        return predictions


def build_method(name: str, config: Any) -> Any:
    """The untrained method `name`. config: its pydantic config, or the dict of one.

    Raises ConfigError for sizes that do not fit each other, ValidationError for another dict.
    """
    method, config_type = method_types(name)
    if not isinstance(config, config_type):
        config = config_type.model_validate(config)
    try:
        return method(config)
    except ValueError as error:  # what the method does not check itself, its libraries do
        raise ConfigError(
            f"method {name} cannot be built: {' '.join(str(error).split())[:200]}",
            remedy="change the sizes in method.* that it names",
        ) from error


def word_limits(method: Any) -> dict[str, int]:
    """The longest expression, in tokens, that a method has places for: key of its config -> tokens.

    Empty for a method that says nothing of it (the optional ability `word_limits`).
    """
    return dict(getattr(method, "word_limits", {}))


def list_bundled() -> list[str]:
    """Names of the models inside the package."""
    if not BUNDLED.is_dir():
        return []
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "config.json").is_file())


def list_encoders() -> list[str]:
    """Names of the encoders inside the package."""
    return sorted(p.parent.name for p in (BUNDLED / "encoders").glob("*/config.json"))


def find_encoder(name: str) -> Path:
    """The folder of a bundled encoder ("swin-scenes"), a local folder or weight file, or the
    snapshot of a hub id.

    Raises ModelError when it is none of them.
    """
    bundled = BUNDLED / "encoders" / name
    if (bundled / "config.json").is_file():
        return bundled
    file = Path(os.path.expanduser(name))  # noqa: PTH111  (Path's own fails on ~nobody)
    if file.is_file():
        return file
    from refseg.recipes.catalog import ENCODERS  # its modules import this one

    recipe = name.replace("-", "_")
    if recipe in ENCODERS and not Path(name).is_dir():
        raise ModelError(
            f"{name} is not in this installation",
            remedy=f"train it with `refseg train {recipe} --out RUN` and name RUN/model",
        )
    return local_folder(name)


def find_model(name: str) -> Path:
    """The folder of a bundled name, a local folder, or a hub id ("owner/name").

    Raises ModelError for a model that has a recipe and is not here, UnknownName for anything else,
    offering the nearest bundled name.
    """
    bundled = list_bundled()
    if name in bundled:
        return BUNDLED / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.count("/") == 1 and not name.startswith((".", "~", "/")):
        return local_folder(name)
    if "/" in name:
        raise ModelError(f"no model folder {name}", remedy="check the path")
    from refseg.recipes.catalog import RECIPES  # its modules import this one

    recipe = name.replace("-", "_")
    if recipe in RECIPES:
        raise ModelError(
            f"{name} is not in this installation",
            remedy=f"train it with `refseg train {recipe} --out RUN` and name RUN/model",
        )
    if name in METHODS:
        raise ModelError(
            f"{name} is a method, and no model of that name is here",
            remedy="give the folder of one: `refseg train` makes them, and for maskclip and "
            "groupvit `refseg models convert`, without training",
        )
    raise UnknownName("model", name, bundled)


def read_model_file(folder: Path) -> ModelFile:
    """Read and check `config.json`. Raises ModelError for a half-written folder, by file."""
    described = _read_json(folder / "config.json")
    if isinstance(described, dict) and {"model_type", "pair"} & described.keys():
        whole = "pair" in described or described["model_type"] in ("clip", "groupvit")
        remedy = f"train a method from it: --set weights.vision={folder} or weights.text=..."
        raise ModelError(
            f"{folder} is an encoder in the hub's format, no whole model",
            remedy=f"make one of it: refseg models convert {folder} --out DIR; or {remedy}"
            if whole
            else remedy,
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"model folder {folder} is incomplete: no {', '.join(missing)}",
            remedy="export it again, or finish the training run that was writing it",
        )
    try:
        return ModelFile.model_validate(described)
    except ValidationError as error:
        raise ModelError(
            f"broken {folder / 'config.json'}: {reasons(error, places=True)}",
            remedy="get the model again",
        ) from None


def _read_json(path: Path) -> Any:
    """The value in a JSON file; None where there is no file. Raises ModelError if it is broken."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"broken {path}: {error}", remedy="get the model again") from None


def load(name: str | Path, device: str = "cpu", *, eyes: bool = True) -> Model:
    """Load a bundled model, a folder, or a hub id. Raises UnknownName or ModelError.

    eyes: whether a model for photographs looks at them, with what has been pulled; else it takes
    annotated objects, as while learning.
    """
    folder = find_model(str(name))
    described = read_model_file(folder)
    if described.method not in METHODS:
        raise UnknownName(f"method in {folder / 'config.json'}", described.method, METHODS)
    method = _build_described(folder, described)
    state = {
        k: v.float() if v.is_floating_point() else v
        for k, v in read_state(folder / "model.safetensors").items()
    }
    load_state(method, state, source=str(folder))
    tokenizer = load_tokenizer(folder / "tokenizer.json", described.max_words)
    spell(method, tokenizer)
    check_words(folder, method, tokenizer)
    method.eval().to(device)
    if eyes and getattr(method, "wants_eyes", False):
        method.see_by(cache(lambda: _open_eyes(method)))
    return Model(
        folder.name,
        described.method,
        method,
        tokenizer,
        described.preprocess,
        described.card,
        described.min_score,
    )


def _open_eyes(method: Any) -> Eyes:
    """What was pulled, every byte of it (80 ms), where the method is when it is first asked: it may
    be moved after it was loaded. Raises ModelError.
    """
    return Eyes.load(pulled_folder(PHOTOS, hashes=True), next(method.parameters()).device)


def _build_described(folder: Path, described: ModelFile) -> Any:
    """The method that config.json asks for. Any failure is the file's: raises ModelError."""
    try:
        return build_method(described.method, described.method_config)
    except ValidationError as error:
        why = reasons(error, places=True)
    except RefsegError as error:
        why = error.message
    except Exception as error:  # sizes that nobody can have fail in many ways, memory included
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise ModelError(
        f"{folder / 'config.json'} does not fit method {described.method}: {why}",
        remedy="use the refseg version that wrote it, or get the model again",
    )


def spell(method: Any, tokenizer: WordTokenizer) -> None:
    """Tell a method that reads words of its own their ids (the optional ability `spell`)."""
    if hasattr(method, "spell"):
        method.spell(tokenizer.ids)


def check_words(folder: Path, method: Any, tokenizer: WordTokenizer) -> None:
    """Refuse a tokenizer whose ids or lengths the text encoder has no rows for: ModelError."""
    ids = getattr(getattr(method.config, "text", None), "vocab_size", None)
    if ids is not None and tokenizer.vocab_size > ids:
        raise ModelError(
            f"the tokenizer of {folder} has {tokenizer.vocab_size} token ids, its text encoder "
            f"{ids}",
            remedy="tokenizer.json or config.json is another model's; get the model again",
        )
    for key, limit in word_limits(method).items():
        if tokenizer.max_words > limit:
            raise ModelError(
                f"the tokenizer of {folder} gives {tokenizer.max_words} words at most, its method "
                f"takes {limit} ({key})",
                remedy="tokenizer.json or config.json is another model's; get the model again",
            )


def save(folder: Path, model: Model, *, half: bool = False) -> None:
    """Write the model folder whole or not at all. half: float16 weights, half the size."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    described = ModelFile(
        refseg=refseg.__version__,
        method=model.method_name,
        method_config=model.method.config.model_dump(mode="json"),
        preprocess=model.preprocess,
        max_words=model.tokenizer.max_words,
        min_score=model.min_score,
        card=model.card,
    )
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        state = {k: v.detach().cpu().contiguous() for k, v in model.method.state_dict().items()}
        if half:
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        save_file(state, temporary / "model.safetensors")
        (temporary / "model.safetensors").chmod(0o644)  # safetensors: for its owner alone
        model.tokenizer.save(temporary / "tokenizer.json")
        text = json.dumps(described.model_dump(mode="json"), indent=1)
        (temporary / "config.json").write_text(text + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(
            card_text(model.name, model.method_name, model.card), encoding="utf-8"
        )
        temporary.chmod(0o755)
        if folder.exists():
            old = temporary.with_name(temporary.name + ".old")
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def describe_models(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """One row per readable model folder: name, method, card, size in bytes."""
    rows = []
    for folder in folders:
        described = read_model_file(folder)
        size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
        rows.append(
            {"name": folder.name, "method": described.method, "card": described.card, "bytes": size}
        )
    return rows
