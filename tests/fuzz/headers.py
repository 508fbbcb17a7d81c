"""Fields of NIfTI, NRRD and MHA headers set to odd values."""

from __future__ import annotations

from collections.abc import Callable

import nibabel as nib
import numpy as np
from numpy.random import Generator

from fuzz.fields import spans

Changed = tuple[bytes, str, str]  # the file, the field, and what was done

NUMBERS: tuple[Callable[[float], float], ...] = (
    lambda v: 0, lambda v: 1, lambda v: -1, lambda v: 2, lambda v: -v, lambda v: v + 1, lambda v: v - 1,
    lambda v: v * 2, lambda v: v / 2, lambda v: v * 10, lambda v: v / 10, lambda v: v * 1.03, lambda v: 32767,
    lambda v: 65535, lambda v: -32768, lambda v: 2**31 - 1, lambda v: 1e30, lambda v: 1e-30, lambda v: 1e300,
    lambda v: float("nan"), lambda v: float("inf"),
)  # fmt: skip
WORDS = (
    "short", "ushort", "int", "float", "double", "uchar", "block", "little", "big", "raw", "gzip", "bzip2", "hex",
    "text", "LOCAL", "LIST", "ct.raw", "../ct.raw", "/etc/hostname", "MET_SHORT", "MET_USHORT", "MET_FLOAT",
    "MET_UCHAR", "MET_LONG_LONG", "True", "False", "none", "RAS", "LPS", "RAI", "left-posterior-superior",
    "right-anterior-superior", "scanner-xyz", "list domain domain", "NaN", "-1", "0", "x" * 5000, "9" * 400,
    "\x1b[31m", "",
)  # fmt: skip


def nifti_field(rng: Generator, name: str, data: bytes) -> Changed:
    """One number of the header, or all of a field."""
    header = nib.Nifti1Header(data[:348], endianness=">" if data[0] == 0 else "<", check=False)
    kinds = nib.nifti1.header_dtype.fields
    field = list(kinds)[rng.integers(len(kinds))]
    value = np.array(header[field])  # a copy
    way = int(rng.integers(len(NUMBERS)))
    if value.dtype.kind == "S":
        new = np.array(rng.bytes(value.dtype.itemsize), value.dtype)
    else:
        new = np.array(value)
        index = (int(rng.integers(new.size)),) if new.ndim else ()
        new[index] = to_type(NUMBERS[way](float(new[index])), value.dtype)
    header._structarr[field] = new
    return header.binaryblock + data[348:], field, f"{field} {value.tolist()} to {new.tolist()}"


def to_type(value: float, kind: np.dtype) -> np.ndarray:
    """A number as the field holds it, wrapped around where it is too large."""
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return np.float64(value).astype(kind)
    whole = int(value) if np.isfinite(value) else 0
    return np.array(whole & (256**kind.itemsize - 1), np.uint64).astype(kind)


def text_field(rng: Generator, name: str, data: bytes) -> Changed:
    """A value changed in one number or word, a line lost, doubled, or given another's value."""
    values = [span for span in spans(name, data) if not span.field.endswith(("(name)", "pixels", "header", "comment"))]
    span, other = (values[rng.integers(len(values))] for _ in range(2))
    value, field = data[span.start : span.end].decode("ascii", "replace"), span.field
    way = rng.choice(["number", "number", "word", "lost", "double", "other"])
    line = data.rfind(b"\n", 0, span.start) + 1
    if way == "lost":
        return data[:line] + data[span.end + 1 :], f"{field} (name)", f"line {field} lost"
    if way == "double":
        return data[: span.end + 1] + data[line:], f"{field} (name)", f"line {field} twice"
    new = {"number": other_number, "word": other_word}.get(way, lambda *_: data[other.start : other.end].decode())(
        rng, value
    )
    changed = data[: span.start] + new.encode("latin-1", "replace") + data[span.end :]
    return changed, field, f"{field}: {value!r} to {new[:60]!r}"


def other_number(rng: Generator, value: str) -> str:
    """One of the numbers in a text changed."""
    words = value.replace("(", " ( ").replace(")", " ) ").replace(",", " , ").split()
    places = [i for i, word in enumerate(words) if is_number(word)]
    if not places:
        return other_word(rng, value)
    place = places[rng.integers(len(places))]
    number = NUMBERS[rng.integers(len(NUMBERS))](float(words[place]))
    words[place] = f"{number:.12g}"
    return " ".join(words).replace("( ", "(").replace(" )", ")").replace(" , ", ",")


def other_word(rng: Generator, value: str) -> str:
    """One of the words in a text changed."""
    words = value.split() or [""]
    words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
    return " ".join(words)


def is_number(word: str) -> bool:
    """Whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True
