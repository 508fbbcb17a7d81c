"""index.html: all studies of a folder of results, the most suspicious first, and those that failed."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from liver_ct.files import read_json, write_json, written_whole
from liver_ct.outputs.findings import mm
from liver_ct.outputs.folders import is_whole
from liver_ct.outputs.names import INDEX, PICTURE, REPORT, RESULT, SUMMARY, TABLE
from liver_ct.outputs.report import render
from liver_ct.outputs.results import Item

FAILED = ".failed"  # a file for each study that failed and has not been finished since


def write_index(output: Path) -> None:
    """Write ``output/index.html`` from the results of all runs that lie in ``output``: whole or not at all."""
    studies = sorted(_rows(output), key=lambda study: (-study["probability"], study["case"]))
    page = render(INDEX, scripts=["index.js"], studies=studies, failed=sorted(failures(output)), summary=SUMMARY)
    with written_whole(output / INDEX, shared=True) as part:
        part.write_text(page, encoding="utf-8")
    with suppress(OSError):
        (output / FAILED).rmdir()  # where none is left


def note_failure(output: Path, case: str, study: Path, line: str) -> None:
    """Keep a study's path and its error line for the index, the latter without the folders it names."""
    for folder in (study.parent, output):
        line = line.replace(f"{folder}{os.sep}", "")
    with suppress(OSError):  # the line is on stderr, and a full disk is no further error
        (output / FAILED).mkdir(exist_ok=True)
        write_json(failure_of(output, study), [str(study), line, case])


def clear_failure(output: Path, study: Path) -> None:
    """Forget an earlier failure of a study that is finished."""
    with suppress(OSError):
        failure_of(output, study).unlink()


def failure_of(output: Path, study: Path) -> Path:
    """Where the failure of the CT at this path is noted: several have one name."""
    return output / FAILED / hashlib.sha256(os.fsencode(study)).hexdigest()[:16]


def failures(output: Path) -> Iterator[tuple[str, str]]:
    """Case and line of each failure; those of studies that are no longer there are forgotten."""
    folder = output / FAILED
    for file in [*folder.iterdir()] if folder.is_dir() else ():
        with suppress(OSError, ValueError):
            path, line, case = read_json(file)
            if Path(path).exists():
                yield case, line
            else:
                file.unlink()


def finished(output: Path) -> Iterator[tuple[Path, Item]]:
    """Folder and result.json of each study; what is no whole result is passed over."""
    for folder in output.iterdir():
        with suppress(OSError, ValueError):
            if not folder.name.startswith(".") and is_whole(folder):
                yield folder, read_json(folder / RESULT)


def _rows(output: Path) -> Iterator[Item]:
    """A row of the index for each study that is finished."""
    for folder, result in finished(output):
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            done = datetime.fromtimestamp((folder / RESULT).stat().st_mtime)
            shown = next((name for name in (REPORT, PICTURE) if (folder / name).is_file()), RESULT)
            yield {
                "case": folder.name,
                "link": f"{quote(folder.name)}/{shown}",
                "probability": float(result["study_tumour_probability"]),
                "flagged": len(result["flagged_slices"]),
                "volume": float(result["liver_volume_ml"]),
                "lesions": _lesions(result),
                "notes": result.get("notes", ()),  # which results of version 0.5 lack
                "seconds": float(result["seconds"]["total"]),
                "done": done.isoformat(" ", "minutes"),
                "stamp": done.timestamp(),
                **_sparkline(folder / TABLE, result["flag_threshold"]),
            }


def _lesions(result: Item) -> Item | None:
    """How many there are, the largest one's mm, and what they are called; None where no map was drawn."""
    found = result.get("lesions")  # which results of version 0.6 lack
    if found is None:
        return None
    largest = max((float(lesion["diameter_mm"]) for lesion in found), default=0.0)
    return {"count": len(found), "largest": largest, "noun": result["lesions_shown_as"]}


def _sparkline(table: Path, threshold: float) -> Item:
    """The tumour probability along z, feet on the left, as paths in a box of 100 x 20, and in words."""
    with table.open(newline="") as stream:
        rows = [(float(row["z_mm"]), row["tumour_probability"]) for row in csv.DictReader(stream)]
    points = sorted((z, float(p)) for z, p in rows if p)
    low, high = points[0][0], points[-1][0]
    places = [(100 * (z - low) / max(1e-6, high - low), 20 - 20 * p) for z, p in points]
    top = max(points, key=lambda point: point[1])
    return {
        "line": "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places),
        "dots": "".join(f"M{x:.1f},{y:.1f}h0" for x, y in places if y <= 20 - 20 * threshold),
        "said": f"highest at z {mm(top[0])} mm",
    }
