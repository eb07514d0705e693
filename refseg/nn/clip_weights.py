"""Weights of CLIP from our own files, OpenAI's and Hugging Face's, into `ClipPair` or its towers.

| file | its names | where sizes come from |
|---|---|---|
| ours | `vision.`, `text.`, `logit_scale` | "pair" of config.json; "pixels": what it knows |
| OpenAI's, OpenCLIP's of them | `visual.`, `transformer.`, ... | tensors; 64 channels a head |
| Hugging Face's CLIPModel (4.x, 5.x) | `vision_model.`, ... | tensors; heads from config.json |

Names and shapes are checked to the last one before anything is loaded, and what shapes cannot tell
(heads, activation) where the folder tells it. OpenAI's own .pt files are programs with weights
inside, which are never run here; on the hub the same weights lie as plain tensors
("timm/resnet50_clip.openai", "openai/clip-vit-base-patch32").
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from refseg.errors import ConfigError, ModelError
from refseg.nn.clip import ACTIVATION, ClipVision, ClipWords, Pixels
from refseg.nn.clip_names import from_hugging_face, from_openai, no_pair, pair_sizes, shared
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.clip_resnet import ClipResNet, ClipResNetConfig
from refseg.nn.weights import load_state, local_folder, read_state, weight_file

# A hub folder of OpenCLIP: its model.safetensors, if any, may be an image tower in other names.
OPEN_CLIP = "open_clip_model.safetensors"


@dataclass(frozen=True)
class _Found:
    """A file's tensors by the names of ClipPair. heads: of each tower; None: as OpenAI's models.

    config: of our own files.
    """

    source: str
    state: dict[str, Tensor]
    heads: dict[str, int] | None = None
    config: PairConfig | None = None


def read_pair(where: str | Path) -> ClipPair:
    """Both towers from a folder, a weight file or a hub id, in float32 and in eval mode.

    Raises ModelError when anything is absent, unknown or of a shape that fits nothing.
    """
    found = _read(str(where))
    sizes = found.config or pair_sizes(found.state, found.heads, found.source)
    pair = ClipPair(sizes, read_pixels(where))
    load_state(pair, found.state, source=found.source)
    return pair.eval()


def read_pixels(where: str | Path) -> Pixels:
    """What the weights at `where` learned from: "pixels" of the config.json beside them, {"mean":
    [R, G, B], "std": [R, G, B]}; CLIP's own where it says nothing. Raises ModelError.
    """
    path = _weights_at(str(where)).parent / "config.json"
    told = _json(path, "the pixels").get("pixels", {}) if path.is_file() else {}
    try:
        return Pixels.model_validate(told)
    except ValidationError as error:
        raise no_pair(str(path), error) from None


def load_clip_part(module: ClipResNet | ClipWords | ClipVision, where: str) -> None:
    """Load into `module` its tower of what `read_pair` reads; the other one may be missing.

    A ResNet without an attention pool leaves the file's out. Raises ModelError, and leaves `module`
    as it was, unless all else of the tower fits.
    """
    found = _read(where)
    tower = "text" if isinstance(module, ClipWords) else "vision"
    part = {
        key.removeprefix(f"{tower}."): value
        for key, value in found.state.items()
        if key.startswith(f"{tower}.")
    }
    if isinstance(module, ClipResNet) and module.attnpool is None:
        part = {key: value for key, value in part.items() if not key.startswith("attnpool.")}
    else:
        _check_heads(module, tower, found)
    load_state(module, part, source=f"{found.source} ({tower})")


def _check_heads(module: ClipResNet | ClipWords | ClipVision, tower: str, found: _Found) -> None:
    """Other heads fit the same shapes and give other answers. Raises ModelError."""
    if isinstance(module, ClipResNet):
        own, width = module.config.pool_heads, module.channels[-1]
    else:
        own, width = module.config.heads, module.config.width
    given = shared(width) if found.heads is None else found.heads[tower]
    if own != given:
        raise ModelError(
            f"the {tower} tower of {found.source} has {given} heads, not {own}",
            remedy="use the configuration that the weights were made with",
        )


def _read(where: str) -> _Found:
    """Tensors by our names, and what the folder tells beside them. Raises ModelError."""
    path = _weights_at(where)
    _refuse_program(path)
    state = read_state(path)
    config = path.parent / "config.json"
    if any(key.startswith(("text_model.", "vision_model.")) for key in state):
        told = _json(config, "the heads of Hugging Face's weights")
        return _Found(where, from_hugging_face(state), _hugging_face_heads(told, where))
    if any(key.startswith(("visual.", "transformer.resblocks.")) for key in state):
        if path.name == OPEN_CLIP:
            told = _json(path.parent / "open_clip_config.json", "the activation")
            quick = told.get("model_cfg", {}).get("quick_gelu", False)
            _need_activation(where, ACTIVATION if quick else "gelu")
        return _Found(where, from_openai(state))
    if any(key.startswith(("text.", "vision.")) for key in state):
        try:
            told = _json(config, "the sizes of our own weights")
            pair = PairConfig.model_validate(told.get("pair"))
        except (ValidationError, ConfigError) as error:
            raise no_pair(str(config), error) from None
        vision = pair.vision
        heads = vision.pool_heads if isinstance(vision, ClipResNetConfig) else vision.heads
        return _Found(where, state, {"text": pair.text.heads, "vision": heads}, pair)
    raise ModelError(
        f"{path} holds no CLIP (its first name: {next(iter(state), 'none')})",
        remedy="give weights with OpenAI's names or those of Hugging Face's CLIPModel",
    )


def _weights_at(where: str) -> Path:
    path = Path(os.path.expanduser(where))  # noqa: PTH111  (Path's own fails on ~nobody)
    if path.is_file():
        return path
    folder = local_folder(where)
    if (folder / OPEN_CLIP).is_file():
        return folder / OPEN_CLIP
    try:
        return weight_file(str(folder))
    except ModelError:
        for other in sorted(folder.glob("*.pt")):
            _refuse_program(other)
        raise


def _refuse_program(path: Path) -> None:
    """Say what a TorchScript archive is; `read_state` would only call it unreadable."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return
    raise ModelError(
        f"{path} is a TorchScript archive, a program with weights inside, and is not run here",
        remedy="where you trust it, convert it once: write torch.jit.load(FILE).state_dict() as "
        "model.safetensors with safetensors.torch.save_file, and give that; or take the same "
        "weights from the hub (timm/resnet50_clip.openai, openai/clip-vit-base-patch32)",
    )


def _hugging_face_heads(told: dict[str, Any], source: str) -> dict[str, int]:
    """Heads of both towers from a config.json, whose parts are absent where it is of one tower."""
    heads = {}
    for tower, usual in (("text", 8), ("vision", 12)):
        part = told.get(f"{tower}_config")
        part = part if isinstance(part, dict) else told
        _need_activation(source, part.get("hidden_act", ACTIVATION))
        heads[tower] = part.get("num_attention_heads", usual)
    return heads


def _need_activation(source: str, name: str) -> None:
    if name != ACTIVATION:
        raise ModelError(
            f"{source} was trained with the activation {name}, not with OpenAI's {ACTIVATION}",
            remedy="give weights by OpenAI, or others that were trained with it",
        )


def _json(path: Path, what: str) -> dict[str, Any]:
    """The settings in a file. what: it tells. Raises ModelError."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"no {path}, which tells {what}", remedy="give the whole folder that they lie in"
        ) from None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise ModelError(f"{path} is no JSON object", remedy="get the file again")
    return told
