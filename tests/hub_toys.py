"""Folders as the hub has them of CLIP and GroupViT, small, with weights of no meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from refseg.data.tokens import load_tokenizer
from tests.data.test_clip_tokens import clip_file

PLACES = 24  # of words; the small vocabulary spells a dummy letter by letter


def _with_tokenizer(folder: Path) -> int:
    """Puts CLIP's kind of tokenizer there; the number of its ids."""
    folder.mkdir()
    clip_file(folder)
    return load_tokenizer(folder, PLACES).vocab_size


def _text(ids: int, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": ids, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": PLACES, "pad_token_id": 0,
        "bos_token_id": ids - 2, "eos_token_id": ids - 1, **changes,
    }  # fmt: skip


def _shaken(model: Any) -> Any:
    """No parameter as it began, words that are not alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, parameter in model.named_parameters():
            if "token_embedding" in name:
                parameter.mul_(10)
    return model.eval()


def hub_clip(folder: Path) -> Any:
    """A CLIPModel for 32 px with its tokenizer; the model."""
    from transformers import CLIPConfig, CLIPModel

    ids = _with_tokenizer(folder)
    vision = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(3)
    config = CLIPConfig(text_config=_text(ids), vision_config=vision, projection_dim=16)
    model = _shaken(CLIPModel(config))
    model.save_pretrained(folder)
    return model


def hub_groupvit(folder: Path, *, safe: bool = True, **vision: Any) -> Any:
    """A GroupViTModel for 32 px with its tokenizer; the model. safe: else in the old format."""
    from transformers import GroupViTConfig, GroupViTModel

    ids = _with_tokenizer(folder)
    own = {
        "hidden_size": 32, "num_hidden_layers": 3, "depths": [1, 1, 1],
        "num_group_tokens": [5, 3, 0], "num_output_groups": [5, 3, 3], "num_attention_heads": 2,
        "intermediate_size": 64, "image_size": 32, "patch_size": 8, **vision,
    }  # fmt: skip
    torch.manual_seed(4)
    config = GroupViTConfig(
        text_config=_text(ids), vision_config=own, projection_dim=16,
        projection_intermediate_dim=48,
    )  # fmt: skip
    model = _shaken(GroupViTModel(config))
    model.save_pretrained(folder)
    if not safe:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return model


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; "a__b" is b inside a, None takes one out."""
    told = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        part = told
        for name in outer:
            part = part[name]
        if value is None:
            part.pop(last, None)
        else:
            part[last] = value
    path.write_text(json.dumps(told))
