"""One prediction against one target, by the rules of a protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError
from refseg.metrics.iou import Mask, Row, mask_counts
from refseg.metrics.pointing import Point, peak
from refseg.metrics.protocols import Protocol
from refseg.ops.masks import (
    mask_in_net,
    polygons_to_mask,
    resize_mask,
    resize_response,
    response_at,
    stretched,
)
from refseg.types import Geometry, Prediction

Response = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """One prediction against its target in a protocol's frame.

    intersection, union: pixels, of the plain union whatever the rule for `iou`. target_empty:
    there is nothing to find. predicted_empty: the method says so, by the protocol's `absence`.
    peak: (row, column) px of the highest response, if asked for and there is a response.
    """

    intersection: int
    union: int
    iou: float
    target_empty: bool
    predicted_empty: bool
    peak: Point | None = None

    @property
    def row(self) -> Row:
        """What an `IoUAccumulator` takes."""
        return Row(self.intersection, self.union, self.iou, self.target_empty, self.predicted_empty)


def compare(
    prediction: Prediction,
    target: Mask | None,
    protocol: Protocol,
    *,
    parts: int = 1,
    with_peak: bool = False,
) -> Comparison:
    """Score one prediction against a px mask [H, W], or None where nothing is meant.

    parts: how many polygons or RLEs the target was joined from (for the crowd rule).
    Raises DataError if the sizes disagree or the response holds values that are not numbers.
    """
    _check_size("predicted", prediction.mask, prediction.geometry)
    if target is not None:
        _check_size("target", target, prediction.geometry)
    values = _values_px(prediction, protocol, with_peak)
    predicted = _predicted(prediction, protocol, values)
    truth = np.zeros(predicted.shape, bool)
    if target is not None:
        truth = _target(np.asarray(target, bool), prediction.geometry, protocol)
    point = peak(values) if with_peak and values is not None else None
    return _score(predicted, truth, prediction.empty, target is None, protocol, parts, point)


def _check_size(what: str, mask: Mask, geometry: Geometry) -> None:
    if mask.shape != tuple(geometry.original_hw):
        raise DataError(
            f"the {what} mask is {mask.shape}, the image {tuple(geometry.original_hw)} "
            "(rows, columns)",
            remedy="masks must have the size of the original image; was it rotated by EXIF?",
        )


def _score(
    predicted: Mask,
    truth: Mask,
    flagged: bool,
    target_empty: bool,
    protocol: Protocol,
    parts: int,
    point: Point | None,
) -> Comparison:
    if flagged and protocol.absence == "either":
        predicted = np.zeros_like(predicted)
    intersection, union = mask_counts(predicted, truth)
    area = int(np.count_nonzero(predicted))
    says_empty = {"flag": flagged, "mask": area == 0, "either": flagged or area == 0}
    absent = says_empty[protocol.absence]
    if absent and protocol.absence == "flag":
        intersection = 0
        union = 0 if target_empty else union
    if target_empty:
        iou = float(absent)
    elif protocol.crowd and parts > 1:
        iou = intersection / area if area else 0.0
    else:
        iou = intersection / (union + protocol.epsilon) if union else protocol.empty
    return Comparison(intersection, union, iou, target_empty, absent, point)


def _frame_hw(geometry: Geometry, protocol: Protocol) -> tuple[int, int]:
    if protocol.frame == "original":
        return geometry.original_hw
    return geometry.net_hw if protocol.frame == "net" else protocol.frame


def _target(mask: Mask, geometry: Geometry, protocol: Protocol) -> Mask:
    if protocol.frame == "net":
        return mask_in_net(mask, geometry)
    if protocol.frame == "original":
        return mask
    return resize_mask(mask, protocol.frame, like_pillow=True)


def _values_px(prediction: Prediction, protocol: Protocol, with_peak: bool) -> Response | None:
    """The response at the image's own size where it is needed: for the peak or the mask."""
    response_counts = protocol.binarise != "mask" and protocol.frame == "original"
    if prediction.response is None or not (with_peak or response_counts):
        return None
    return _values(prediction, protocol, prediction.geometry.original_hw)


def _values(prediction: Prediction, protocol: Protocol, hw: tuple[int, int]) -> Response:
    """The response of the image part, resized to `hw`, on the protocol's scale."""
    response = np.asarray(prediction.response, np.float32)
    if not np.isfinite(response).all():
        raise DataError(
            "a response holds values that are not numbers", remedy="did the model diverge?"
        )
    if protocol.binarise == "positive":
        response = np.maximum(response - np.float32(0.5), 0)
    if protocol.frame == "net" and hw == prediction.geometry.net_hw:
        values = resize_response(response, hw, protocol.resample)
    else:
        values = response_at(response, prediction.geometry, hw, protocol.resample)
    if protocol.binarise == "minmax":
        values = stretched(values)
    elif protocol.binarise == "positive":
        values = values / np.float32(values.max() + 1e-5)
    return values


def _predicted(prediction: Prediction, protocol: Protocol, values_px: Response | None) -> Mask:
    geometry = prediction.geometry
    if protocol.binarise == "mask" or prediction.response is None:
        if protocol.frame == "net" and prediction.polygons:
            return _polygons_in_net(prediction)
        return _target(np.asarray(prediction.mask, bool), geometry, protocol)
    values = values_px
    if values is None or protocol.frame != "original":
        values = _values(prediction, protocol, _frame_hw(geometry, protocol))
    hit = values > protocol.threshold if protocol.strict else values >= protocol.threshold
    return np.asarray(hit, bool)


def _polygons_in_net(prediction: Prediction) -> Mask:
    """Outlines filled where the network drew them: exact, unlike resizing their px mask."""
    geometry = prediction.geometry
    scale, offset = np.array(geometry.scale_xy), np.array(geometry.offset_xy)
    flat = [(points * scale + offset).reshape(-1).tolist() for points in prediction.polygons]
    usable = [polygon for polygon in flat if len(polygon) >= 6]
    if not usable:
        return np.zeros(geometry.net_hw, bool)
    return polygons_to_mask(usable, geometry.net_hw)
