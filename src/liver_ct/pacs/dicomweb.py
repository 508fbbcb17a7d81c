"""Any DICOMweb server: QIDO-RS says what is there, WADO-RS gives it, STOW-RS takes results.

Three calls are all that is needed, and of these bytes rather than data sets; a library for DICOMweb would decode each
slice and write it anew.
"""

from __future__ import annotations

import shutil
import uuid
from datetime import date, timedelta
from email.message import Message
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import quote

from liver_ct.errors import StudyError
from liver_ct.pacs.connection import Connection
from liver_ct.pacs.servers import AwayError, GoneError, Instance, News, Series

JSON, DICOM = "application/dicom+json", 'multipart/related; type="application/dicom"'
PAGE = 200
STUDY, SERIES, SOP, MODALITY, COUNT = "0020000D", "0020000E", "00080018", "00080060", "00201209"
STORED, REFERENCED = "00081199", "00081155"


class DicomWeb:
    """A DICOMweb server; keys are ``StudyInstanceUID/SeriesInstanceUID``.

    Args:
        connection: to the root under which it has ``/studies``.
        days: series of studies of the last so many days are looked for; 0 looks for all.
    """

    def __init__(self, connection: Connection, days: int) -> None:
        self.http, self.name, self.days = connection, connection.server, days

    def check(self) -> str:
        """That there is such a server."""
        try:
            self._query("/series", {MODALITY: "CT"}, pages=1, page=1)
        except GoneError:
            fix = "Check --server; Orthanc's plugin, for one, is at /dicom-web"
            raise StudyError(f"{self.name}: not a DICOMweb server. {fix}.") from None
        return "DICOMweb"

    def news(self, position: str) -> News:
        """All CT series of the days that are looked at; DICOMweb has no log of changes."""
        query = {MODALITY: "CT"}
        if self.days:
            query["00080020"] = f"{date.today() - timedelta(days=self.days):%Y%m%d}-"
        found = self._query("/series", query)
        counts = {f"{quoted(each, STUDY)}/{quoted(each, SERIES)}": value(each, COUNT) for each in found}
        return News((), {key: None if count is None else int(count) for key, count in counts.items()}, position)

    def series(self, key: str) -> Series:
        """What is in a series; what is replaced under the same SOPInstanceUID is not noticed."""
        study, series = key.split("/")
        path = f"/studies/{study}/series/{series}/instances"
        uids = [quoted(each, SOP) for each in self._query(path, {})]
        if not uids:
            raise GoneError
        return Series(series, "CT", tuple(Instance(uid, f"{path}/{uid}") for uid in uids))

    def _query(self, path: str, query: dict[str, str], pages: int = 100000, page: int = PAGE) -> list[dict[str, Any]]:
        """All answers to a QIDO-RS query, page by page, until one brings nothing new: not every server knows pages. One
        that knows how long they are and not where they begin is asked for longer ones."""
        found: dict[str, dict[str, Any]] = {}
        for _ in range(pages):
            before = len(found)
            answer = self.http.get_json(path, {**query, "limit": page, "offset": before}, JSON)
            if answer is not None and not isinstance(answer, list):
                raise AwayError(f"{self.name}: answers a query with something that is no list")
            found |= {f"{value(each, SERIES)}/{value(each, SOP)}": each for each in answer or ()}
            if len(found) == before and len(answer or ()) != page:
                break
            page *= 2 if len(found) == before else 1
        return [*found.values()]

    def fetch(self, instance: Instance, file: Path) -> None:
        """Write an instance to a file."""
        with self.http.stream(instance.place, f"{DICOM}; transfer-syntax=*") as answer:
            file.write_bytes(only_part(answer.content, answer.headers.get("Content-Type", ""), self.name))

    def store(self, file: Path) -> None:
        """Send a file; a server that does not want it again is asked whether it has it."""
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        headers = {"Content-Type": f"{DICOM}; boundary={boundary}", "Accept": JSON}
        study, series, uid = uids_of(file)
        with TemporaryFile(dir=file.parent) as body, file.open("rb") as source:
            body.write(head)
            shutil.copyfileobj(source, body)
            body.write(f"\r\n--{boundary}--\r\n".encode())
            body.seek(0)
            try:
                answer = self.http.post(f"/studies/{study}", body, headers)
            except (StudyError, GoneError):
                answer = None
        if not is_stored(answer, uid) and not self._has(study, series, uid):
            raise StudyError(f"{file.name}: the server does not take it. See the server's log.")

    def _has(self, study: str, series: str, uid: str) -> bool:
        """Whether an instance is there."""
        try:
            found = self._query(f"/studies/{study}/series/{series}/instances", {SOP: uid}, pages=1)
            return uid in (value(each, SOP) for each in found)
        except (GoneError, StudyError):
            return False


def value(item: dict[str, Any], tag: str) -> Any:
    """First value of an element in DICOM's JSON model; None where it is empty or missing."""
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]


def quoted(item: dict[str, Any], tag: str) -> str:
    """A UID as a part of a path; what the server says is no instruction where to go."""
    return quote(str(value(item, tag)), safe="")


def uids_of(file: Path) -> tuple[str, str, str]:
    """StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID of a file."""
    import pydicom

    header = pydicom.dcmread(file, specific_tags=["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
    return str(header.StudyInstanceUID), str(header.SeriesInstanceUID), str(header.SOPInstanceUID)


def is_stored(answer: Any, uid: str) -> bool:
    """Whether the answer to STOW-RS names an instance among those that were stored."""
    items = answer.get(STORED, {}).get("Value") or [] if isinstance(answer, dict) else []
    return uid in (value(item, REFERENCED) for item in items)


def only_part(body: bytes, content_type: str, server: str) -> bytes:
    """The one part of a multipart answer; the body itself where it is none."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if boundary is None:
        return body
    begin = body.find(b"\r\n\r\n") + 4
    end = body.rfind(b"\r\n--" + boundary.encode())
    if begin < 4 or end < begin:
        raise AwayError(f"{server}: the answer is cut short")
    return body[begin:end]
