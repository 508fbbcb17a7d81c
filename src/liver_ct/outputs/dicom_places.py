"""Where in a slice something of the Structured Report lies: outlines, which viewers draw and jump to.

OHIF lists a measurement by its coordinates alone, and shows nothing of a report in which any has none.
"""

from __future__ import annotations

from typing import Any, cast

import contourpy
import numpy as np
import pydicom
from highdicom import sr
from highdicom.sr import GraphicTypeValues
from numpy.typing import NDArray

CORNERS = 100  # of an outline, at most
EDGE = 0.49  # between 0 and 1; a little below a half, so that pixels whose corners touch are one


def outlined(
    group: sr.VolumetricROIMeasurementsAndQualitativeEvaluations, header: pydicom.Dataset, plane: NDArray[Any]
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """What a group measures, outlined in one slice: a group without figures of its own (TID 1410).

    By its tracking identifier it is known to be the same thing; the group itself may only name a segment (TID 1411).

    Args:
        group: of a volume.
        header: of the slice.
        plane: ``[X, Y]``, not 0 where it lies.
    """
    found = group.finding_category, group.finding_type
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(group.tracking_uid, group.tracking_identifier),
        referenced_region=sr.ImageRegion(GraphicTypeValues.POLYLINE, outline(plane), source(header)),
        finding_category=found[0],
        finding_type=found[1],
    )


def judged(header: pydicom.Dataset, plane: NDArray[Any]) -> sr.CoordinatesForMeasurement:
    """What a slice's certainty comes from: the liver in it, true in ``plane`` [X, Y]."""
    return sr.CoordinatesForMeasurement(GraphicTypeValues.POLYLINE, outline(plane), source(header))


def source(header: pydicom.Dataset) -> sr.SourceImageForRegion:
    """The slice that coordinates count in."""
    return sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID)


def outline(plane: NDArray[Any]) -> NDArray[Any]:
    """The longest outline of what is not 0 in ``[X, Y]``, closed; the slice's own border where nothing is.

    Returns:
        ``[N, 2]``, column and row as DICOM counts them: the first pixel's outer corner is 0, its middle 0.5.
    """
    found = contourpy.contour_generator(z=np.pad(plane > 0, 1).T.astype(np.float32))
    lines = cast("list[NDArray[Any]]", found.lines(EDGE))
    if not lines:
        columns, rows = plane.shape
        return np.array([(0, 0), (columns, 0), (columns, rows), (0, rows), (0, 0)], float)
    longest = max(lines, key=len) - 0.5  # 1 of padding, half a pixel from middle to corner
    step = -(-len(longest) // CORNERS)
    return np.vstack([longest[:-1:step], longest[-1:]])
