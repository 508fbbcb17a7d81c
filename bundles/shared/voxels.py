"""The voxels of an image whose header has been read, with every byte accounted for."""

from __future__ import annotations

import bz2
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from isal import igzip
from nibabel.volumeutils import apply_read_scaling
from shared.errors import EXPORT_AGAIN, StudyError
from shared.geometry import check_memory
from shared.headers import FIX_HEADER, Header

DENSEST = {"gzip": 1032, "zlib": 1032, "bzip2": 50_000}  # bytes that one byte can become
LARGE, NOISELESS = 2**30, 200  # bytes; CTs shrink to a quarter or so, masks more, but are smaller
CHUNK = 2**18


def read_voxels(path: Path, header: Header) -> torch.Tensor:
    """Voxels ``[X, Y, Z]``: int16 where they are stored so without scaling, else float32.

    LoadImage and nibabel inflate with zlib and turn integers into floats: four times as long, twice the memory.

    Args:
        path: the image, for messages.
        header: its header.

    Raises:
        StudyError: fewer or more bytes than the header declares, a wrong checksum, or more than memory holds.
    """
    plain = header.dtype == np.int16 and (header.slope, header.inter) == (1, 0)
    kept = header.dtype.itemsize + (0 if plain or header.dtype == np.float32 else 4)
    check_memory(path, header.shape, kept + (0 if (header.slope, header.inter) == (1, 0) else 8))
    _check_size(path, header)
    values = np.empty(header.shape, header.dtype, order="F")
    left = memoryview(values.reshape(-1, order="F")).cast("B")
    with _stream(header) as stream:
        _pass_over(stream, header.skip)
        while count := stream.readinto(left):
            left = left[count:]
        if stream.read(1):  # the checksum is compared at the end, too
            raise more_bytes(path)
    if len(left):
        raise StudyError(
            f"{path}: of {header.bytes} bytes that its header declares, {len(left)} are missing. {EXPORT_AGAIN}"
        )
    if not plain:
        values = np.asarray(apply_read_scaling(values, header.slope, header.inter), dtype=np.float32)
    return torch.from_numpy(values)


def more_bytes(path: Path) -> StudyError:
    """The error for a file that holds more voxels than its header declares."""
    return StudyError(f"{path}: the file holds more voxels than its header declares. {FIX_HEADER}")


def _check_size(path: Path, header: Header) -> None:
    """What the size of the file says, before memory is taken."""
    there = header.data.stat().st_size - header.start
    need = header.skip + header.bytes
    if there * DENSEST.get(header.packed, 1) < need:
        raise StudyError(f"{path}: its header declares {need} bytes, but {there} are there. {EXPORT_AGAIN}")
    if need > LARGE and there * NOISELESS < need:
        cause = f"{need / 2**30:.1f} GB of voxels from {there / 2**20:.1f} MB, though a CT has noise"
        raise StudyError(f"{path}: {cause}. {EXPORT_AGAIN}")
    if not header.packed and there > need:
        raise more_bytes(path)


@contextmanager
def _stream(header: Header) -> Iterator[BinaryIO | io.RawIOBase]:
    """The inflated bytes from the start of the stream on."""
    openers = {
        "": lambda file: file,
        "gzip": lambda file: igzip.IGzipFile(fileobj=file),
        "bzip2": bz2.BZ2File,
        "zlib": _ZlibFile,
    }
    with header.data.open("rb") as file:
        file.seek(header.start)
        yield openers[header.packed](file)


def _pass_over(stream: BinaryIO | io.RawIOBase, count: int) -> None:
    while count > 0 and (got := len(stream.read(min(count, CHUNK)))):
        count -= got


class _ZlibFile(io.RawIOBase):
    """A zlib stream as a file; the standard library has one for gzip and bzip2 only."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.inflate = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self.inflate.eof:
            packed = self.inflate.unconsumed_tail or self.file.read(CHUNK)
            if not packed:
                raise EOFError("the compressed stream has no end")
            if data := self.inflate.decompress(packed, len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        if self.inflate.unused_data or self.file.read(1):
            raise OSError("bytes after the end of the compressed stream")
        return 0
