"""The proposal extractor: Mask2Former from transformers, with its traps closed.

Paper map (section "proposal extractor"):
  backbone, pixel decoder, transformer decoder   -> transformers' Mask2Former (`net_config`)
  O, the output of the extractor                 -> LayerNorm(h) of the last layer (`extract`)
  masks = MLP(O) . F_pixel                       -> `Level.masks`
  L_m2f, supervision of every layer              -> `Mask2FormerExtractor.loss`

We differ, or close a trap:
- O is taken after the decoder's norm, as its own class and mask heads take it
  (`transformer_decoder_last_hidden_state` is before it).
- The matching is not the criterion's: that one is random, is hidden in the loss and done again for
  every layer. It is made once (matching.py) and used for every layer, for k and for scores.
- BatchNorm of a ResNet is frozen in statistics and in weights, as in Detectron2: a forward in
  train mode would else change its buffers, even under no_grad.
- Masks and proposals are counted over all processes: slices.py makes their slices' means the
  whole's, and does not need accelerate's state for it, as transformers' criterion does.
Letters: I images, N proposals, K objects, C width, Q classes, h x w mask grid.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from refseg.errors import DataError
from refseg.method import ParameterGroup, split_decay
from refseg.methods.mutual.classes import class_numbers
from refseg.methods.mutual.config import Mask2FormerExtractorConfig, ResNetVisionConfig
from refseg.methods.mutual.mask_loss import class_loss, mask_losses
from refseg.methods.mutual.matching import match_masks
from refseg.methods.mutual.objects import missing
from refseg.methods.mutual.proposals import Level, Matching, Proposals
from refseg.methods.mutual.slices import fair
from refseg.nn.guard import guard_torchvision
from refseg.nn.vision import SwinVisionConfig, drop_class_place
from refseg.types import Batch, Labels, NetObjects


class Mask2FormerExtractor(nn.Module):
    """See the module docstring and `refseg.methods.mutual.proposals.Extractor`."""

    reads_pixels = True
    reads_objects = False

    def __init__(self, config: Mask2FormerExtractorConfig) -> None:
        super().__init__()
        guard_torchvision()
        from transformers import Mask2FormerForUniversalSegmentation

        self.config = config
        self.width = config.width
        kinds = {"box"} if config.region == "box" else {"mask"}
        self.needs = Labels(frozenset(kinds | ({"category"} if len(config.classes) > 1 else set())))
        # The whole model of transformers, so that its weights come and go in the hub's format.
        self.whole: Any = Mask2FormerForUniversalSegmentation(net_config(config))
        del self.whole.criterion  # its matching is another; see above
        # The norm behind the last stage belongs to classification; no pyramid level uses it.
        if hasattr(self.vision, "layernorm"):
            self.vision.layernorm = nn.Identity()
        if getattr(config.backbone, "absolute_positions", False):
            drop_class_place(self.vision.embeddings)
        freeze_batch_norms(self.backbone)

    @property
    def net(self) -> Any:
        """Everything but the class head."""
        return self.whole.model

    @property
    def backbone(self) -> nn.Module:
        """The backbone: the vision encoder, and norms on what it gives."""
        return cast(nn.Module, self.net.pixel_level_module.encoder)

    @property
    def vision(self) -> Any:
        """The Swin or ResNet that training starts from weights of (kept apart since 5.0)."""
        return getattr(self.backbone, "swin", self.backbone)

    def forward(self, batch: Batch) -> Proposals:
        """images [I, 3, H, W], normalised -> proposals. Raises DataError for a batch without."""
        if batch.images.shape[-1] == 0:
            raise DataError(
                "this model looks at pixels, but the data were opened without them",
                remedy="open them with pixels=True",
            )
        return self.extract(batch.images)

    def extract(self, images: Tensor) -> Proposals:
        """images [I, 3, H, W] -> proposals."""
        # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
        found = self.net(images.contiguous(), output_hidden_states=True)
        hidden = found.transformer_decoder_intermediate_states  # per layer [N, I, C], normalised
        levels = tuple(
            Level(masks, self.whole.class_predictor(h.transpose(0, 1)))
            for h, masks in zip(hidden, found.masks_queries_logits, strict=True)
        )
        maps = tuple(found.encoder_hidden_states)
        return Proposals(hidden[-1].transpose(0, 1), None, levels, maps)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of `Proposals.maps`."""
        return tuple(cast("list[int]", self.backbone.channels))

    def match(self, proposals: Proposals, objects: NetObjects) -> Matching:
        """The proposal of each object; classes count where they are told, if there are several.

        Raises DataError when masks or boxes are not here, or a category is none of the classes.
        """
        targets, known = self.targets(objects)
        told = objects.categories is not None and len(self.config.classes) > 1
        classes = self._classes(objects) if told else None
        return match_masks(proposals.levels[-1], targets, known, self.config.matching, classes)

    def loss(
        self,
        proposals: Proposals,
        objects: NetObjects,
        matching: Matching,
        weight: float,
    ) -> dict[str, Tensor]:
        """class, mask and dice terms, summed over layers and weighted; a collective (`fair`).

        Raises DataError when masks, boxes or categories are not here.
        """
        targets, _ = self.targets(objects)
        images, columns = torch.nonzero(matching.proposal >= 0, as_tuple=True)
        rows = matching.proposal[images, columns]
        wanted_masks = targets[images, columns].float()
        logits = proposals.levels[-1].classes
        wanted = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
        wanted[images, rows] = self._classes(objects)[images, columns]
        count = torch.tensor(max(len(images), 1), device=logits.device)
        config = self.config
        terms: dict[str, list[Tensor]] = {"class": [], "mask": [], "dice": []}
        for level in proposals.levels:
            bce, dice = mask_losses(level.masks[images, rows], wanted_masks, count, config.points)
            terms["mask"].append(config.mask_weight * bce)
            terms["dice"].append(config.dice_weight * dice)
            ce = class_loss(level.classes, wanted, config.no_object)
            terms["class"].append(config.class_weight * ce)
        nobody = wanted.numel() - len(images)
        means = [float(len(images)), len(images) + config.no_object * nobody]
        masks, classes = fair(torch.tensor(means, device=logits.device), weight)
        factors = {"class": classes, "mask": masks, "dice": masks}
        return {name: factors[name] * torch.stack(parts).sum() for name, parts in terms.items()}

    def targets(self, objects: NetObjects) -> tuple[Tensor, Tensor]:
        """Masks [I, K, H, W], filled boxes in the box variant, and which of them are known [I, K].

        One without a pixel (cut away, or too small for the net image) is known to nobody.
        Raises DataError when they are not in the batch.
        """
        if self.config.region == "box":
            if objects.boxes is None:
                raise missing("boxes", "box")
            masks, known = fill_boxes(objects.boxes, objects.geometry[0].net_hw), objects.known
        elif objects.masks is None or objects.has_mask is None:
            raise missing("masks", "mask")
        else:
            masks, known = objects.masks, objects.known & objects.has_mask
        return masks, known & masks.flatten(2).any(dim=2)

    def _classes(self, objects: NetObjects) -> Tensor:
        return class_numbers(objects, self.config.classes)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Backbone (`backbone_lr_scale`) and the rest; norms, biases and embeddings undecayed."""
        rest = nn.ModuleDict(
            {
                "decoder": self.net.pixel_level_module.decoder,
                "transformer": self.net.transformer_module,
                "classify": self.whole.class_predictor,
            }
        )
        scale = self.config.backbone_lr_scale
        backbone = split_decay("backbone", self.backbone, lr_scale=scale, embeddings=False)
        return backbone + split_decay("extractor", rest, embeddings=False)


def fill_boxes(boxes: Tensor, hw: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] xyxy -> the pixels whose centre is inside, bool [..., H, W]. NaN: none."""
    rows = torch.arange(hw[0], device=boxes.device) + 0.5
    columns = torch.arange(hw[1], device=boxes.device) + 0.5
    x0, y0, x1, y1 = (edge[..., None] for edge in boxes.unbind(dim=-1))
    across, down = (columns >= x0) & (columns < x1), (rows >= y0) & (rows < y1)
    return down[..., :, None] & across[..., None, :]


def freeze_batch_norms(module: nn.Module) -> None:
    """Statistics and weights of every BatchNorm inside stay as they are, in train mode too."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
            part.requires_grad_(False)
            part.train = lambda mode=True, part=part: part  # type: ignore[method-assign,misc]


def net_config(config: Mask2FormerExtractorConfig) -> Any:
    """transformers' configuration of the same network."""
    from transformers import Mask2FormerConfig

    return Mask2FormerConfig(
        backbone_config=backbone_config(config),
        feature_size=config.width,
        mask_feature_size=config.width,
        hidden_dim=config.width,
        encoder_feedforward_dim=config.pixel_mlp_width,
        encoder_layers=config.pixel_layers,
        decoder_layers=config.layers + 1,  # theirs counts the queries' own prediction
        num_attention_heads=config.heads,
        dim_feedforward=config.mlp_width,
        dropout=0.0,
        num_queries=config.queries,
        num_labels=len(config.classes),
        use_auxiliary_loss=True,
    )


def backbone_config(config: Mask2FormerExtractorConfig) -> Any:
    """transformers' configuration of the backbone, giving its four stages."""
    from transformers import ResNetConfig, SwinConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    vision = config.backbone
    if isinstance(vision, SwinVisionConfig):
        return SwinConfig(
            image_size=vision.image_size,
            patch_size=vision.patch,
            embed_dim=vision.width,
            depths=list(vision.depths),
            num_heads=list(vision.heads),
            window_size=vision.window,
            drop_path_rate=vision.drop_path,
            use_absolute_embeddings=vision.absolute_positions,
            out_features=stages,
        )
    assert isinstance(vision, ResNetVisionConfig)
    return ResNetConfig(
        embedding_size=vision.stem,
        hidden_sizes=list(vision.channels),
        depths=list(vision.depths),
        layer_type=vision.block,
        out_features=stages,
    )
