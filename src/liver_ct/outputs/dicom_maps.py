"""Probabilities as DICOM Parametric Maps, for viewers that draw no fractional segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.pm import ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from liver_ct.outputs.dicom_series import WARNING, series_of
from liver_ct.outputs.results import Item


def probability_map(
    headers: Sequence[pydicom.Dataset], prob: NDArray[Any], label: str, result: Item, name: str
) -> ParametricMap:
    """A Parametric Map of probabilities ``[X, Y, Z]`` as float32 0..1: the very values of the NIfTI, n / 255.

    OHIF reads no other numbers than float32, and lays the frames on its slices by their order alone: every slice has
    one, in the order of Z.

    Args:
        headers: of the CT's slices, in the order of Z.
        prob: uint8, 255 being 1.
        label: what the probability is of.
        result: the study's figures.
        name: of the file.
    """
    made = ParametricMap(
        headers,
        np.divide(prob.T, 255, dtype=np.float32, order="C"),  # [Z, Y, X]: slices, rows, columns
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="PROBABILITY",
                lut_explanation=label,
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, 1.0),
                slope=1.0,
                intercept=0.0,
                quantity_definition=codes.DCM.FractionalProbabilisticSegmentation,
            )
        ],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1)],
        content_label=name.removesuffix(".dcm").upper(),
        content_description=WARNING,
        **series_of(name, f"{label}. {WARNING}", result),
    )
    made.BodyPartExamined = "LIVER"  # of what has no pair of sides, the standard wants no Laterality
    turn_frames(made)
    return made


def turn_frames(made: pydicom.Dataset) -> None:
    """Put the last frame first: highdicom sorts them down the slices' normal, OHIF its slices up."""
    groups = made.PerFrameFunctionalGroupsSequence
    frames = np.frombuffer(made.FloatPixelData, np.float32).reshape(len(groups), -1)
    made.FloatPixelData = frames[::-1].tobytes()
    made.PerFrameFunctionalGroupsSequence = groups[::-1]
    for number, group in enumerate(made.PerFrameFunctionalGroupsSequence, 1):
        group.FrameContentSequence[0].DimensionIndexValues = number
