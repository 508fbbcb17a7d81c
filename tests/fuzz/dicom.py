"""Attributes of DICOM files set to odd values, files of a series lost or replaced, frames moved."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pydicom
from numpy.random import Generator
from pydicom import config
from pydicom.dataset import Dataset

from fuzz.fields import spans
from fuzz.headers import NUMBERS, Changed
from fuzz.samples import Files, to_bytes

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.3", "")
TEXTS = (
    "", "0", "-1", "MR", "CT", "LOCALIZER", "HU", "OD", "MONOCHROME1", "RGB", "1.2.3", "x" * 300, "\x1b[31m", "\\",
)  # fmt: skip
USEFUL = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "AcquisitionNumber",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "PatientPosition",
)  # fmt: skip
FilesChanged = tuple[Files, str, int, str]


def parse(data: bytes) -> Dataset:
    """A DICOM file; values that the standard forbids may be written to it."""
    config.settings.writing_validation_mode = config.IGNORE
    config.settings.reading_validation_mode = config.IGNORE
    return pydicom.dcmread(io.BytesIO(data), force=True)


def write(data: Dataset) -> bytes:
    """A DICOM file as it lies on disk, whatever it holds."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        pydicom.dcmwrite(buffer, data, implicit_vr=False, little_endian=True, force_encoding=True)
    return buffer.getvalue()


def change(rng: Generator, data: bytes) -> Changed:
    """One attribute, most often one that matters, set to another value or lost."""
    whole = parse(data)
    if rng.random() < 0.08:
        syntax = SYNTAXES[rng.integers(len(SYNTAXES))]
        value = next(span for span in spans("x.dcm", data) if span.field == "TransferSyntaxUID")
        new = syntax.encode().ljust(value.end - value.start, b"\0")
        return data[: value.start] + new + data[value.end :], "TransferSyntaxUID", f"TransferSyntaxUID to {syntax}"
    useful = rng.random() < 0.85
    found = [e for e in walk(whole) if e.VR != "SQ" and e.keyword != "PixelData"]
    found = [e for e in found if e.keyword in USEFUL] if useful else found
    element = found[rng.integers(len(found))]
    old, keyword = element.value, element.keyword
    if rng.random() < 0.12:
        remove(whole, element)
        return write(whole), keyword, f"{keyword} lost"
    try:
        element.value = other_value(rng, element)
        return write(whole), keyword, f"{keyword} {old} to {str(element.value)[:60]}"
    except Exception:  # a value that cannot be written at all
        return data, keyword, "nothing"


def walk(data: Dataset) -> Iterator[pydicom.DataElement]:
    """All elements, those within sequences too."""
    for element in data:
        yield element
        for item in element.value if element.VR == "SQ" else ():
            yield from walk(item)


def remove(data: Dataset, element: pydicom.DataElement) -> None:
    """Take an element out of the data set, or the item of a sequence, that holds it."""
    for one in data:
        if one is element:
            del data[one.tag]
            return
        for item in one.value if one.VR == "SQ" else ():
            remove(item, element)


def other_value(rng: Generator, element: pydicom.DataElement) -> object:
    """Another value of the same type, for one of several numbers or for a text."""
    if element.VR not in ("DS", "IS", "US", "SS", "UL", "SL", "FD", "FL") or element.value in (None, ""):
        return TEXTS[rng.integers(len(TEXTS))]
    several = list(element.value) if element.VM > 1 else [element.value]
    place = int(rng.integers(len(several)))
    number = NUMBERS[rng.integers(len(NUMBERS))](float(several[place]))
    if element.VR in ("US", "UL"):
        number = int(number) & (0xFFFF if element.VR == "US" else 0xFFFFFFFF) if np.isfinite(number) else 0
    elif element.VR == "IS":
        number = int(number) if np.isfinite(number) and abs(number) < 2**40 else 0
    elif element.VR == "DS":
        number = f"{number:.9g}"
    several[place] = number
    return several if len(several) > 1 else several[0]


# ----------------------------------------------------------------------------------------- files of a series


def lose_inside(rng: Generator, files: Files) -> FilesChanged:
    """A slice missing between others."""
    name = [*files][rng.integers(1, len(files) - 1)]
    del files[name]
    return files, "slice lost inside", 0, f"{name} lost"


def lose_at_end(rng: Generator, files: Files) -> FilesChanged:
    """Slices missing at an end: a shorter scan, which no reader can tell from a whole one."""
    count = int(rng.integers(1, 5))
    names = [*files][:count] if rng.random() < 0.5 else [*files][-count:]
    return {n: d for n, d in files.items() if n not in names}, "slices lost at an end", 0, f"{' '.join(names)} lost"


def spoil(rng: Generator, files: Files) -> FilesChanged:
    """Files of the series empty, cut short or replaced by something else: one, or all from one on."""
    first = int(rng.integers(len(files)))
    names = [*files][first:] if rng.random() < 0.4 else [[*files][first]]
    way = str(rng.choice(["empty", "cut short", "text"]))
    for name in names:
        files[name] = {"empty": b"", "cut short": files[name][: rng.integers(1, 1500)], "text": b"no slice\n" * 9}[way]
    return files, f"files {way}", 0, f"{names[0]} to {names[-1]}: {way}"


def spoil_without_suffix(rng: Generator, files: Files) -> FilesChanged:
    """The same, where the slices' names have no suffix."""
    names = {name: f"IM{i:04d}" for i, name in enumerate(files)}
    spoilt, field, _, what = spoil(rng, files)
    return {names[name]: data for name, data in spoilt.items()}, f"{field}, no suffix", 0, f"no suffix; {what}"


def rename(rng: Generator, files: Files) -> FilesChanged:
    """Other names in another order, without a suffix: the positions place the slices."""
    return {f"IM{i:04d}": files[name] for i, name in enumerate(rng.permutation([*files]))}, "names", 0, "renamed"


def double(rng: Generator, files: Files) -> FilesChanged:
    """A slice there twice."""
    name = [*files][rng.integers(len(files))]
    return {**files, "copy.dcm": files[name]}, "slice twice", 0, f"{name} twice"


def interleave(rng: Generator, files: Files) -> FilesChanged:
    """A second acquisition under the same series, half a slice higher."""
    for i, (name, data) in enumerate([*files.items()]):
        one = parse(data)
        one.ImagePositionPatient[2] += 5
        one.AcquisitionNumber, one.SOPInstanceUID = 2, f"1.2.3.6.{i + 1}"
        files[f"b-{name}"] = write(one)
    return files, "two acquisitions interleaved", 0, "a second acquisition half a slice higher"


def swap_pixels(rng: Generator, files: Files) -> FilesChanged:
    """The pixels of two neighbours exchanged, which only their values tell."""
    first = int(rng.integers(len(files) - 1))
    names = [*files][first : first + 2]
    a, b = (parse(files[name]) for name in names)
    a.PixelData, b.PixelData = b.PixelData, a.PixelData
    files[names[0]], files[names[1]] = write(a), write(b)
    return files, "pixels", 2 * len(a.PixelData), f"pixels of {' and '.join(names)} exchanged"


def tell_apart(rng: Generator, files: Files) -> FilesChanged:
    """Another person or other notes in all slices: none of it is in the answer."""
    for name, data in files.items():
        one = parse(data)
        one.PatientName, one.PatientID, one.SeriesDescription = "Other^Phantom", "2", "venous"
        files[name] = write(one)
    return files, "patient", 0, "another person"


FILE_CHANGES: tuple[Callable[[Generator, Files], FilesChanged], ...] = (
    lose_inside, lose_at_end, spoil, spoil_without_suffix, rename, double, interleave, swap_pixels, tell_apart,
)  # fmt: skip


# ----------------------------------------------------------------------------------- frames of an Enhanced CT


def shuffle_frames(rng: Generator, data: bytes) -> Changed:
    """Frames in another order, each with its position: legal, and the same volume."""
    return reorder(data, rng.permutation(parse(data).NumberOfFrames)), "order of frames", "frames shuffled"


def reverse_frames(rng: Generator, data: bytes) -> Changed:
    """Frames from the head down, each with its position: legal, and the same volume."""
    return reorder(data, np.arange(parse(data).NumberOfFrames)[::-1]), "order of frames", "frames reversed"


def lose_frame(rng: Generator, data: bytes) -> Changed:
    """A frame missing between others, with pixels and position."""
    count = parse(data).NumberOfFrames
    lost = int(rng.integers(1, count - 1))
    return reorder(data, np.delete(np.arange(count), lost)), "frame lost inside", f"frame {lost} lost"


def swap_positions(rng: Generator, data: bytes) -> Changed:
    """Two frames whose positions are exchanged, against their places in the stack."""
    whole = parse(data)
    groups = whole.PerFrameFunctionalGroupsSequence
    i, j = rng.choice(len(groups), 2, replace=False)
    a, b = groups[i].PlanePositionSequence, groups[j].PlanePositionSequence
    groups[i].PlanePositionSequence, groups[j].PlanePositionSequence = b, a
    return write(whole), "positions exchanged", f"positions of frames {i} and {j} exchanged"


def one_position(rng: Generator, data: bytes) -> Changed:
    """All frames at one place."""
    whole = parse(data)
    for group in whole.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence = whole.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    return write(whole), "one position for all", "all frames at one position"


def reorder(data: bytes, order: np.ndarray) -> bytes:
    """The frames of that order, with their groups."""
    whole = parse(data)
    size = len(whole.PixelData) // whole.NumberOfFrames
    groups = [*whole.PerFrameFunctionalGroupsSequence]
    whole.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    whole.PixelData = b"".join(whole.PixelData[i * size : (i + 1) * size] for i in order)
    whole.NumberOfFrames = len(order)
    return to_bytes(whole)


FRAME_CHANGES: tuple[Callable[[Generator, bytes], Changed], ...] = (
    shuffle_frames, reverse_frames, lose_frame, swap_positions, one_position,
)  # fmt: skip
