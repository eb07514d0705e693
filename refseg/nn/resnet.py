"""A plain ResNet, as trained on ImageNet: four maps of an image, by transformers' ResNetModel.

The ImageNet ResNet-50 of TRIS's supplement, table 3, in the place of CLIP's (`nn/clip_resnet.py`,
the same face), and the backbone of IRNet, whose last stage keeps the resolution (last_stride 1).

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1 (the stride
in the 3 x 3 of a block, as torch's and the hub's weights have it); Ahn et al., "Weakly Supervised
Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019 (the stride of the end).
Letters: I images, C channels.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refseg.nn.guard import guard_torchvision

Depth = Annotated[int, Field(ge=1)]


class ResNetVisionConfig(BaseModel):
    """A ResNet. Defaults are ResNet-50 (23.51 M parameters without the classifier).

    kind: tells it from other vision encoders. layers: blocks of the four stages. width: channels
    behind the stem. bottleneck: blocks of three convolutions (ResNet-50 and deeper) or of two
    (ResNet-18: layers (2, 2, 2, 2)). last_stride: of the fourth stage; 1 keeps the third's
    resolution, with the same weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["resnet"] = "resnet"
    layers: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    width: int = Field(default=64, ge=1)
    bottleneck: bool = True
    last_stride: Literal[1, 2] = 2

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four maps, finest first."""
        first = self.width * (4 if self.bottleneck else 1)
        return (first, 2 * first, 4 * first, 8 * first)


class ResNetPyramid(nn.Module):
    """images [I, 3, H, W] -> four maps [I, channels[i], ceil(H / strides[i]), ceil(W / ...)].

    stages: how many of the four are run, from the finest on. H and W may be any.
    `load_hub_part(pyramid.resnet, where, prefix="resnet.")` loads the hub's weights, which expect
    ImageNet's mean and deviation. Batch norms follow the batches in train mode, also without a
    gradient: who freezes them puts them into eval mode, too.
    """

    def __init__(self, config: ResNetVisionConfig) -> None:
        super().__init__()
        guard_torchvision()
        from transformers import ResNetConfig, ResNetModel

        self.config = config
        self.channels = config.channels
        self.strides = (4, 8, 16, 16 * config.last_stride)
        self.resnet: Any = ResNetModel(
            ResNetConfig(
                embedding_size=config.width,
                hidden_sizes=list(config.channels),
                depths=list(config.layers),
                layer_type="bottleneck" if config.bottleneck else "basic",
            )
        )
        # transformers knows no stride of a stage; only the first block of one has a stride at all.
        for part in self.resnet.encoder.stages[3].layers[0].modules():
            if isinstance(part, nn.Conv2d) and part.stride == (2, 2):
                part.stride = (config.last_stride, config.last_stride)

    def forward(self, images: Tensor, stages: int = 4) -> list[Tensor]:
        # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
        x = self.resnet.embedder(images.contiguous())
        maps = []
        for stage in self.resnet.encoder.stages[:stages]:
            x = stage(x)
            maps.append(x)
        return maps
