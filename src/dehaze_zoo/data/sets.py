"""The published data sets, a constant record each: facts, counts, splits, names, source, licence, citation. Imports nothing heavy.

A new set is a record here and configs/data/<name>.yaml; how the folders below a root are searched stands in layouts.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Split:
    pairs: int
    """As published (pictures, where the set is unpaired); 0: any number."""
    folders: tuple[str, ...]
    """Names, lower case, of the folders on the way to this split's pictures."""
    example: str = ""
    """A hazy picture's name and its clear one's, in the official copy."""
    names: str = ""
    """What its hazy stems look like (a regular expression), where that tells it from the other splits."""
    numbers: tuple[int, int] | None = None
    """First and last scene, where the official copy keeps all splits in one folder and the number tells."""
    scenes: int = 0
    """Clear pictures, where the set's authors say; 0: one a pair."""


@dataclass(frozen=True)
class Layout:
    """The facts of one set. Training validates on ``val``, or on ``test`` where the authors set no pairs aside, as gUNet's do."""

    name: str
    title: str
    splits: dict[str, Split]
    marks: tuple[str, ...]
    """Names, lower case, of folders that hold this set alone: on the way to its pictures, never on the way to another's."""
    source: str
    licence: str
    citation: str
    hazy: tuple[str, ...] = ()
    """Names of the folder of hazy pictures, besides the usual ones (layouts.HAZY_FOLDERS)."""
    clear: tuple[str, ...] = ()
    paired: bool = True
    """False: hazy photographs without clear ones."""


_RESIDE: dict[str, Any] = {
    "source": "https://sites.google.com/view/reside-dehaze-datasets",
    "licence": "none stated; research use",
    "citation": 'B. Li et al., "Benchmarking Single-Image Dehazing and Beyond", IEEE Transactions on Image Processing 28(1), 2019',
}
_NTIRE_LICENCE = "none stated; research use"

_RECORDS = (
    Layout(
        name="reside_indoor",
        title="RESIDE indoor: ITS (1,399 scenes, 10 hazy each) to train, SOTS indoor (50 scenes, 10 each) to test",
        splits={  # hazy 620x460; clear ones too, or 640x480, see BORDER
            "train": Split(13_990, ("its", "its_v2", "train"), "1_1_0.90179.png -> 1.png", r"\d+_\d+_\d+(\.\d+)?", scenes=1_399),
            "test": Split(500, ("sots", "test", "nyuhaze500"), "1400_1.png -> 1400.png", r"\d+_\d+", scenes=50),
        },
        marks=("its", "its_v2", "nyuhaze500", "sots", "indoor", "reside-in"),
        **_RESIDE,
    ),
    Layout(
        name="reside_outdoor",
        title="RESIDE outdoor: OTS (8,970 scenes, 35 hazy each, in parts) to train, SOTS outdoor (492 scenes) to test",
        splits={  # names: scene, airlight, beta; parts 1 to 4 as folders below the hazy one, or all in it
            "train": Split(313_950, ("ots", "ots_alpha", "ots_beta", "train"), "part1/0001_0.8_0.04.jpg -> 0001.jpg", scenes=8_970),
            "test": Split(500, ("sots", "test"), "0001_0.8_0.2.jpg -> 0001.png", scenes=492),
        },
        marks=("ots", "ots_alpha", "ots_beta", "sots", "outdoor", "reside-out"),
        **_RESIDE,
    ),
    Layout(
        name="reside_6k",
        title="RESIDE-6K: 3,000 pairs each of ITS and OTS to train, SOTS indoor and outdoor to test, same names for hazy and clear",
        splits={
            "train": Split(6_000, ("train",), "1.jpg -> 1.jpg"),
            "test": Split(1_000, ("test",), "0001_0.8_0.2.jpg -> 0001_0.8_0.2.jpg"),
        },
        marks=("reside-6k", "reside6k", "reside_6k"),
        **_RESIDE,
    ),
    Layout(
        name="hsts",
        title="RESIDE HSTS: 10 synthetic pairs to test, same names (its 10 real photographs have no clear ones)",
        splits={"test": Split(10, ("hsts", "synthetic", "test"), "synthetic/0586.jpg -> original/0586.jpg")},
        marks=("hsts",),
        hazy=("synthetic",),
        clear=("original",),
        **_RESIDE,
    ),
    Layout(
        name="rtts",
        title="RESIDE RTTS: real hazy street photographs with annotated objects, no clear ones",
        splits={"test": Split(4_322, ("rtts", "test"), "JPEGImages/AM_Bing_211.png")},
        marks=("rtts",),
        hazy=("jpegimages",),
        paired=False,
        **_RESIDE,
    ),
    Layout(
        name="haze4k",
        title="Haze4K: 4,000 scenes, one hazy each, indoors and outdoors",
        splits={  # names: scene, airlight, beta; transmission maps in trans/ under the scene's number
            "train": Split(3_000, ("train",), "haze/1_0.6_1.26.png -> gt/1.png, trans/1.png"),
            "test": Split(1_000, ("test",), "haze/1_0.89_1.56.png -> gt/1.png, trans/1.png"),
        },
        marks=("haze4k", "haze-4k", "haze_4k"),
        source="https://github.com/liuye123321/DMT-Net",
        licence="none stated; research use",
        citation='Y. Liu et al., "From Synthetic to Real: Image Dehazing Collaborating with Unlabeled Real Data", ACM Multimedia 2021',
    ),
    Layout(
        name="rs_haze",
        title="RS-Haze: satellite pictures (Landsat-8) with non-homogeneous haze, same names for hazy and clear",
        splits={"train": Split(51_300, ("train",), "same names"), "test": Split(2_700, ("test",), "same names")},
        marks=("rs-haze", "rs_haze", "rshaze"),
        source="https://github.com/IDKiro/DehazeFormer",
        licence="none stated; research use",
        citation='Y. Song et al., "Vision Transformers for Single Image Dehazing", IEEE Transactions on Image Processing 32, 2023',
    ),
    Layout(
        name="nh_haze",
        title="NH-HAZE: 55 outdoor scenes behind the mist of machines, unevenly spread, 1600x1200",
        splits={  # the challenge's: NTIRE 2020
            "train": Split(45, ("train",), "01_hazy.png -> 01_GT.png, in one folder", numbers=(1, 45)),
            "val": Split(5, ("val", "valid"), "46_hazy.png -> 46_GT.png", numbers=(46, 50)),
            "test": Split(5, ("test",), "51_hazy.png -> 51_GT.png", numbers=(51, 55)),
        },
        marks=("nh-haze", "nh_haze", "nhhaze"),
        source="https://data.vision.ee.ethz.ch/cvl/ntire20/nh-haze/",
        licence=_NTIRE_LICENCE,
        citation='C. O. Ancuti et al., "NH-HAZE: An Image Dehazing Benchmark with Non-Homogeneous Hazy and Haze-Free Images", CVPRW 2020',
    ),
    Layout(
        name="dense_haze",
        title="Dense-HAZE: 55 scenes behind dense mist of machines, 1600x1200",
        splits={  # the challenge's: NTIRE 2019
            "train": Split(45, ("train",), "hazy/01_hazy.png -> GT/01_GT.png", numbers=(1, 45)),
            "val": Split(5, ("val", "valid"), "hazy/46_hazy.png -> GT/46_GT.png", numbers=(46, 50)),
            "test": Split(5, ("test",), "hazy/51_hazy.png -> GT/51_GT.png", numbers=(51, 55)),
        },
        marks=("dense-haze", "dense_haze", "densehaze", "dense_haze_ntire19"),
        source="https://data.vision.ee.ethz.ch/cvl/ntire19/dense-haze/",
        licence=_NTIRE_LICENCE,
        citation='C. O. Ancuti et al., "Dense-Haze: A Benchmark for Image Dehazing with Dense-Haze and Haze-Free Images", ICIP 2019',
    ),
    Layout(
        name="o_haze",
        title="O-HAZE: 45 outdoor scenes behind the mist of machines, several megapixels each",
        splits={  # the challenge's: NTIRE 2018
            "train": Split(35, ("train",), "hazy/01_outdoor_hazy.jpg -> GT/01_outdoor_GT.jpg", numbers=(1, 35)),
            "val": Split(5, ("val", "valid"), "hazy/36_outdoor_hazy.jpg -> GT/36_outdoor_GT.jpg", numbers=(36, 40)),
            "test": Split(5, ("test",), "hazy/41_outdoor_hazy.jpg -> GT/41_outdoor_GT.jpg", numbers=(41, 45)),
        },
        marks=("o-haze", "o_haze", "ohaze", "o-hazy", "# o-hazy ntire 2018"),
        source="https://data.vision.ee.ethz.ch/cvl/ntire18/o-haze/",
        licence=_NTIRE_LICENCE,
        citation='C. O. Ancuti et al., "O-HAZE: A Dehazing Benchmark with Real Hazy and Haze-Free Outdoor Images", CVPRW 2018',
    ),
    Layout(
        name="i_haze",
        title="I-HAZE: 35 indoor scenes behind the mist of machines, several megapixels each",
        splits={  # the challenge's: NTIRE 2018
            "train": Split(25, ("train",), "hazy/01_indoor_hazy.jpg -> GT/01_indoor_GT.jpg", numbers=(1, 25)),
            "val": Split(5, ("val", "valid"), "hazy/26_indoor_hazy.jpg -> GT/26_indoor_GT.jpg", numbers=(26, 30)),
            "test": Split(5, ("test",), "hazy/31_indoor_hazy.jpg -> GT/31_indoor_GT.jpg", numbers=(31, 35)),
        },
        marks=("i-haze", "i_haze", "ihaze", "i-hazy", "# i-hazy ntire 2018"),
        source="https://data.vision.ee.ethz.ch/cvl/ntire18/i-haze/",
        licence=_NTIRE_LICENCE,
        citation='C. O. Ancuti et al., "I-HAZE: A Dehazing Benchmark with Real Hazy and Haze-Free Indoor Images", ACIVS 2018',
    ),
    Layout(
        name="folder",
        title="the user's own pairs, in two folders or in any layout of the others",
        splits={"train": Split(0, ("train", "its", "ots")), "test": Split(0, ("test", "val", "sots"))},
        marks=(),
        source="",
        licence="",
        citation="",
    ),
)

BORDER = ((460, 620), (480, 640))
"""Heights and widths of a hazy and a clear picture that fit though they differ: RESIDE cut 10 pixels off each edge of the hazy ones."""

LAYOUTS = {layout.name: layout for layout in _RECORDS}
_NOBODYS = ("urhi",)  # RESIDE's unannotated photographs


def strangers(layout: Layout) -> set[str]:
    """Names of folders, lower case, below which this set does not lie; none for the user's own."""
    if not layout.marks:
        return set()
    return {mark for other in _RECORDS for mark in other.marks}.union(_NOBODYS).difference(layout.marks)
