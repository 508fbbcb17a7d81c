"""Mutants: a sample with some bytes, fields, slices or files changed, each made again by its seed and number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from fuzz import dicom, headers
from fuzz.fields import PIXELS, spans, touched, value_around
from fuzz.samples import ENHANCED, GROUPS, SERIES, Sample

ODD_BYTES = (0x00, 0x01, 0x20, 0x2D, 0x30, 0x39, 0x7F, 0x80, 0xFF)
VALUES = {
    "ten times": lambda v: v * 10,
    "a tenth": lambda v: v / 10,
    "negated": lambda v: v.max() - v + v.min(),
    "1024 more": lambda v: v + 1024,
    "1000 less": lambda v: v - 1000,
    "as z-scores times 100": lambda v: (v - v.mean()) / v.std() * 100,
    "from 0 to 255": lambda v: (v - v.min()) / (v.max() - v.min()) * 255,
    "all the same": lambda v: v * 0 + 40,
    "bytes swapped": lambda v: v,
}


class Mutant(NamedTuple):
    """A mutated sample.

    Args:
        sample: with the mutated files.
        fields: the fields whose bytes were changed.
        pixels: how many bytes of plain pixels were changed.
        what: was done, in words.
    """

    sample: Sample
    fields: frozenset[str]
    pixels: int
    what: str


def mutate(samples: Mapping[str, Sample], seed: int, number: int) -> Mutant:
    """The mutant of that number; the groups of formats take turns."""
    rng = np.random.default_rng([seed, number])
    group = GROUPS[number % len(GROUPS)]
    sample = pick(rng, [sample for sample in samples.values() if sample.group == group])
    way = pick(rng, ways(sample))
    for _ in range(20):  # a value may be replaced by itself
        found = way(rng, sample)
        if found.sample.files != sample.files:
            return found
    return flip_bytes(rng, sample)


def ways(sample: Sample) -> list[Callable[[Generator, Sample], Mutant]]:
    """How a sample is mutated; those that know its format more often than those that do not."""
    general = [flip_bytes, flip_bytes, cut_or_fill]
    if any(span.field == PIXELS for name, data in sample.files.items() for span in spans(name, data)):
        general.append(other_values)
    if sample.group == SERIES:
        return [*general, field_of_slice, field_of_slice, field_of_all, field_of_all, files_of_series, files_of_series]
    if sample.group == ENHANCED:
        return [*general, field_of_slice, field_of_slice, frames]
    return [*general, header_field, header_field, header_field]


def pick(rng: Generator, things):
    """One of them."""
    return things[rng.integers(len(things))]


def flip_bytes(rng: Generator, sample: Sample) -> Mutant:
    """One to four bytes of one file changed, most often in its header."""
    name = pick(rng, [*sample.files])
    data, fields, pixels, places = bytearray(sample.files[name]), set(), 0, []
    for _ in range(rng.integers(1, 5)):
        at = position(rng, name, sample.files[name])
        data[at] = pick(rng, ODD_BYTES) if rng.random() < 0.5 else data[at] ^ (1 << rng.integers(8))
        hit, of_pixels = touched(name, sample.files[name], at, at + 1)
        fields, pixels = fields | hit, pixels + of_pixels
        places.append(f"{at}={data[at]:#04x}")
    return with_file(sample, name, bytes(data), fields, pixels, f"{name}: bytes {' '.join(places)}")


def cut_or_fill(rng: Generator, sample: Sample) -> Mutant:
    """A run of bytes cut out, put in, filled or moved, or the file's end lost."""
    name = pick(rng, [*sample.files])
    data = sample.files[name]
    at = position(rng, name, data)
    end = min(len(data), at + int(2 ** rng.uniform(0, 12)))
    run = data[at:end]
    way = pick(rng, ["cut", "put in", "zeros", "noise", "double", "end lost", "more at the end"])
    new = {
        "cut": data[:at] + data[end:],
        "put in": data[:at] + rng.bytes(len(run)) + data[at:],
        "zeros": data[:at] + bytes(len(run)) + data[end:],
        "noise": data[:at] + rng.bytes(len(run)) + data[end:],
        "double": data[:end] + data[at:],
        "end lost": data[:at],
        "more at the end": data + run,
    }[way]
    fields, pixels = touched(name, data, at, end)
    if way not in ("zeros", "noise"):  # all that follows moves, of which text takes no notice
        fields, pixels = {value_around(name, data, at, end) or f"bytes {way}"}, 0
    return with_file(sample, name, new, fields, pixels, f"{name}: {way} {at} to {end}")


def other_values(rng: Generator, sample: Sample) -> Mutant:
    """All voxels scaled, shifted, inverted or in the other order of bytes, which the header does not know."""
    kind = ">i2" if "big-endian" in sample.name else "<u2" if sample.group in (SERIES, ENHANCED) else "<i2"
    what, change = pick(rng, [*VALUES.items()])
    files = dict(sample.files)
    for name, data in sample.files.items():
        for start, end, _ in (span for span in spans(name, data) if span.field == PIXELS):
            voxels = np.frombuffer(data[start:end], kind).astype(np.float64)
            new = np.clip(change(voxels), *(np.iinfo(kind).min, np.iinfo(kind).max)).astype(kind)
            files[name] = data[:start] + (new.byteswap() if what == "bytes swapped" else new).tobytes() + data[end:]
    return Mutant(sample._replace(files=files), frozenset({"all voxels"}), 0, f"all voxels {what}")


def header_field(rng: Generator, sample: Sample) -> Mutant:
    """A field of a NIfTI, NRRD or MHA header set to another value."""
    name = next(iter(sample.files))
    data = sample.files[name]
    if data[:2] == b"\x1f\x8b":
        return flip_bytes(rng, sample)
    change = headers.nifti_field if sample.group == "NIfTI" else headers.text_field
    new, field, what = change(rng, name, data)
    return with_file(sample, name, new, {field}, 0, f"{name}: {what}")


def field_of_slice(rng: Generator, sample: Sample) -> Mutant:
    """An attribute of one DICOM file set to another value."""
    name = pick(rng, [*sample.files])
    new, field, what = dicom.change(rng, sample.files[name])
    return with_file(sample, name, new, {field}, 0, f"{name}: {what}")


def field_of_all(rng: Generator, sample: Sample) -> Mutant:
    """An attribute set alike in all slices of a series, or in those from one on."""
    first = 0 if rng.random() < 0.7 else int(rng.integers(1, len(sample.files)))
    names = [*sample.files][first:]
    state = rng.bit_generator.state
    files, what, field = dict(sample.files), "", ""
    for name in names:
        rng.bit_generator.state = state  # the same change in each
        files[name], field, what = dicom.change(rng, sample.files[name])
    field = f"{field} (from one slice on)" if first else f"{field} (in all)"
    return Mutant(sample._replace(files=files), frozenset({field}), 0, f"slices from {first} on: {what}")


def files_of_series(rng: Generator, sample: Sample) -> Mutant:
    """Files of a series lost, emptied, doubled, replaced or renamed."""
    files, field, pixels, what = pick(rng, dicom.FILE_CHANGES)(rng, dict(sample.files))
    return Mutant(sample._replace(files=files), frozenset({field}), pixels, what)


def frames(rng: Generator, sample: Sample) -> Mutant:
    """Frames of an Enhanced CT shuffled, lost or put elsewhere."""
    name = next(iter(sample.files))
    new, field, what = pick(rng, dicom.FRAME_CHANGES)(rng, sample.files[name])
    return with_file(sample, name, new, {field}, 0, f"{name}: {what}")


def position(rng: Generator, name: str, data: bytes) -> int:
    """A byte to change: of a field drawn by lot, so that long ones do not take all, or anywhere."""
    found = spans(name, data)
    if rng.random() < 0.2 or not found:
        return int(rng.integers(len(data)))
    span = pick(rng, found)
    return int(rng.integers(span.start, span.end))


def with_file(sample: Sample, name: str, data: bytes, fields: set[str], pixels: int, what: str) -> Mutant:
    """A sample with one file changed."""
    files = {**sample.files, name: data}
    return Mutant(sample._replace(files=files), frozenset(fields), pixels, what)
