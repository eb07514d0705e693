"""Maps that keep to the outlines of an image: mean-field inference in a fully connected CRF.

Source: Krähenbühl and Koltun (NeurIPS 2011), for two labels. With p a pixel's probability of
foreground, each iteration sets

    q <- sigmoid(u + sum_m c_m K_m (2 q - 1)),    u = log(p / (1 - p)),    at first q = p,

for two kernels over all pairs of pixels, a pixel and itself included: near one another (Gaussian),
and both near and alike in colour (bilateral). With k the plain Gaussian of unit height,
K_ij = k_ij / sqrt(sum_l k_il * sum_l k_jl). Disagreement costs c_m (Potts).

Two ways to compute it. `dense_crf` is pydensecrf2, the package that papers use (extra `crf`).
`lattice_mean_field` needs no extra: the same equation, and the bilateral kernel on the same
permutohedral lattice; the Gaussian kernel is a plain blur, where pydensecrf2 has a lattice, too.
Both are as near to the exact sums, and nearer to each other, but their results are not the same
bytes. Neither ever stands in for the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from refseg.errors import ConfigError, DataError, ImageError, RefsegError, UnknownName
from refseg.ops.lattice import lattice_filter

Rgb = NDArray[np.uint8]
Maps = NDArray[np.float32]
How = Literal["pydensecrf2", "lattice", "none"]
Filter = Callable[[Maps], Maps]

# Probabilities are kept this far from 0 and 1, as pydensecrf2 does it: log(p / (1 - p)) is 11.5 at
# most, which the kernels of the settings below, 13 together, can still overrule.
_EPSILON = 1e-5
# Sigmas that an image may be long. pydensecrf2 counts cells in 16 bits and does not look whether
# they suffice; an image of 16,384 pixels is 5,461 of the usual 3 px long.
_LONGEST = 5500
_FINEST = 0.5  # for bilateral_rgb; less parts no more of what 8 bits tell apart


@dataclass(frozen=True)
class CrfSettings:
    """gaussian_xy, bilateral_xy: sigmas in px of the image as it is given; bilateral_rgb: sigma in
    steps of 0..255. gaussian_weight, bilateral_weight: c_m, 0 leaves the kernel out. iterations:
    0 or more. scale: of the image's sides while it is computed, 0.5 for half resolution: image
    and maps are shrunk, sigmas in px too, and the result is stretched back (bilinear).
    Raises ConfigError for values that mean nothing.
    """

    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    iterations: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        valid = {
            "gaussian_xy": self.gaussian_xy > 0,
            "gaussian_weight": self.gaussian_weight >= 0,
            "bilateral_xy": self.bilateral_xy > 0,
            "bilateral_rgb": self.bilateral_rgb >= _FINEST,
            "bilateral_weight": self.bilateral_weight >= 0,
            "iterations": isinstance(self.iterations, int) and self.iterations >= 0,
            "scale": 0 < self.scale <= 1,
        }
        for name, holds in valid.items():
            value = getattr(self, name)
            if not (holds and math.isfinite(value)):
                raise ConfigError(
                    f"CRF: {name} is {value}",
                    remedy=f"sigmas in px above 0, bilateral_rgb {_FINEST} or more, weights and "
                    "iterations 0 or more, scale above 0 and at most 1",
                )


#: Seeds of IRNet (CVPR 2019) and of TRIS (ICCV 2023), from hard labels: `label_probability`.
SEEDS = CrfSettings(3, 3, 50, 5, 10, iterations=10)
#: Maps of probabilities to masks. The values of pydensecrf's own example; papers that say "CRF"
#: without any, as SaG (ICCV 2023) does, may have meant others. Strong: an object whose map is
#: unsure, or whose colours are around it, too, may be lost to what surrounds it.
MASKS = CrfSettings(3, 3, 80, 13, 10, iterations=5)
#: Those of RMI's code (ICCV 2017), from which SaG's comes, where the image has the net's size. Such
#: small sigmas cut a lattice into more cells: some five times as slow as `MASKS` in px.
RMI = CrfSettings(3, 3, 20, 3, 10, iterations=5)


def label_probability(labels: NDArray[Any], certainty: float = 0.7) -> Maps:
    """Probabilities of foreground, float32, from hard labels of any shape, bool or 0 and 1.

    certainty where the label is 1, 1 - certainty where it is 0: IRNet's unaries, 0.7 there.
    Raises DataError for other labels, ConfigError unless 0.5 < certainty < 1.
    """
    if not 0.5 < certainty < 1:
        raise ConfigError(f"a certainty of {certainty}", remedy="0.7 is usual, 0.5 knows nothing")
    foreground = np.asarray(labels) == 1
    if not (foreground | (np.asarray(labels) == 0)).all():
        raise DataError("labels other than 0 and 1", remedy="labels are foreground or background")
    return np.where(foreground, certainty, 1 - certainty).astype(np.float32)


def refine(image: Rgb, probability: NDArray[Any], how: How, settings: CrfSettings) -> Maps:
    """`dense_crf` ("pydensecrf2"), `lattice_mean_field` ("lattice"), or the map as it is ("none").

    Raises UnknownName for any other way, and what the chosen one raises; "none" checks its input.
    """
    if how not in get_args(How):
        raise UnknownName("way to refine maps", how, get_args(How))
    if how == "none":
        _check(image, probability)
        return np.array(probability, np.float32)
    return (dense_crf if how == "pydensecrf2" else lattice_mean_field)(image, probability, settings)


def dense_crf(image: Rgb, probability: NDArray[Any], settings: CrfSettings) -> Maps:
    """Probabilities of foreground, float32, the maps' shape, by pydensecrf2.

    image: [H, W, 3] uint8 RGB. probability: [..., H, W] in 0..1, any number of maps of this image,
    which share its lattice. Labels are `> 0.5`.
    Raises RefsegError without pydensecrf2, ImageError for another image, DataError for maps that do
    not fit it and for what is no probability, ConfigError for sigmas too small for the image.
    """
    return _solved(_pydensecrf2, image, probability, settings)


def lattice_mean_field(image: Rgb, probability: NDArray[Any], settings: CrfSettings) -> Maps:
    """The same as `dense_crf` without any extra: same arguments, shapes and errors.

    Another map of the same image costs half of the first or less. Takes some 600 bytes a pixel.
    """
    return _solved(_lattice, image, probability, settings)


def _solved(
    solve: Callable[[Rgb, Maps, CrfSettings], Maps],
    image: Rgb,
    probability: NDArray[Any],
    settings: CrfSettings,
) -> Maps:
    """Maps [..., H, W] at the scale of the settings and back."""
    _check(image, probability)
    hw = image.shape[:2]
    maps = np.asarray(probability, np.float32).reshape(-1, *hw).clip(0, 1)
    small = tuple(max(round(side * settings.scale), 1) for side in hw)
    near, wide = settings.gaussian_xy * settings.scale, settings.bilateral_xy * settings.scale
    if max(small) > _LONGEST * min(near, wide):
        raise ConfigError(
            f"CRF: sigmas of {near:g} and {wide:g} px for an image of {small[1]} x {small[0]}",
            remedy=f"an image is {_LONGEST} sigmas long at most; 3 and 50 px are usual",
        )
    shrunk = [_resized(plane, small, cv2.INTER_AREA) for plane in (image, *maps)]
    at_scale = replace(settings, gaussian_xy=near, bilateral_xy=wide, scale=1.0)
    unsure = np.array(shrunk[1:], np.float32).reshape(-1, *small).clip(_EPSILON, 1 - _EPSILON)
    for n, found in enumerate(solve(shrunk[0], unsure, at_scale)):
        maps[n] = _resized(found, hw, cv2.INTER_LINEAR)
    return maps.reshape(np.shape(probability))


def _resized(plane: NDArray[Any], hw: tuple[int, ...], flag: int) -> NDArray[Any]:
    if plane.shape[:2] == hw:
        return plane
    return np.asarray(cv2.resize(plane, (hw[1], hw[0]), interpolation=flag))


def _check(image: Rgb, probability: NDArray[Any]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ImageError(
            f"an image of {image.shape} {image.dtype}",
            remedy="give RGB, [H, W, 3] uint8; a grey image has three equal channels",
        )
    if np.shape(probability)[-2:] != image.shape[:2]:
        raise DataError(
            f"maps of {np.shape(probability)} for an image of {image.shape}",
            remedy="stretch the maps to the image's pixels first",
        )
    # What is beyond by less counts as rounding, of a resize for example. NaN fails as well.
    if not (np.abs(np.asarray(probability, np.float64) - 0.5) <= 0.5 + _EPSILON).all():
        raise DataError("a map is not within 0..1", remedy="give probabilities, no logits, no NaN")


def _pydensecrf2(image: Rgb, maps: Maps, settings: CrfSettings) -> Maps:
    """Maps [K, H, W] strictly within 0..1 -> probabilities, at the image's own scale."""
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise RefsegError(
            "DenseCRF cannot run: pydensecrf2 is not installed",
            remedy='pip install "refseg[crf]" (builds from source: needs a C++ compiler); or take '
            "`lattice`, the same equation without any extra",
        ) from error
    height, width = maps.shape[1:]
    field = densecrf.DenseCRF2D(width, height, 2)
    if settings.gaussian_weight:
        field.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian_weight)
    if settings.bilateral_weight:
        field.addPairwiseBilateral(
            sxy=settings.bilateral_xy,
            srgb=settings.bilateral_rgb,
            rgbim=np.require(image, np.uint8, ["C", "W"]),  # it takes no read-only array
            compat=settings.bilateral_weight,
        )
    found = np.empty_like(maps)
    for n, p in enumerate(maps):
        field.setUnaryEnergy(-np.log(np.stack([1 - p, p]).reshape(2, -1)))
        found[n] = np.asarray(field.inference(settings.iterations))[1].reshape(p.shape)
    return found


def _lattice(image: Rgb, maps: Maps, settings: CrfSettings) -> Maps:
    """As `_pydensecrf2`. With two labels one map is filtered, the difference of both."""
    height, width = maps.shape[1:]
    kernels: list[tuple[float, Filter]] = []
    if settings.gaussian_weight:
        near = _blur(settings.gaussian_xy, (height, width))
        kernels.append((settings.gaussian_weight, _normalised(near, (height, width))))
    if settings.bilateral_weight:
        y, x = np.mgrid[:height, :width] / settings.bilateral_xy
        points = np.dstack([x, y, image / settings.bilateral_rgb]).reshape(-1, 5)
        alike = _normalised(lattice_filter(points), height * width)
        flat = (settings.bilateral_weight, lambda t: alike(t.ravel()).reshape(t.shape))
        kernels.append(flat)
    found = np.empty_like(maps)
    for n, p in enumerate(maps):
        unary = total = logit(p)
        for _ in range(settings.iterations):
            signed = np.tanh(total / 2)  # 2 q - 1
            total = sum((weight * kernel(signed) for weight, kernel in kernels), unary)
        found[n] = expit(total)
    return found


def _normalised(kernel: Filter, shape: int | tuple[int, ...]) -> Filter:
    """k -> K, which divides each k_ij by sqrt(sum_l k_il * sum_l k_jl)."""
    share: Maps = np.reciprocal(np.sqrt(kernel(np.ones(shape, np.float32))))
    return lambda values: share * kernel(share * values)


def _blur(sigma: float, hw: tuple[int, int]) -> Filter:
    """The Gaussian kernel on [H, W], but for a factor. Nothing comes from beyond the border."""
    reach = min(math.ceil(4 * sigma), max(hw))
    line = cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F)
    return lambda values: np.asarray(
        cv2.sepFilter2D(values, cv2.CV_32F, line, line, borderType=cv2.BORDER_CONSTANT)
    )
