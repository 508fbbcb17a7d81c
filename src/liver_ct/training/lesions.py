"""Lesion lists of people that a fold's network has not seen, held against their outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.files import read_json, write_json
from liver_ct.training.claims import is_made_with, mark, recipe_of
from liver_ct.training.datalists import Entry, learned_by, read_lists, require_unseen
from liver_ct.training.froc import Judged, figures, judge
from liver_ct.training.running import run_bundle

LISTED_BY = ("lesion_threshold", "lesion_outline", "lesion_smallest_ml")  # knobs that leave the map as it is


def measure(masks: Path, output: Path, bundle: Path, judged: Path | None = None, **overrides: Any) -> dict[str, Any]:
    """Draw the lesion maps of the folds' held-out volumes, and write and return ``output/lesions.json``.

    Maps are written to ``output/fold-K/maps`` by the bundle's own inference; those that are there stay, but for those
    of other weights, cases, Prob-Masks or knobs.

    Args:
        masks: output folder of ``scripts/prob_masks.py make``: its folds.json and datalist_prob.json are used.
        output: of ``cross_validation.run``, with ``fold-K/model.pt``; folds without one are left out.
        bundle: a classification bundle with the ids of bundles/liver_cls.
        judged: list of ``prob_masks unseen``, whose volumes are judged in the place of those learned from.
        overrides: further knobs of its inference.json, such as ``lesion_outline``.

    Raises:
        StudyError: no fold has weights or outlined volumes, or a bundle that draws no map.
    """
    fold_of = read_json(masks / "folds.json")
    volumes = [e for e in read_lists((judged or masks / "datalist_prob.json").resolve())["training"] if outlined(e)]
    knobs = read_knobs(bundle, overrides)
    studies: list[Judged] = []
    for fold in sorted(map(str, set(fold_of.values()))):
        work = output.resolve() / f"fold-{fold}"
        cases = [e for e in volumes if str(fold_of.get(e["group"])) == fold]
        if cases and (work / "model.pt").is_file():
            require_unseen(learned_by(work), cases, judged or masks / "datalist_prob.json")
            draw_maps(bundle, work, cases, overrides)
            studies += [judge_case(work, case, knobs) for case in cases]
    if not studies:
        raise StudyError(f"{output}: no fold with a model.pt and outlined volumes. Do `cross_validate.py run` first.")
    result = knobs | figures(studies, knobs["lesion_threshold"])
    write_json(output / "lesions.json", result)
    return result


def outlined(entry: Entry) -> bool:
    """Whether a volume's tumours are outlined, all of them."""
    return bool(entry.get("tumour_label", True)) and not {"tumour_present", "tumour_in"} & set(entry)


def read_knobs(bundle: Path, overrides: Mapping[str, Any]) -> dict[str, float]:
    """What a bundle lists lesions by; raises StudyError where it draws no map."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update(dict(overrides))
    if any(name not in parser for name in LISTED_BY):
        raise StudyError(f"{bundle}: this bundle draws no lesion map. Give one with the ids of bundles/liver_cls.")
    return {name: float(parser.get_parsed_content(name)) for name in LISTED_BY}


def draw_maps(bundle: Path, work: Path, cases: Sequence[Entry], overrides: Mapping[str, Any]) -> None:
    """Write the maps of ``cases`` that are not in ``work/maps`` yet, by the weights ``work/model.pt``.

    What each was made with is noted beside it, before it is drawn: a killed run goes on at the next case.
    """
    drawn_by = {name: value for name, value in overrides.items() if name not in LISTED_BY}
    missing = []
    for case in cases:
        entry: Entry = {key: case[key] for key in ("image", "prob", "label", "case_id") if key in case}
        file = map_of(work, case)
        made_with = recipe_of(bundle, [entry], ckpt_path=work / "model.pt", **drawn_by)
        if not is_made_with(file.parent, made_with):
            file.unlink(missing_ok=True)
            mark(file.parent, made_with)
        if not file.is_file():
            missing.append(entry)
    if missing:
        run_bundle(bundle, config_file=bundle / "configs" / "inference.json", datalist=missing,
                   ckpt_path=work / "model.pt", output_dir=work / "maps", **overrides)  # fmt: skip


def map_of(work: Path, case: Entry) -> Path:
    """Where the bundle writes a case's map."""
    name: str = case["case_id"]
    return work / "maps" / name / f"{name}_lesion_prob.nii.gz"


def judge_case(work: Path, case: Entry, knobs: Mapping[str, float]) -> Judged:
    """One case's map against its outlines; raises StudyError where there is none, or on another grid."""
    file = map_of(work, case)
    if not file.is_file():
        raise StudyError(f"{file}: no lesion map. This network gives one logit a slice; give one with a map.")
    image, label = nib.load(file), read_labels(Path(case["label"]))
    if image.shape != label.shape:
        raise StudyError(f"{file}: its grid is not that of {case['label']}. Remove it, and call again.")
    prob = np.asarray(image.dataobj.get_unscaled())
    return judge(
        prob,
        label,
        image.affine,
        case["group"],
        outline=knobs["lesion_outline"],
        smallest_ml=knobs["lesion_smallest_ml"],
    )


def read_labels(path: Path) -> NDArray[Any]:
    """Outlines ``[X, Y, Z]`` as uint8; raises StudyError."""
    try:
        return np.asarray(nib.load(path).dataobj).astype(np.uint8)
    except (OSError, nib.filebasedimages.ImageFileError, EOFError) as e:
        raise StudyError(f"{path}: outlines that cannot be read ({e}). Give NIfTI.") from e
