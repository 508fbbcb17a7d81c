"""Finding studies with their Prob-Masks, and writing results whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Transform
from scripts.cls_datalist import find_cts
from scripts.cls_files import whole_file
from scripts.cls_reading import case_name


class SaveScoresd(Transform):
    """Write ``<output_dir>/<case>/<case>_slices.csv`` and ``<case>_tumour.json``, through temporary names.

    Args:
        output_dir: folder of the studies' folders.
        threshold: slices from this probability on are flagged.

    Raises:
        StudyError: the folder cannot be written.
    """

    def __init__(self, output_dir: str, threshold: float = 0.5) -> None:
        self.output_dir, self.threshold = Path(output_dir), threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write both files; the item (``slices``, ``slice_z``, ``pred`` [Z], ``study_probability``, ``case``) stays."""
        rows = list(zip(data["slices"].tolist(), data["slice_z"].tolist(), data["pred"].tolist()))
        summary = {
            "case": data["case"],
            "tumour_probability": round(float(data["study_probability"]), 6),
            "threshold": self.threshold,
            "flagged_slices": sorted(s for s, _, p in rows if p >= self.threshold),
        }
        lines = ["slice,z_mm,tumour_probability", *(f"{s},{z:.3f},{p:.6f}" for s, z, p in rows)]
        stem = self.output_dir / data["case"] / data["case"]
        write_text(stem.with_name(f"{stem.name}_slices.csv"), "\n".join(lines) + "\n")
        write_text(stem.with_name(f"{stem.name}_tumour.json"), json.dumps(summary, indent=4) + "\n")
        return dict(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is either whole or not there; raises StudyError."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def find_studies(dataset_dir: str, pattern: str, prob_dir: str | None) -> list[dict[str, str]]:
    """One entry per CT in a folder, with the place of its Prob-Mask, ``<prob_dir>/<case>/<case>_prob.nii.gz``.

    Args:
        dataset_dir: the CTs' folder.
        pattern: which files (or DICOM folders) in it are CTs, as for glob.
        prob_dir: the first stage's output folder; None when no mask is used.
    """
    entries = find_cts(dataset_dir, pattern)
    if prob_dir:
        for entry in entries:
            case = case_name(entry["image"])
            entry["prob"] = str(Path(prob_dir, case, f"{case}_prob.nii.gz"))
    return entries
