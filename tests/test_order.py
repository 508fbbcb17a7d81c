"""Voxels in another order than their header says are refused by their values; a CT in any orientation is read."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import rotate
from test_headers import nifti, read, refusal, save_nifti

from liver_ct import phantom

CT, _, AFFINE = phantom.make_phantom((64, 56, 32), (6.0, 6.0, 6.0), axcodes="LPS")


def with_slice(values: np.ndarray) -> np.ndarray:
    """The CT with slice 12 replaced."""
    changed = CT.copy()
    changed[..., 12] = values
    return changed


def changed(part: slice, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The CT with some of its slices ``[X, Y, Z]`` changed."""
    whole = CT.copy()
    whole[..., part] = change(CT[..., part])
    return whole


def backwards(values: np.ndarray) -> np.ndarray:
    """Slices in the opposite order."""
    return values[..., ::-1]


def noise(values: np.ndarray) -> np.ndarray:
    """Whatever was in memory."""
    return np.random.default_rng(0).integers(-1000, 1000, values.shape)


def noisy(values: np.ndarray) -> np.ndarray:
    """The same with noise of 10 HU."""
    return values + np.random.default_rng(0).normal(0, 10, values.shape)


def zoomed(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Slices enlarged around their middle."""
    at = [np.rint((np.arange(n) - (n - 1) / 2) / factor + (n - 1) / 2).astype(int) for n in CT.shape[:2]]
    return lambda values: values[at[0].clip(0, CT.shape[0] - 1)[:, None], at[1].clip(0, CT.shape[1] - 1)]


THIN = np.stack([CT[..., :-1], (CT[..., :-1].astype(int) + CT[..., 1:]) // 2], -1).reshape(*CT.shape[:2], -1)
SCRAMBLED = {
    "slices shuffled": (CT[..., np.random.default_rng(0).permutation(32)], "neighbours along axis 2"),
    "first and last axis exchanged": (CT.ravel("F").reshape((32, 56, 64), order="F"), "nothing in common"),
    "columns exchanged with rows": (CT.ravel("F").reshape((56, 64, 32), order="F"), "neighbours along axis 1"),
    "rows shuffled": (CT[:, np.random.default_rng(0).permutation(56)], "neighbours along axis 1"),
    "a slice of zeros": (with_slice(np.zeros(1)), "slice 12 of 0 to 31"),
    "a slice of air": (with_slice(np.full(1, -1024)), "slice 12 of 0 to 31"),
    "three slices of air": (
        changed(slice(10, 13), lambda v: v * 0 - 1024),
        "slice 10 of 0 to 31 holds nothing but -10",
    ),
    "every other slice 20 HU brighter": (CT + 20 * (np.arange(32) % 2), "slice 1 of 0 to 31 lies .19 HU off"),
    "the upper half 30 HU darker": (changed(slice(16, None), lambda v: v - 30), "slice 16 of 0 to 31 lies -.. HU off"),
    "the upper half of half the HU": (
        changed(slice(16, None), lambda v: v / 2),
        "HU off the one before it|is scaled unlike",
    ),
    "a slice of elsewhere": (with_slice(CT[..., 29]), "slice 12 of 0 to 31"),
    "a slice turned over": (with_slice(CT[::-1, ::-1, 12]), "slice 12 of 0 to 31"),
    "the upper half mirrored": (changed(slice(16, None), lambda v: v[::-1]), "slice 16 of 0 to 31 is turned over"),
    "the lower half on its face": (changed(slice(16), lambda v: v[:, ::-1]), "slice 16 of 0 to 31 is turned over"),
    "a third turned round": (changed(slice(20, None), lambda v: v[::-1, ::-1]), "slice 20 of 0 to 31 is turned over"),
    "a few mirrored": (changed(slice(10, 14), lambda v: v[::-1]), "is turned over against the one before it"),
    "one mirrored": (changed(slice(12, 13), lambda v: v[::-1]), "slice 1"),
    "two exchanged": (changed(slice(12, 14), backwards), "slice 12 of 0 to 31 and the 1 after it fit those around"),
    "the first two exchanged": (changed(slice(2), backwards), "slice 0 of 0 to 31 and the 1 after it"),
    "the last two exchanged": (changed(slice(-2, None), backwards), "slice 30 of 0 to 31 and the 1 after it"),
    "five in the opposite order": (changed(slice(9, 14), backwards), "slice 9 of 0 to 31 and the 4 after it"),
    "the upper half in the opposite order": (changed(slice(16, None), backwards), "the wrong place or order"),
    "the lower half in the opposite order": (changed(slice(16), backwards), "the wrong place or order"),
    "the last slices of zeros": (changed(slice(27, None), lambda v: v * 0), "slice 27 of 0 to 31 holds nothing but 0"),
    "the first slice of zeros": (changed(slice(1), lambda v: v * 0), "slice 0 of 0 to 31 holds nothing but 0 HU"),
    "the last slices of noise": (changed(slice(27, None), noise), "slice 27 of 0 to 31 does not go on"),
    "half of another place": (changed(slice(14, None), lambda v: np.roll(v, 20, axis=0)), "does not go on|is shifted"),
    "half shifted": (changed(slice(14, None), lambda v: np.roll(v, 6, axis=1)), "slice 14 of 0 to 31 is shifted"),
    "half enlarged": (changed(slice(14, None), zoomed(1.2)), "is enlarged or reduced|does not go on"),
    "half reduced": (changed(slice(14), zoomed(0.8)), "slice 14 of 0 to 31 is enlarged or reduced"),
    "rows begun half a row late": (np.roll(CT.T.ravel(), 32).reshape(CT.T.shape).T, "go on at the opposite edge"),
    "begun half a picture late": (np.roll(CT, 28, axis=1), "begin amid the body and go on at the opposite edge"),
    "every other slice first": (CT[..., [*range(0, 32, 2), *range(1, 32, 2)]], "nothing in common"),
    "every other thin slice first": (THIN[..., [*range(0, 62, 2), *range(1, 62, 2)]], "more like some that lie far"),
    "each twice, with noise of its own": (
        noisy(np.repeat(CT, 2, axis=2)),
        "slice 0 of 0 to 63 and the next are a pair",
    ),
    "the upper part first": (np.roll(CT, 12, axis=2), "slice 12 of 0 to 31 begins a part"),
}


@pytest.mark.parametrize("case", SCRAMBLED)
def test_voxels_in_another_order_are_refused(reading, tmp_path, case):
    values, cause = SCRAMBLED[case]
    assert re.search(cause, refusal(reading, save_nifti(tmp_path / "ct.nii", values.astype(np.int16), AFFINE)))


FINE, OTHER = (phantom.make_phantom((64, 56, 64), (6.0, 6.0, 3.0), axcodes="LPS", seed=seed)[0] for seed in (0, 3))
FAULTS = {  # of a slice [X, Y] of few
    "of another person": (lambda v, z: OTHER[..., (z + 16) % 64], "does not"),
    "of another region": (lambda v, z: FINE[..., (z + 30) % 64], "does not"),
    "in no order": (lambda v, z: np.random.default_rng(0).permutation(v.ravel()).reshape(v.shape), "in no order"),
    "noise": (lambda v, z: noise(v), "is noise"),
    "mirrored": (lambda v, z: v[::-1], "turned over"),
    "turned round": (lambda v, z: v[::-1, ::-1], "turned over"),
    "shifted": (lambda v, z: np.roll(v, 8, axis=0), "shifted"),
}


@pytest.mark.parametrize("count", [3, 5, 9])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_slice_that_is_none_of_few_is_refused(reading, tmp_path, fault, count):
    change, cause = FAULTS[fault]
    for place in (0, count // 2, count - 1):
        few = FINE[..., 21 : 21 + count].copy()
        few[..., place] = change(few[..., place], 21 + place)
        line = refusal(reading, save_nifti(tmp_path / "ct.nii", few, AFFINE @ np.diag([1, 1, 0.5, 1])))
        assert re.search(cause, line) and f" of 0 to {count - 1}" in line


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2, 1], [1, 0, 2, 3, 4], [0, 2, 1, 3, 4], [0, 1, 2, 4, 3]])
def test_two_of_few_that_are_exchanged_are_refused(reading, tmp_path, order):
    values = CT[..., 10 : 10 + len(order)][..., order]
    assert "in the opposite order" in refusal(reading, save_nifti(tmp_path / "ct.nii", values, AFFINE))


@pytest.mark.parametrize("count", [3, 4, 6, 9])
def test_few_slices_in_order_are_read(reading, tmp_path, count):
    for first in range(0, 32 - count, 5):
        values = CT[..., first : first + count]
        assert read(reading, save_nifti(tmp_path / "ct.nii", values, AFFINE)).shape[3] == count


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SPL", "AIR", "PIR", "LSA"])
@pytest.mark.parametrize("noise", [0, 60])
def test_a_ct_is_read_in_any_orientation_and_with_noise(reading, tmp_path, axcodes, noise):
    values = CT + np.random.default_rng(0).normal(0, noise, CT.shape).astype(np.int16)
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt(axcodes))
    turned = nifti(values.astype(np.int16), AFFINE).as_reoriented(turn)
    path = save_nifti(tmp_path / "ct.nii", np.asarray(turned.dataobj), turned.affine)
    np.testing.assert_array_equal(read(reading, path)[0].numpy(), np.asarray(turned.dataobj))


@pytest.mark.parametrize(
    "size, spacing, seed",
    [
        ((40, 40, 16), (10, 10, 12), 0), ((96, 96, 12), (4, 4, 15), 0), ((64, 64, 4), (6, 6, 10), 0),
        ((48, 48, 5), (8, 8, 8), 0),
        ((96, 80, 30), (4, 4, 12), 2), ((60, 50, 24), (7, 7, 15), 1), ((60, 50, 24), (7, 7, 15), 3),
    ],
)  # fmt: skip
def test_a_coarse_or_short_one_is_read(reading, tmp_path, size, spacing, seed):
    values, _, affine = phantom.make_phantom(size, tuple(map(float, spacing)), seed=seed)
    assert read(reading, save_nifti(tmp_path / "ct.nii", values, affine)).shape[1:] == size


@pytest.mark.parametrize("lines", [10, 30])
def test_a_last_slice_that_breaks_off_is_refused(reading, tmp_path, lines):
    cut = changed(slice(-1, None), lambda v: np.where(np.arange(56)[None, :, None] >= 56 - lines, -1024, v))
    path = save_nifti(tmp_path / "ct.nii", cut.astype(np.int16), AFFINE)
    assert f"slice 31 of 0 to 31 ends in {lines} lines of -1024 HU" in refusal(reading, path)


@pytest.mark.parametrize("framed", [lambda v: framed(v, 0), lambda v: rotate(v, 4, reshape=True, order=1, cval=0)])
def test_a_frame_around_the_picture_is_not_taken_for_the_body(reading, tmp_path, framed):
    read(reading, save_nifti(tmp_path / "ct.nii", framed(CT).astype(np.int16), AFFINE))


def framed(values: np.ndarray, hu: int) -> np.ndarray:
    """The CT with another value along the edges of its pictures."""
    changed = np.full_like(values, hu)
    changed[1:-1, 1:-1] = values[1:-1, 1:-1]
    return changed


@pytest.mark.parametrize("mm", [3, 5])
def test_a_body_that_tapers_is_read(reading, tmp_path, mm):
    x, y, z = np.meshgrid(*(np.arange(n) * s - 120 for n, s in ((64, 4), (64, 4), (240 // mm, mm))), indexing="ij")
    cone = np.where(np.hypot(x, y) < 70 - z / 2, 40, -1000)
    noise = np.random.default_rng(0).normal(0, 10, cone.shape)
    read(reading, save_nifti(tmp_path / "ct.nii", (cone + noise).astype(np.int16), np.diag([4.0, 4.0, mm, 1.0])))


def test_slices_that_hold_nothing_at_the_ends_are_read(reading, tmp_path):
    values = CT.copy()
    values[..., :4] = values[..., -5:] = -1024
    read(reading, save_nifti(tmp_path / "ct.nii", values, AFFINE))
