"""report.html: what was found in a study, in words, numbers and pictures, as one file that needs no network."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nibabel.affines import voxel_sizes

from liver_ct.files import write_text
from liver_ct.outputs.facts import ct_facts, run_facts
from liver_ct.outputs.findings import findings, flagged_runs, lesion_words, mm
from liver_ct.outputs.layers import layers, lesion_places
from liver_ct.outputs.slices import KNOTS_GRAY, KNOTS_HU, View, body_box, jpeg_slices, shown_slices, view_of

if TYPE_CHECKING:
    from liver_ct.outputs.results import Item, SliceRow, StudyResult

__all__ = ["body_box", "render", "shown_slices", "write_report"]

TEMPLATES = Path(__file__).with_name("templates")
SCRIPTS = ("volume", "planes", "panes", "tools", "keys", "keep", "page")  # of the report, in this order


def write_report(study: StudyResult, file: str | Path) -> None:
    """Write the report of one study as one HTML file.

    Args:
        study: what to tell; without its regions or lesions the page has none.
        file: to write; its folder is made if missing.
    """
    upward = sorted(study.rows, key=lambda row: row.z_mm)
    view = view_of(study, upward)
    threshold = study.summary.flag_threshold
    result = study.result | {"seconds": study.total_seconds}
    page = render(
        "report.html",
        scripts=[f"report/{name}.js" for name in SCRIPTS],
        result=result,
        data=page_data(view, upward, study, result),
        curve=curve(upward, threshold),
        findings=findings(result, upward),
        runs=flagged_runs(upward, threshold),
        rows=upward,
        cards=study.model_cards,
        lesion_words=lesion_words(study),
        ct_facts=ct_facts(view, study),
        run_facts=run_facts(result),
    )
    write_text(Path(file), page)


def render(template: str, scripts: Sequence[str], **values: Any) -> str:
    """A page from its template, with names escaped, and only its own scripts, as one, allowed to run."""
    code = "".join((TEMPLATES / script).read_text(encoding="utf-8") for script in scripts)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return _environment().get_template(template).render(script=code, script_sha256=digest, **values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["mm"] = mm
    return environment


def page_data(view: View, rows: Sequence[SliceRow], study: StudyResult, result: Item) -> Item:
    """What the page's script draws from and offers to keep: slices as JPEG, layers, and where they lie."""
    sizes = [*view.size, view.ct.shape[2]]
    return {
        "slices": [[rows[i].slice, round(rows[i].z_mm, 2), rows[i].tumour_probability] for i in view.shown],
        "shown": view.shown,
        "count": len(rows),
        "threshold": study.summary.flag_threshold,
        "knots": {"hu": KNOTS_HU, "gray": KNOTS_GRAY},
        "size_mm": [float(size * mm) for size, mm in zip(sizes, voxel_sizes(view.affine))],
        "ct": jpeg_slices(view),
        **layers(view, study),
        "lesions": list(lesion_places(view, study.lesions)) if study.lesions else [],
        "result": result,
        "rows": [list(row) for row in study.rows],
    }


def curve(rows: Sequence[SliceRow], threshold: float) -> Item:
    """Paths of the tumour probability and of the liver's area along z, in a box of 1000 x 100, feet on the left."""
    z = np.array([row.z_mm for row in rows])
    x = (z - z[0]) / max(1e-6, z[-1] - z[0]) * 1000
    area = np.array([row.liver_area_mm2 for row in rows])
    y = 100 - 100 * area / max(1.0, area.max())
    points = [(a, 100 - 100 * row.tumour_probability) for a, row in zip(x, rows) if row.tumour_probability is not None]
    return {
        "area": "M0,100" + "".join(f"L{a:.1f},{b:.1f}" for a, b in zip(x, y)) + "L1000,100Z",
        "line": "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in points),
        "dots": "".join(f"M{a:.1f},{b:.1f}h0" for a, b in points if b <= 100 - 100 * threshold),
        "threshold": 100 - 100 * threshold,
        "z_mm": [float(z[0]), float(z[-1])],
        "ticks": list(_ticks(float(z[0]), float(z[-1]))),
    }


def _ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
    """Round places between two in mm: their share of the way, and how they are written."""
    step = next(s for s in (5, 10, 20, 50, 100, 200, 500, 1000, 1e9) if (high - low) / s <= 7)
    for value in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step:
        yield float((value - low) / max(1e-6, high - low)), mm(value)
