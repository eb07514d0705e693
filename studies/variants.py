"""The rows of VEGA's ablation tables as overrides of a recipe (`--set` texts)."""

from __future__ import annotations

Variants = dict[str, tuple[str, ...]]

# table -> row -> what differs from the recipe. The first row of a table is the paper's own model.
TABLES: dict[str, Variants] = {
    "guidance": {  # Table 2
        "enhanced+visual": ("method.guidance=enhanced+visual",),
        "enhanced": ("method.guidance=enhanced",),
        "language": ("method.guidance=language",),
        "language+visual": ("method.guidance=language+visual",),
        "visual": ("method.guidance=visual",),
    },
    "element": {  # Table 3a
        "expression": (),
        "topk": ("method.selection.element=topk",),
        "all": ("method.selection.element=all",),
    },
    "cues": {  # Table 3b
        "both": (),
        "global": ("method.selection.cues=global",),
        "local": ("method.selection.cues=local",),
        "none": ("method.selection.cues=none", "method.selection.max_tokens=64"),
    },
    "selection": {  # Table 4a
        "topk": (),
        "sigmoid": ("method.selection.method=sigmoid",),
    },
    "contrastive": {  # Table 4b
        "on": (),
        "off": ("method.loss.contrastive=0",),
    },
    "weighting": {  # Tables 4c and 4d
        "masked": (),
        "unmasked": ("method.selection.weighting=unmasked",),
        "raw": ("method.selection.weighting=raw",),
        "none": ("method.selection.weighting=none",),
    },
    "attention": {  # Table 4e
        "selected": (),
        "all": ("method.selection.attention=all",),
        "none": ("method.selection.attention=none",),
    },
    "fusion": {  # VIPA's question: does it help without early fusion?
        "early": (),
        "late": ("method.fusion=late",),
        "late, language": ("method.fusion=late", "method.guidance=language"),
    },
    "start": {  # not in the paper: what the world's own encoders are worth
        "both": (),
        "swin": ("weights.text=null",),
        "bert": ("weights.vision=null",),
        "none": ("weights.vision=null", "weights.text=null"),
    },
    "optimiser": {  # not in the paper, which uses AdamW; its rate is the best of the first model's
        "muon": (),
        "adamw": ("train.optimiser=adamw", "train.lr=6e-4", "train.clip_norm=1.0"),
    },
    "k": {  # Figure 4
        "30": ("method.selection.ratio=0.3",),
        **{
            str(share): (f"method.selection.ratio={share / 100}",)
            for share in (10, 20, 40, 50, 60, 70, 80, 100)
        },
    },
}
