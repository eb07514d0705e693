"""Safe loading of weights: safetensors, or `weights_only` for the old format; never a bare pickle.

transformers renames the inside of its modules between versions, and files on the hub keep the
names of their day. `canonical` brings both sides to one spelling, so that a checkpoint written
under one version loads under another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from refseg.errors import ModelError

# (pattern in the 4.x spelling, the 5.x spelling) for Swin; BERT kept its names.
_SWIN_RENAMES = (
    (r"\.attention\.self\.query\.", ".attention.q_proj."),
    (r"\.attention\.self\.key\.", ".attention.k_proj."),
    (r"\.attention\.self\.value\.", ".attention.v_proj."),
    (
        r"\.attention\.self\.relative_position_bias_table",
        ".attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
# A ViT's parts in the 5.x spelling -> those of the hub's files, which are named like BERT's.
_VIT_PART = re.compile(r"^(.*\bvit\.|)layers\.(\d+)\.(attention\.[qkvo]_proj|mlp\.fc[12])\.")
_VIT_LAYER = re.compile(r"^(.*\bvit\.|)layers\.(\d+)\.(layernorm_(?:before|after)\.)")
_VIT_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# Old BERT files say gamma and beta; index tables are computed, not learned.
_RENAMES = (
    (r"\.LayerNorm\.gamma$", ".LayerNorm.weight"),
    (r"\.LayerNorm\.beta$", ".LayerNorm.bias"),
    # Since 5.0 the Swin of a Mask2Former is a part by itself.
    (r"(pixel_level_module\.encoder)\.(embeddings|encoder)\.", r"\1.swin.\2."),
)
_COMPUTED = re.compile(r"(relative_position_index|position_ids)$")


def canonical(key: str) -> str:
    """One spelling for a parameter's name, whatever version wrote it."""
    for pattern, name in _RENAMES:
        key = re.sub(pattern, name, key)
    if ".blocks." in key:
        for pattern, name in _SWIN_RENAMES:
            key = re.sub(pattern, name, key)
    return _vit_named(key)


def _vit_named(key: str) -> str:
    """A ViT's parameter in the hub's spelling; any other name as it is."""
    if found := _VIT_PART.match(key):
        inside, number, part = found.groups()
        return f"{inside}encoder.layer.{number}.{_VIT_NAMES[part]}.{key[found.end() :]}"
    return _VIT_LAYER.sub(r"\1encoder.layer.\2.\3", key)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a .bin/.pth one read with `weights_only`.

    Raises ModelError when the file is absent, truncated, or wants to run code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"no weights at {path}", remedy="check the folder") from None
    except Exception as error:  # safetensors and torch raise many kinds on broken files
        raise ModelError(
            f"cannot read weights {path}: {type(error).__name__}: {str(error)[:200]}",
            remedy="the file is truncated or no plain state dict; get it again",
        ) from error
    state = loaded
    if isinstance(loaded, Mapping):
        state = loaded.get("model", loaded.get("state_dict", loaded))
    if not isinstance(state, Mapping):
        raise ModelError(
            f"weights {path} hold a {type(state).__name__}, not named tensors",
            remedy="give a state dict (name -> tensor)",
        )
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load every parameter and buffer of `module` from `state` (names in any known spelling).

    Raises ModelError that lists what is missing, unknown, or of another shape.
    """
    own = {canonical(key): key for key in module.state_dict()}
    given = {canonical(k): v for k, v in state.items() if not _COMPUTED.search(k)}
    wanted = {key: name for key, name in own.items() if not _COMPUTED.search(name)}
    missing = sorted(set(wanted) - set(given))
    unknown = sorted(set(given) - set(wanted))
    if missing or unknown:
        raise ModelError(
            f"weights of {source} do not fit: missing {_some(missing)}; unknown {_some(unknown)}",
            remedy="use the configuration that the weights were made with",
        )
    shapes = module.state_dict()
    wrong = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(shapes[name].shape)}"
        for key, name in wanted.items()
        if given[key].shape != shapes[name].shape
    ]
    if wrong:
        raise ModelError(
            f"weights of {source} have other shapes: {_some(wrong)}",
            remedy="use the configuration that the weights were made with",
        )
    module.load_state_dict({name: given[key] for key, name in wanted.items()}, strict=False)


def load_hub_part(module: nn.Module, where: str, *, prefix: str) -> None:
    """Load a transformers model (BERT, Swin) from a local folder, file or hub id into `module`.

    prefix: the name the model has inside task models ("bert.", "swin."). Parts that `module`
    does not have at all (poolers, heads) are dropped; more or fewer layers are not.
    Raises ModelError when it is absent: nothing ever starts from random weights in silence.
    """
    state = {canonical(k): v for k, v in read_state(weight_file(where)).items()}
    # Wherever it lies inside: a Mask2Former holds its Swin three names deep.
    mark = f".{prefix}"
    inside = {f".{k}".split(mark, 1)[1]: v for k, v in state.items() if mark in f".{k}"}
    state = inside or state
    parts = {canonical(key).split(".")[0] for key in module.state_dict()}
    fitting = {
        key: value
        for key, value in state.items()
        if key.split(".")[0] in parts and not key.endswith("mask_token")
    }
    load_state(module, fitting, source=where)


def weight_file(where: str) -> Path:
    """The file with the weights of a folder or hub id, or the file that `where` itself is.

    Raises ModelError when there is none.
    """
    path = Path(os.path.expanduser(where))  # noqa: PTH111  (Path's own fails on ~nobody)
    if path.is_file():
        return path
    folder = local_folder(where)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(
        f"no weights in {folder}", remedy="the folder needs model.safetensors or pytorch_model.bin"
    )


def local_folder(where: str) -> Path:
    """The folder `where`, or the local snapshot of the hub id `where`, fetched if reachable."""
    path = Path(os.path.expanduser(where))  # noqa: PTH111  (Path's own fails on ~nobody)
    if path.is_dir():
        return path
    if where.count("/") > 1 or where.startswith((".", "~", "/")):
        raise ModelError(f"no folder {where}", remedy="check the path")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "pytorch_model.bin", "vocab.txt", "README.md"]
    try:
        return Path(snapshot_download(where, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a wide family when it is unreachable
        raise ModelError(
            f'"{where}" is no local folder and cannot be had from the hub ({type(error).__name__})',
            remedy="check the name and the network, or give a local folder with the files",
        ) from error


def _some(names: list[str], most: int = 4) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
