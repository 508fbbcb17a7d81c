"""Lesion lists of people that a fold's network has not seen, held against their outlines."""

from __future__ import annotations

import shutil
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
from liver_ct.training.datalists import Entry, read_lists
from liver_ct.training.froc import Judged, figures, judge
from liver_ct.training.running import run_bundle


def measure(masks: Path, output: Path, bundle: Path, judged: Path | None = None, **overrides: Any) -> dict[str, Any]:
    """Draw the lesion maps of the folds' held-out volumes, and write and return ``output/lesions.json``.

    Maps are written to ``output/fold-K/maps`` by the bundle's own inference; those that are there stay, unless they
    follow from other weights, knobs, CTs or Prob-Masks.

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
            draw_maps(bundle, work, cases, overrides)
            studies += [judge_case(work, case, knobs) for case in cases]
    if not studies:
        raise StudyError(f"{output}: no fold with a model.pt and outlined volumes. Do `cross_validate.py run` first.")
    made_with = {name: knobs[name] for name in ("lesion_threshold", "lesion_outline", "lesion_smallest_ml")}
    result = made_with | figures(studies, knobs["lesion_threshold"])
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
    names = ("lesion_threshold", "lesion_outline", "lesion_smallest_ml")
    if any(name not in parser for name in names):
        raise StudyError(f"{bundle}: this bundle draws no lesion map. Give one with the ids of bundles/liver_cls.")
    return {name: float(parser.get_parsed_content(name)) for name in names}


def draw_maps(bundle: Path, work: Path, cases: Sequence[Entry], overrides: Mapping[str, Any]) -> None:
    """Write the maps of ``cases`` that are not in ``work/maps`` yet, by the weights ``work/model.pt``."""
    made_with = recipe_of(bundle, cases, ckpt_path=work / "model.pt", **overrides)
    if not is_made_with(work / "maps", made_with):
        shutil.rmtree(work / "maps", ignore_errors=True)
        mark(work / "maps", made_with)
    missing = [case for case in cases if not map_of(work, case).is_file()]
    if missing:
        entries = [{key: case[key] for key in ("image", "prob", "label", "case_id") if key in case} for case in missing]
        run_bundle(bundle, config_file=bundle / "configs" / "inference.json", datalist=entries,
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
