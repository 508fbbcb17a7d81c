"""An Orthanc, by its REST interface: its log of changes says what is new."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from liver_ct.errors import StudyError
from liver_ct.pacs.connection import Connection
from liver_ct.pacs.servers import AwayError, GoneError, Instance, News, Series

PAGE = 1000  # changes at a time
TIME = "%Y%m%dT%H%M%S"


class Orthanc:
    """An Orthanc; keys are its own names of series.

    Args:
        connection: to its root.
        settle: seconds without a new instance after which a series is taken for whole. Orthanc's own StableAge, which
            counts too, is not enough: a restart makes everything stable.
    """

    def __init__(self, connection: Connection, settle: float) -> None:
        self.http, self.name, self.settle = connection, connection.server, timedelta(seconds=settle)

    def check(self) -> str:
        """Name and version of the server."""
        try:
            about = self.http.get_json("/system")
            return f"Orthanc {about['Version']}"
        except (GoneError, KeyError, TypeError):
            fix = "Check --server, or give --dicomweb true for another DICOMweb server"
            raise StudyError(f"{self.name}: not an Orthanc. {fix}.") from None

    def news(self, position: str) -> News:
        """The changes after those that are known.

        Instances are followed rather than StableSeries, which a restart of the server loses. The last known change is
        asked for again: where another is in its place, this is another database, and everything is new.
        """
        seq, _, last = position.partition(" ")
        known = int(seq or 0)
        page = self.http.get_json("/changes", {"since": max(known - 1, 0), "limit": PAGE})
        changes = page["Changes"]
        if page["Last"] < known or any(change["Seq"] == known and change["ID"] != last for change in changes):
            return News((), {}, "", more=True)
        changes = [change for change in changes if change["Seq"] > known]
        if changes:
            position = f"{changes[-1]['Seq']} {changes[-1]['ID']}"
        return News(self._series_of(changes), {}, position, more=not page["Done"])

    def _series_of(self, changes: list[dict[str, Any]]) -> set[str]:
        """The series in which instances are new; one call for each, whatever the number of its instances."""
        found = {change["ID"] for change in changes if change["ChangeType"] == "StableSeries"}
        new = {change["ID"] for change in changes if change["ChangeType"] == "NewInstance"}
        while new:
            instance = new.pop()
            try:
                series = self.http.get_json(f"/instances/{instance}/series")
            except GoneError:
                continue
            found.add(series["ID"])
            new.difference_update(series["Instances"])
        return found

    def series(self, key: str) -> Series:
        """What is in a series; an instance that is replaced gets another FileUuid."""
        about = self.http.get_json(f"/series/{key}")
        tags = about["MainDicomTags"]
        modality = tags.get("Modality", "")
        if modality not in ("CT", ""):
            return Series(tags.get("SeriesInstanceUID", key), modality, ())
        instances = tuple(
            Instance(each["MainDicomTags"]["SOPInstanceUID"], f"/instances/{each['ID']}/file", each["FileUuid"])
            for each in self.http.get_json(f"/series/{key}/instances")
        )
        return Series(tags["SeriesInstanceUID"], modality, instances, not about["IsStable"] or self._is_fresh(about))

    def _is_fresh(self, about: dict[str, Any]) -> bool:
        """Whether an instance has come just now, by the server's own clock."""
        if "LastUpdate" not in about:
            return False
        with self.http.stream("/tools/now", "text/plain") as answer:
            now = datetime.strptime(answer.text.strip(), TIME)
        return now - datetime.strptime(about["LastUpdate"], TIME) < self.settle

    def fetch(self, instance: Instance, file: Path) -> None:
        """Write an instance to a file, as the server has it."""
        with self.http.stream(instance.place, "application/dicom") as answer, file.open("wb") as target:
            for part in answer.iter_content(1 << 20):
                target.write(part)

    def store(self, file: Path) -> None:
        """Send a file."""
        with file.open("rb") as body:
            answer = self.http.post("/instances", body, {"Content-Type": "application/dicom"})
        status = answer.get("Status") if isinstance(answer, dict) else None
        if status == "FilteredOut":
            raise StudyError(f"{file.name}: the server's filter does not take it. Allow it there.")
        if status not in ("Success", "AlreadyStored"):
            raise AwayError(f"{self.name}: did not store {file.name} ({status})")
