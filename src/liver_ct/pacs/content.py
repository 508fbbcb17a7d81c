"""What is in DICOM files, whoever sent them: two senders write other file headers to the same data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pydicom


def content_of(files: Iterable[Path]) -> str:
    """Checksum of the data sets in files, bytes as they are, and of how they are encoded; in any order."""
    return hashlib.sha256("".join(sorted(map(data_set_sum, files))).encode()).hexdigest()


def data_set_sum(file: Path) -> str:
    """Checksum of a file without its preamble and meta information, but for the transfer syntax; of the whole file
    where it has none."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        try:
            meta = pydicom.filereader.read_file_meta_info(file)
            digest.update(str(meta.get("TransferSyntaxUID", "")).encode())
            stream.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        except (pydicom.errors.InvalidDicomError, AttributeError, ValueError, OSError, EOFError):
            stream.seek(0)
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
