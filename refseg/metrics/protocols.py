"""Named ways of scoring a mask. A number without its protocol's name means nothing.

Published systems differ in the size at which masks are compared, the threshold, what an empty
union scores, and whether Pr@X includes its bound. Each difference is a field here; compare.py
applies a protocol to one prediction. All count every expression once; shortcuts that papers take
during training (one sentence per object) are not reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refseg.errors import UnknownName
from refseg.metrics.iou import PR_THRESHOLDS
from refseg.ops.masks import MaskRule, Resample


@dataclass(frozen=True)
class Protocol:
    """One way of scoring.

    frame: where masks are compared: the image's own pixels, the network's padded image, or a
        fixed size that the image is stretched to. Targets are resized by nearest neighbour, for
        a fixed size with Pillow's way of breaking ties.
    binarise: "mask" takes the method's own mask. The others make one from its response, resized
        by `resample` first: "threshold" compares probabilities, "minmax" stretches the map to
        0..1 before, "positive" keeps what exceeds 0.5 before resizing and divides by the
        maximum after. Methods without a response always bring their mask (resized by nearest).
    threshold, strict: value > threshold, or >= if not strict.
    empty: the IoU when the union has no pixel. epsilon: added to every union.
    crowd: targets joined from several parts score I / area(prediction), COCO's crowd rule.
    pr_inclusive, rec_inclusive: whether Pr@X and REC@0.5 count equality as a hit.
    absence: how a method says "no such thing": by its flag, by an empty mask, or by either.
        With "either", a flagged prediction scores as an empty mask; with "flag" it loses its
        intersection but keeps its union, and a flag on a no-target expression adds no union.
    mask_rule: how the data set must join the parts of a target for this protocol.
    published: the metrics its source prints. source: where the rules come from.
    """

    name: str
    summary: str
    source: str
    frame: Literal["original", "net"] | tuple[int, int] = "original"
    binarise: Literal["mask", "threshold", "minmax", "positive"] = "mask"
    threshold: float = 0.5
    strict: bool = True
    resample: Resample = "bilinear"
    empty: float = 0.0
    epsilon: float = 0.0
    crowd: bool = False
    pr_thresholds: tuple[float, ...] = PR_THRESHOLDS
    pr_inclusive: bool = False
    rec_inclusive: bool = False
    absence: Literal["flag", "mask", "either"] = "either"
    mask_rule: MaskRule = "union"
    unit: str = "every expression"
    published: tuple[str, ...] = ("mIoU", "oIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9")


_PR = ("Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9")

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "original",
            "the method's own mask at the image's own size; Pr@X strict; both empty scores 1",
            "refseg's default; Pr@X as VEGA and the mutual-supervision paper define it",
            empty=1.0,
        ),
        Protocol(
            "lavt-480",
            "stretched to 480 x 480, larger of two classes; Pr@X inclusive",
            "LAVT's test script; CrossVLT, and by descent VEGA",
            frame=(480, 480),
            binarise="threshold",
            pr_inclusive=True,
            mask_rule="lavt_compat",
        ),
        Protocol(
            "cris-035",
            "probability > 0.35 after bicubic resizing to the image's own size",
            "CRIS's test script (it undoes its letterbox by a cubic warp, we crop and resize)",
            binarise="threshold",
            threshold=0.35,
            resample="bicubic",
            epsilon=1e-6,
            published=("mIoU", *_PR),
        ),
        Protocol(
            "cgformer",
            "probability > 0.5 after bicubic resizing to the image's own size",
            "CGFormer's test script",
            binarise="threshold",
            resample="bicubic",
            epsilon=1e-6,
            mask_rule="lavt_compat",
        ),
        Protocol(
            "rela",
            "stretched to 480 x 480; absence by the method's flag; Pr@X inclusive",
            "ReLA's evaluator (it scales polygons before filling them, we resize the mask)",
            frame=(480, 480),
            binarise="threshold",
            pr_inclusive=True,
            absence="flag",
            published=("gIoU", "cIoU", "N-acc", "T-acc", "Pr@0.7", "Pr@0.8", "Pr@0.9"),
        ),
        Protocol(
            "lisa",
            "the image's own size; 1e-5 in every union; an empty union scores 1",
            "LISA's validation; its gIoU is the mean, its cIoU the overall IoU",
            binarise="threshold",
            empty=1.0,
            epsilon=1e-5,
            absence="mask",
            mask_rule="lavt_compat",
            published=("gIoU", "cIoU"),
        ),
        Protocol(
            "seqtr-crowd",
            "the network's padded size; targets of several parts score I / area(prediction)",
            "SeqTR's and Partial-RES's evaluation through pycocotools with iscrowd",
            frame="net",
            crowd=True,
            pr_inclusive=True,
            rec_inclusive=True,
            published=("mIoU", *_PR, "REC@0.5"),
        ),
        Protocol(
            "tris",
            "any positive response (probability > 0.5) at the image's own size",
            "TRIS's validate script; a map that is nowhere positive stays empty here",
            binarise="positive",
            threshold=1e-9,
            resample="bilinear-corners",
            mask_rule="lavt_compat",
            published=("mIoU", "oIoU", "PointIt", "PointM"),
        ),
        Protocol(
            "sag",
            "bilinear to the image's own size, stretched to 0..1, >= 0.5",
            "Shatter-and-Gather's evaluator; whether its A@X is strict is unknown",
            binarise="minmax",
            strict=False,
            pr_thresholds=(0.3, *PR_THRESHOLDS),
            published=("mIoU", "oIoU", "Pr@0.3", "Pr@0.5", "Pr@0.7"),
        ),
        Protocol(
            "phrasecut",
            "the method's own mask at the image's own size; an empty union scores 0",
            "PhraseCut's official evaluator (a phrase without a prediction scores 0); its reader "
            "fills targets with PIL as it does",
            unit="every phrase",
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises UnknownName with the nearest one."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
