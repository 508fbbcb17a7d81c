"""What is found in a study: a row per axial slice, the figures of the whole, and all of it as one value."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.files import TemporaryFolder, written_whole
from liver_ct.outputs.axes import axial_axis
from liver_ct.outputs.names import Output

if TYPE_CHECKING:
    from liver_ct.outputs.lesions import Lesions

Item = dict[str, Any]
SLOPE = np.nextafter(np.float32(1 / 255), np.float32(0))  # of the Prob-Mask's file, by which the bundles divide
DOUBT = (0.1, 0.9)  # of the Prob-Mask: what lies between is uncertain


class SliceRow(NamedTuple):
    """One axial slice: its index in the file's own array, where it is, and what was found.

    Attributes:
        slice: index along the array's axial axis.
        z_mm: height of the slice's centre, mm, feet to head.
        liver_area_mm2: area of the liver mask.
        tumour_probability: 0..1; None where no liver is near, and the slice was not considered.
    """

    slice: int
    z_mm: float
    liver_area_mm2: float
    tumour_probability: float | None


class Summary(NamedTuple):
    """The figures of a study.

    Attributes:
        study_tumour_probability: that of its highest slice, 0..1; no score of the study.
        flag_threshold: tumour probability from which a slice is flagged.
        flagged_slices: index of each flagged slice.
        liver_volume_ml: volume of the liver mask.
    """

    study_tumour_probability: float
    flag_threshold: float
    flagged_slices: tuple[int, ...]
    liver_volume_ml: float

    @property
    def line(self) -> str:
        """The figures in one line."""
        highest, flagged = self.study_tumour_probability, len(self.flagged_slices)
        return f"highest slice {highest:.2f}    {flagged} slices flagged    liver {self.liver_volume_ml:.0f} ml"


class Note(NamedTuple):
    """What speaks against a result.

    Attributes:
        code: which of the checks, for programs.
        text: what is unusual, in a sentence.
    """

    code: str
    text: str


class Regions(NamedTuple):
    """Where tumour probabilities come from.

    Attributes:
        values: ``[X', Y', Z']``, 0..1.
        affine: 4 x 4, voxel to world mm, along the axes of the CT turned to RAS.
    """

    values: NDArray[Any]
    affine: NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult:
    """One CT and what the chain found in it; all arrays lie on the CT's grid, in its own orientation, read-only.

    Attributes:
        case: name of the study.
        ct: ``[X, Y, Z]`` in HU, int16 or float32.
        affine: 4 x 4, voxel to world mm (RAS), float64.
        prob_mask: ``[X, Y, Z]``, the liver's probability 0..1, float32.
        liver_mask: ``[X, Y, Z]``, 0 and 1, uint8.
        rows: one per axial slice, by its index in the array.
        summary: the figures of the study.
        record: what the result depends on: input, mask source, bundles.
        regions: where tumour probabilities come from; None where they were not asked for, or the bundle has none.
        seconds: how long each step took.
        model_cards: what each bundle says of itself.
        source: path of the CT; the name of the study where the CT was no file.
        files: of a DICOM series, its slices' files in the order of Z.
        mask_writer: writes ``prob`` and ``pred`` to a folder as the segmentation bundle does.
        notes: what is implausible about the result.
        lesions: the lesion map and the lesions in it; None where the bundle draws no map.
        made: how the result was made: when, on which device, with which settings and versions.
        map_writer: writes ``lesion_prob`` to a folder as the classification bundle does; None likewise.
        holder: the folder of what ``files`` names, where they were unpacked from a zip.
    """

    case: str
    ct: NDArray[Any]
    affine: NDArray[Any]
    prob_mask: NDArray[Any]
    liver_mask: NDArray[Any]
    rows: tuple[SliceRow, ...]
    summary: Summary
    record: Mapping[str, Any]
    regions: Regions | None
    seconds: Mapping[str, float]
    model_cards: tuple[Mapping[str, Any], ...]
    source: str
    files: tuple[str, ...]
    mask_writer: Callable[[Item, Path], None]
    notes: tuple[Note, ...] = ()
    lesions: Lesions | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    map_writer: Callable[[Item, Path], None] | None = None
    holder: TemporaryFolder | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "liver_mask", as_mask(self.liver_mask, self.ct.shape, self.case))
        for name in ("ct", "affine", "prob_mask", "liver_mask"):
            array = getattr(self, name).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        for array in (*(self.lesions or ())[:2], *(self.regions or ())):
            array.flags.writeable = False

    def __repr__(self) -> str:
        return f"<StudyResult {self.case}: {self.line}>"

    @property
    def result(self) -> Item:
        """The study's figures and what they depend on, as result.json holds them, in a dictionary of its own."""
        figures = self.summary._asdict() | {"flagged_slices": list(self.summary.flagged_slices)}
        notes = {"notes": [note.text for note in self.notes], "note_codes": [note.code for note in self.notes]}
        return copy.deepcopy({"case": self.case, **self.record, **self.made, **figures, **self._lesions, **notes})

    @property
    def _lesions(self) -> Item:
        """What result.json says of lesions; null where the bundle draws no map."""
        if self.lesions is None:
            return {"lesions_shown_as": None, "lesions": None, "flagged_without_lesion": None}
        found = self.lesions.found
        listed = [lesion._asdict() | {"centre_mm": list(lesion.centre_mm)} for lesion in found]
        within = {index for lesion in found for index in range(lesion.first_slice, lesion.last_slice + 1)}
        bare = [index for index in self.summary.flagged_slices if index not in within]
        return {"lesions_shown_as": self.lesions.shown_as, "lesions": listed, "flagged_without_lesion": bare}

    @property
    def headline(self) -> str:
        """The figures in one line."""
        return self.summary.line

    @property
    def line(self) -> str:
        """The figures and the notes in one line."""
        return f"{self.headline}    NOTE: {' '.join(note.text for note in self.notes)}" if self.notes else self.headline

    @property
    def total_seconds(self) -> Item:
        """``seconds``, and their sum as ``total``."""
        return {**self.seconds, "total": round(sum(self.seconds.values()), 3)}

    @cached_property
    def volume_range_ml(self) -> tuple[float, float]:
        """The liver's volume in ml where the Prob-Mask is above 0.9, and above 0.1."""
        counts = np.zeros(256, np.int64)
        for z in range(self.prob_mask.shape[2]):
            plane = self.prob_mask[..., z]
            if plane.any():
                counts += np.bincount(to_byte(plane).ravel(order="K"), minlength=256)
        ml = voxel_mm3(self.affine) / 1000
        low, high = (round(float(counts[int(level * 255) + 1 :].sum()) * ml, 2) for level in reversed(DOUBT))
        return low, high

    def save(self, folder: str | Path, outputs: Collection[Output | str] = (Output.PICTURE, Output.REPORT)) -> None:
        """Write the study's files to ``folder``, all or none, as the command does; earlier results there are replaced.

        Args:
            folder: gets prob_mask.nii.gz, liver_mask.nii.gz, slices.csv and result.json; of a bundle that draws a
                lesion map also lesion_prob.nii.gz and lesions.csv.
            outputs: what else: picture, report, and dicom where the CT was a DICOM series.

        Raises:
            StudyError: ``folder`` holds something else, or the CT is no DICOM series; OSError: it cannot be written.
            ValueError: an unknown output.
        """
        from liver_ct.outputs.writing import save_study

        save_study(self, Path(folder), outputs)


def as_mask(mask: NDArray[Any], shape: tuple[int, ...], case: str) -> NDArray[Any]:
    """A mask that may be the caller's own as uint8; raises StudyError unless it is 0 and 1, of the CT's ``shape``."""
    if mask.shape != shape:
        raise StudyError(f"{case}: liver_mask has the shape {mask.shape}, its CT {shape}. Give one on the CT's grid.")
    known = mask if mask.dtype == np.uint8 else mask.astype(np.uint8)
    if known.max() > 1 or (known is not mask and not np.array_equal(known, mask)):
        raise StudyError(f"{case}: liver_mask holds other values than 0 and 1. Give 1 where liver is.")
    return known


def slice_rows(mask: NDArray[Any], affine: NDArray[Any], tumour: Item) -> list[SliceRow]:
    """One row per axial slice of a mask ``[X, Y, Z]`` in any orientation, by its index in that array."""
    axis = axial_axis(affine)
    across = [i for i in range(3) if i != axis]
    pixel_mm2 = np.linalg.norm(np.cross(affine[:3, across[0]], affine[:3, across[1]]))
    areas = mask.sum(axis=tuple(across), dtype=np.int64) * pixel_mm2
    centres = np.tile((np.array(mask.shape) - 1) / 2, (mask.shape[axis], 1))
    centres[:, axis] = np.arange(mask.shape[axis])
    z = centres @ affine[2, :3] + affine[2, 3]
    found = dict(zip(tumour["slices"].tolist(), tumour["pred"].flatten().tolist()))
    return [SliceRow(i, float(z[i]), float(areas[i]), found.get(i)) for i in range(len(z))]


def write_rows(rows: Sequence[SliceRow], file: Path) -> None:
    """Write slices.csv; the probability of a slice that was not considered is empty."""
    with written_whole(file) as part, part.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(SliceRow._fields)
        for i, z, area, p in rows:
            table.writerow([i, f"{z:.3f}", f"{area:.1f}", "" if p is None else f"{p:.6f}"])


def summarise(
    rows: Sequence[SliceRow], mask: NDArray[Any], affine: NDArray[Any], probability: float, threshold: float
) -> Summary:
    """The study's figures, from its rows, its liver mask ``[X, Y, Z]`` and the highest slice's tumour probability."""
    flagged = [row.slice for row in rows if row.tumour_probability is not None and row.tumour_probability >= threshold]
    return Summary(round(probability, 6), threshold, tuple(flagged), volume_ml(mask, affine))


def volume_ml(mask: NDArray[Any], affine: NDArray[Any]) -> float:
    """Volume of a mask, in ml to two decimals."""
    return round(np.count_nonzero(mask) * voxel_mm3(affine) / 1000, 2)


def voxel_mm3(affine: NDArray[Any]) -> float:
    """Volume of a voxel."""
    return abs(float(np.linalg.det(affine[:3, :3])))


def to_byte(share: NDArray[Any]) -> NDArray[Any]:
    """Float32, 0..1, to 0..255, as the Prob-Mask's file holds it: times 255 plus a half is another byte in one of
    100,000 voxels, those that float32 puts on the other side of a half."""
    stored: NDArray[Any] = np.rint(share / SLOPE).astype(np.uint8)
    return stored


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note in ``seconds[step]`` how long the block took."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)
