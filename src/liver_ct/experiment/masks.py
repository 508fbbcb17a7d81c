"""What the experiment measures of the Prob-Masks: calibration, saturation, and how much tumour lies under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize_scalar
from scipy.special import expit

from liver_ct.chain.stages import Stage
from liver_ct.files import read_json, write_json
from liver_ct.outputs.axes import axial_axis
from liver_ct.training.claims import is_made_with, mark, recipe_of
from liver_ct.training.datalists import Entry
from liver_ct.training.running import inference_knobs

EDGES = np.linspace(-16, 16, 129)  # bins of the logit; a sigmoid outside is 0 or 1 to the 7th digit
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2
REACH_MM = 20.0
CLASSES = ("outside", "liver", "tumour")  # rows of a histogram


def logit_histograms(
    bundle: Path, weights: Path, entries: Sequence[Mapping[str, Any]], knobs: Mapping[str, Any]
) -> dict[str, list[list[int]]]:
    """Case to voxel counts [3, 128] by class (outside, liver, tumour) and bin of stage 1's logit.

    On stage 1's working grid, within 20 mm of the true liver: further away all is certain, and would make any network
    look calibrated. Logits, since 8 bits on disk keep nothing beyond 6.

    Args:
        bundle: a segmentation bundle with the ids of bundles/liver_seg.
        weights: a training of it.
        entries: cases with ``image``, ``label`` and ``case_id`` which these weights have not seen.
        knobs: of its train.json, that it was trained with.
    """
    stage = Stage(bundle, torch.device("cpu"), ckpt_path=str(weights), **inference_knobs(bundle, knobs))
    config = ConfigParser()
    config.read_config(str(bundle / "configs" / "train.json"))
    config.update({"bundle_root": str(bundle), **knobs})
    load = Compose(config.get_parsed_content("load_labelled")[:-1])  # the last joins tumour to liver
    resample, window = config.get_parsed_content("train#deterministic_transforms")[:2]
    histograms = {}
    for entry in entries:
        item = load({"image": entry["image"], "label": entry["label"]})
        label = item["label"]
        liver, tumour = (resample({**item, "label": (label >= k).float()})["label"][0].numpy() > 0.5 for k in (1, 2))
        item = window(resample(item))
        spacing = item["image"].pixdim.tolist()
        with torch.inference_mode():
            logits = stage.infer({"image": item["image"]})["pred"][0].numpy()
        near = ndimage.distance_transform_edt(~liver, sampling=spacing) <= REACH_MM
        bins = np.clip(np.digitize(logits, EDGES) - 1, 0, len(CENTRES) - 1)
        rows = (near & ~liver, near & liver & ~tumour, near & tumour)
        histograms[entry["case_id"]] = [np.bincount(bins[row], minlength=len(CENTRES)).tolist() for row in rows]
    return histograms


def kept_histograms(
    bundle: Path, work: Path, entries: Sequence[Entry], knobs: Mapping[str, Any]
) -> dict[str, list[list[int]]]:
    """`logit_histograms` of ``work/model.pt``, kept in ``work/histograms.json``: not done twice."""
    file, note, weights = work / "histograms.json", work / ".made" / "histograms", work / "model.pt"
    made_with = recipe_of(bundle, entries, ckpt_path=weights, **knobs)
    if not (file.exists() and is_made_with(note, made_with)):
        write_json(file, logit_histograms(bundle, weights, entries, knobs))
        mark(note, made_with)
    counts: dict[str, list[list[int]]] = read_json(file)
    return counts


def fit_temperature(histogram: NDArray[Any]) -> float:
    """Temperature T that makes sigmoid(logit / T) fit best (Guo et al. 2017), from counts [3, 128]."""
    outside, liver = np.asarray(histogram[0]), np.asarray(histogram[1:]).sum(0)

    def loss(log_t: float) -> float:
        z = CENTRES / np.exp(log_t)
        return float((outside * np.logaddexp(0, z) + liver * np.logaddexp(0, -z)).sum() / (outside + liver).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.2), np.log(10)), method="bounded").x))


def reliability(p: NDArray[Any], hits: NDArray[Any], total: NDArray[Any], bins: int = 15) -> dict[str, Any]:
    """Reliability diagram and expected calibration error (Guo et al. 2017) of weighted predictions.

    scikit-learn's calibration_curve takes no counts, and nobody's the error.

    Args:
        p: predicted probabilities [N].
        hits: how often it was so [N].
        total: out of how many [N].
        bins: equally wide ones.

    Returns:
        ``predicted``, ``observed`` and ``share`` of the bins that hold something, and ``ece``.
    """
    sums = binned(p, hits, total, bins)
    n, k, s = sums[:, sums[0] > 0]
    return {
        "predicted": (s / n).round(4).tolist(),
        "observed": (k / n).round(4).tolist(),
        "share": (n / n.sum()).round(5).tolist(),
        "ece": float(ece(sums)),
    }


def binned(p: NDArray[Any], hits: NDArray[Any], total: NDArray[Any], bins: int) -> NDArray[Any]:
    """``[3, bins]`` of probabilities [N], how often it was so [N], out of how many [N]: number, hits, sum of p."""
    index = np.minimum((p * bins).astype(int), bins - 1)
    return np.stack([np.bincount(index, w, minlength=bins) for w in (total, hits, total * p)])


def ece(sums: NDArray[Any]) -> NDArray[Any]:
    """Expected calibration error ``[...]`` of ``binned`` sums ``[..., 3, bins]``; nan where there is nothing."""
    with np.errstate(invalid="ignore"):
        error: NDArray[Any] = np.abs(sums[..., 1, :] - sums[..., 2, :]).sum(-1) / sums[..., 0, :].sum(-1)
    return error


def mask_figures(histogram: NDArray[Any]) -> dict[str, Any]:
    """Calibration and saturation of a Prob-Mask, from counts [3, 128].

    Returns:
        ``reliability`` with its ``ece``; ``unsure``, the share of voxels with a probability within 0.05 and 0.95;
        ``unsure_where_wrong``, the same among voxels on the wrong side of 0.5; ``tumour_under_prob``, the mean
        probability of tumour voxels; and ``tumour_under_binary``, the share of them above 0.5.
    """
    histogram = np.asarray(histogram, dtype=float)
    p, total, liver, tumour = expit(CENTRES), histogram.sum(0), histogram[1:].sum(0), histogram[2]
    wrong = np.where(CENTRES > 0, histogram[0], liver)
    unsure = (p > 0.05) & (p < 0.95)
    return {
        "reliability": reliability(p, liver, total),
        "unsure": float(total[unsure].sum() / total.sum()),
        "unsure_where_wrong": float(wrong[unsure].sum() / max(wrong.sum(), 1)),
        "tumour_under_prob": float((tumour * p).sum() / max(tumour.sum(), 1)),
        "tumour_under_binary": float(tumour[CENTRES > 0].sum() / max(tumour.sum(), 1)),
    }


def tumour_per_slice(entry: Mapping[str, Any]) -> NDArray[Any]:
    """``[slices, 3]``, along the file's axial axis: tumour in mm3, and how much of it lies under prob and binary."""
    label, prob = (nib.load(entry[key]) for key in ("label", "prob"))
    axis = axial_axis(label.affine)
    tumour, p = np.asanyarray(label.dataobj) == 2, prob.get_fdata(dtype=np.float32)
    rest = tuple(a for a in range(3) if a != axis)
    voxel = float(np.prod(label.header.get_zooms()[:3]))
    return np.stack([(tumour * w).sum(rest, dtype=float) for w in (1, p, p > 0.5)], axis=1) * voxel
