"""Small CLIPs with weights of no meaning, and the files that others would have of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from refseg.nn.clip import ClipTextConfig, ClipVisionConfig
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig

Shapes = dict[str, tuple[int, ...]]

# Heads of 64 channels, as in OpenAI's models.
TEXT = {"vocab_size": 20, "width": 128, "layers": 2, "heads": 2, "mlp_width": 16}
RESNET = {"kind": "clip-resnet", "layers": (2, 1, 1, 1), "width": 4, "pool": True, "pool_heads": 2}
VIT = {"kind": "clip-vit", "image_size": 16, "patch": 8, "width": 128, "layers": 2, "heads": 2}


def config(vision: str, **changes: Any) -> PairConfig:
    text = {**TEXT, "max_positions": 9, "embed": 6}
    resnet, vit = {**RESNET, "embed": 6, "image_size": 64}, {**VIT, "mlp_width": 24, "embed": 6}
    own = {"resnet": resnet, "vit": vit}[vision]
    return PairConfig.model_validate({"vision": {**own, **changes}, "text": text})


def pair(vision: str, seed: int = 1) -> ClipPair:
    """With parameters and statistics of which none is as it began."""
    torch.manual_seed(seed)
    made = ClipPair(config(vision))
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
        else:
            value.add_(seed)
    return made.eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# -- OpenAI's files, name by name ----------------------------------------------------------------


def text_shapes(c: ClipTextConfig) -> Shapes:
    found: Shapes = {"logit_scale": (), "text_projection": (c.width, c.embed)}
    found["positional_embedding"] = (c.max_positions, c.width)
    found["token_embedding.weight"] = (c.vocab_size, c.width)
    found |= {"ln_final.weight": (c.width,), "ln_final.bias": (c.width,)}
    return found | blocks("transformer", c.layers, c.width, c.mlp_width)


def blocks(name: str, layers: int, width: int, inner: int) -> Shapes:
    found: Shapes = {}
    for index in range(layers):
        block = f"{name}.resblocks.{index}"
        found[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        found[f"{block}.attn.in_proj_bias"] = (3 * width,)
        for part, out, into in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", inner, width),
            ("mlp.c_proj", width, inner),
        ):
            found[f"{block}.{part}.weight"] = (out, into)
            found[f"{block}.{part}.bias"] = (out,)
        for norm in ("ln_1", "ln_2"):
            found |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
    return found


def vit_shapes(c: ClipVisionConfig) -> Shapes:
    places = (c.image_size // c.patch) ** 2 + 1
    found: Shapes = {
        "visual.class_embedding": (c.width,),
        "visual.positional_embedding": (places, c.width),
        "visual.proj": (c.width, c.embed),
        "visual.conv1.weight": (c.width, 3, c.patch, c.patch),
    }
    for norm in ("ln_pre", "ln_post"):
        found |= {f"visual.{norm}.weight": (c.width,), f"visual.{norm}.bias": (c.width,)}
    return found | blocks("visual.transformer", c.layers, c.width, c.mlp_width)


def resnet_shapes(c: ClipResNetConfig) -> Shapes:
    w, found = c.width, Shapes()

    def unit(conv: str, norm: str, out: int, into: int, kernel: int) -> None:
        found[f"visual.{conv}.weight"] = (out, into, kernel, kernel)
        for key in ("weight", "bias", "running_mean", "running_var"):
            found[f"visual.{norm}.{key}"] = (out,)
        found[f"visual.{norm}.num_batches_tracked"] = ()

    unit("conv1", "bn1", w // 2, 3, 3)
    unit("conv2", "bn2", w // 2, w // 2, 3)
    unit("conv3", "bn3", w, w // 2, 3)
    into = w
    for stage, depth in enumerate(c.layers):
        inner = w * 2**stage
        for index in range(depth):
            block = f"layer{stage + 1}.{index}"
            unit(f"{block}.conv1", f"{block}.bn1", inner, into, 1)
            unit(f"{block}.conv2", f"{block}.bn2", inner, inner, 3)
            unit(f"{block}.conv3", f"{block}.bn3", 4 * inner, inner, 1)
            if index == 0:
                unit(f"{block}.downsample.0", f"{block}.downsample.1", 4 * inner, into, 1)
            into = 4 * inner
    found["visual.attnpool.positional_embedding"] = ((c.image_size // 32) ** 2 + 1, into)
    for name, out in (("q", into), ("k", into), ("v", into), ("c", c.embed)):
        found[f"visual.attnpool.{name}_proj.weight"] = (out, into)
        found[f"visual.attnpool.{name}_proj.bias"] = (out,)
    return found


def openai_shapes(c: PairConfig) -> Shapes:
    resnet = isinstance(c.vision, ClipResNetConfig)
    vision = resnet_shapes(c.vision) if resnet else vit_shapes(c.vision)  # type: ignore[arg-type]
    return text_shapes(c.text) | vision


TO_OPENAI = (
    (r"^text\.clip\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text\.clip\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text\.clip\.final_layer_norm\.", "ln_final."),
    (r"^text\.clip\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text\.projection\.weight", "text_projection"),
    (r"^vision\.clip\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision\.clip\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision\.clip\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision\.clip\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision\.clip\.post_layernorm\.", "visual.ln_post."),
    (r"^vision\.clip\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^vision\.projection\.weight", "visual.proj"),
    (r"^vision\.", "visual."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"\.self_attn\.", ".attn."),
)


def openai_names(made: nn.Module) -> dict[str, Tensor]:
    """The other way round than refseg.nn.clip_names, for a whole pair."""
    named: dict[str, Tensor] = {}
    for key, value in made.state_dict().items():
        for pattern, other in TO_OPENAI:
            key = re.sub(pattern, other, key)
        named[key] = value.T.contiguous() if key in ("text_projection", "visual.proj") else value
    for key in [k for k in named if re.search(r"resblocks.*\.q_proj\.", k)]:
        kind = key.rsplit(".", 1)[1]
        three = [named.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        named[key.replace(f"q_proj.{kind}", f"in_proj_{kind}")] = torch.cat(three)
    return named


def openai_file(folder: Path, made: ClipPair, name: str = "model.safetensors") -> Path:
    state = openai_names(made)
    assert {k: tuple(v.shape) for k, v in state.items()} == openai_shapes(made.config)
    # What a program's state dict has besides.
    state |= {"input_resolution": torch.tensor(64), "context_length": torch.tensor(9)}
    state["vocab_size"] = torch.tensor(20)
    write = save_file if name.endswith(".safetensors") else torch.save
    write(state, folder / name)
    return folder / name


# -- folders of others, and ours -----------------------------------------------------------------


def hub_clip(folder: Path, heads: int = 2, act: str = "quick_gelu") -> Any:
    """A Hugging Face CLIPModel of the toy sizes, saved by transformers itself."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": heads}
    torch.manual_seed(7)
    text = {**shared, "vocab_size": 20, "intermediate_size": 16, "max_position_embeddings": 9}
    text |= {"bos_token_id": 18, "eos_token_id": 19, "pad_token_id": 0, "hidden_act": act}
    vision = {**shared, "image_size": 16, "patch_size": 8, "intermediate_size": 24}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def own_folder(folder: Path, made: ClipPair, **told: Any) -> Path:
    """As a run leaves it. told: more of its config.json, such as "pixels"."""
    save_file(made.state_dict(), folder / "model.safetensors")
    told |= {"refseg": {"labels": "text"}, "pair": made.config.model_dump(mode="json")}
    (folder / "config.json").write_text(json.dumps(told))
    return folder
