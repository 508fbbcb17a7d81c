"""Which slices belong together: the series of a folder, the one asked for, and all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from shared.dicom_files import files_in, has_dicom_mark, read_elements, sop_class, value
from shared.dicom_slices import normal, place_slice
from shared.errors import StudyError

if TYPE_CHECKING:
    import pydicom

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class of a single CT slice
ENHANCED = (f"{CT_IMAGE}.1", f"{CT_IMAGE}.2")  # all slices in one file
NO_SLICES = ("LOCALIZER", "SCREEN SAVE")  # in the ImageType of CT Images that are no part of a volume
MARKS = (  # of a series without UID: what is the same in all its slices
    "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime",
    "ProtocolName", "ConvolutionKernel",
)  # fmt: skip
SHOWN = 8  # series in a message


def is_slice(header: pydicom.Dataset) -> bool:
    """Whether a data set is a CT image, single or Enhanced, and no scout or screenshot."""
    return is_ct(header) and not any(mark in str(value(header, "ImageType")).upper() for mark in NO_SLICES)


def is_ct(header: pydicom.Dataset) -> bool:
    """Whether a data set is a CT image; where an anonymiser blanked what it is, by its modality."""
    kind, modality = sop_class(header), str(value(header, "Modality") or "").strip().upper()
    return (kind in (CT_IMAGE, *ENHANCED) and modality in ("", "CT")) or (kind == "" and modality == "CT")


def series_of(header: pydicom.Dataset) -> str:
    """What the slices of one series have in common: its UID, or other marks where that is blank."""
    return str(value(header, "SeriesInstanceUID") or [str(value(header, name)) for name in MARKS])


def choose_series(folder: Path, slices: Sequence[pydicom.Dataset], series: str | None) -> list[pydicom.Dataset]:
    """The slices of the only series, or of the one asked for by its number or UID.

    Raises:
        StudyError: there is no such series, or more than one; lists those there are, without the patient.
    """
    found: dict[str, list[pydicom.Dataset]] = {}
    for header in slices:
        found.setdefault(series_of(header), []).append(header)
    wanted = [h for uid, h in found.items() if series is None or series in (uid, str(value(h[0], "SeriesNumber")))]
    if len(wanted) == 1:
        return wanted[0]
    shown = wanted or list(found.values())
    if len(shown) > SHOWN and all(len(headers) == 1 for headers in shown):
        cause = f"{len(shown)} CT slices, each with a SeriesInstanceUID of its own"
        raise StudyError(f"{folder}: {cause}. Give them one, as dcmodify of dcmtk does, or the scanner's original.")
    cause = f"{len(shown)} CT series in this folder" if wanted else f"no CT series {series} in this folder, but"
    raise StudyError(f"{folder}: {cause}: {_listed(shown)}. Choose one with --series NUMBER or its SeriesInstanceUID.")


def _listed(shown: Sequence[Sequence[pydicom.Dataset]]) -> str:
    """Outlines of several series, with their UIDs where a number is missing or there twice."""
    numbers = [value(headers[0], "SeriesNumber") for headers in shown]
    outlines = []
    for headers, number in zip(shown[:SHOWN], numbers):
        outlines.append(outline(headers, with_uid=number is None or numbers.count(number) > 1))
    more = [f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
    return "; ".join(outlines + more)


def outline(series: Sequence[pydicom.Dataset], with_uid: bool) -> str:
    """What tells a series from others: number, slices, their distance and the convolution kernel."""
    first = series[0]
    try:
        places = [place_slice(h) for h in series]
        gaps = np.diff(np.sort([p.position @ normal(places[0]) for p in places]))
        apart = f"{np.median(gaps):.3g} mm apart" if len(gaps) else "alone"
    except StudyError:
        apart = "unknown distance"
    kernel = value(first, "ConvolutionKernel") or "unknown"
    if not isinstance(kernel, str):
        kernel = "/".join(kernel)
    number, uid = str(value(first, "SeriesNumber"))[:60], value(first, "SeriesInstanceUID") or "without a UID"
    name = f"{number} ({str(uid)[:64]})" if with_uid else number
    return f"{name}, {len(series)} slices {apart}, kernel {kernel[:60]}"


def check_left_out(chosen: Sequence[pydicom.Dataset], left_out: Sequence[pydicom.Dataset]) -> None:
    """Raise StudyError where an image that is not taken for a slice shares series, matrix and direction with them."""
    first = chosen[0]
    for header in left_out:
        alike = series_of(header) == series_of(first) and all(
            value(header, name) == value(first, name) is not None
            for name in ("Rows", "Columns", "ImageOrientationPatient")
        )
        if alike:
            why = "by modality, SOP class or image type no CT slice, but of the series and place of those beside it"
            raise StudyError(f"{header.filename}: {why}. Give the scanner's original series.")


def check_whole(folder: Path, chosen: Sequence[pydicom.Dataset]) -> None:
    """Raise StudyError where slices of the series lie in a folder beside, above or below and not in this one.

    Two or three files of each such folder are looked at. A copy is none of the series' parts; nor is an acquisition of
    another number over the same part of the body.
    """
    uid = value(chosen[0], "SeriesInstanceUID")
    for other in _folders_around(folder) if uid else ():
        with suppress(OSError):  # gone meanwhile, or not ours to read
            if uid not in _series_at(other, other.stat().st_mtime_ns):
                continue
            headers = [h for h in map(_peek, files_in(other)) if h and value(h, "SeriesInstanceUID") == uid]
            if _goes_on(chosen, [h for h in headers if is_slice(h) and sop_class(h) not in ENHANCED]):
                raise StudyError(f"{folder}: the series goes on in {other}. Put its slices into one folder.")


def _goes_on(here: Sequence[pydicom.Dataset], there: Sequence[pydicom.Dataset]) -> bool:
    """Whether slices of one series, in two folders, are two parts of it."""
    one, other = ({_place(h) for h in headers} - {()} for headers in (here, there))
    if other <= one:
        return False
    numbers = [{str(value(h, "AcquisitionNumber")) for h in headers} for headers in (here, there)]
    (low, high), (first, last) = ((min(places), max(places)) for places in (_along(one), _along(other)))
    overlap = min(high, last) - max(low, first)
    return bool(numbers[0] & numbers[1]) or overlap < min(high - low, last - first) / 2


def _place(header: pydicom.Dataset) -> tuple[float, ...]:
    """Where a slice is, to 0.01 mm; UIDs do not tell slices where an anonymiser gave all the same."""
    try:
        return tuple(round(float(v), 2) for v in value(header, "ImagePositionPatient"))
    except (TypeError, ValueError):
        return ()


def _along(places: set[tuple[float, ...]]) -> list[float]:
    """The coordinate that slices differ in most."""
    axes = [list(axis) for axis in zip(*places)] or [[0.0]]
    return max(axes, key=lambda axis: max(axis) - min(axis))


def _folders_around(folder: Path) -> Iterator[Path]:
    """The folder above, and the folders in it and in this one."""
    here = folder.resolve()
    yield here.parent
    for above in (here.parent, here):
        try:
            below = [p for p in sorted(above.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        except OSError:  # not ours to read
            continue
        yield from (path for path in below if path.resolve() != here)


@lru_cache(maxsize=2**14)
def _series_at(folder: Path, _changed: int) -> frozenset[str]:
    """SeriesInstanceUIDs of the first, middle and last file in a folder; raises OSError."""
    files = list(files_in(folder))
    ends = {files[i] for i in (0, len(files) // 2, -1)} if files else set()
    return frozenset(str(value(h, "SeriesInstanceUID")) for h in map(_peek, ends) if h)


def _peek(path: Path) -> pydicom.Dataset | None:
    """What tells whose slice a file is, or None for what is no DICOM."""
    try:
        if not path.is_file() or not has_dicom_mark(path):
            return None
        return read_elements(path, force=True)
    except Exception:  # of another folder, which is read in its own turn
        return None
