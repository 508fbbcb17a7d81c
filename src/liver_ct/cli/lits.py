"""LiTS or MSD Task03_Liver made ready for training: each CT and its segmentation checked, split by patient, listed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from liver_ct.cli.printing import errors_in_one_line, print_error, print_note, progress_bar
from liver_ct.cli.program import Program


def prepare(
    source: str,
    output: str,
    groups: str | None = None,
    split: str | None = None,
    liver_only: Sequence[str] = (),
    tumour: str | None = None,
    val_fraction: float = 0.15,
    seed: int = 0,
    link: bool = False,
    copy: bool = False,
) -> None:
    """Check every CT with its segmentation below SOURCE and write OUTPUT/datalist.json.

    Run it again after a break or a new download: pairs that were checked and have not changed are not read again.

    Args:
        source: folder with LiTS (volume-N.nii[.gz] and segmentation-N.nii[.gz], or its .zip archives) or MSD
            Task03_Liver (imagesTr, labelsTr, or its .tar), at any depth.
        output: folder for the datalist and for what has to be unpacked or repaired (OUTPUT/cases).
        groups: JSON {case: person} or CSV of case,person, beside the LiTS volumes known to be one person and those
            in a list that is there already. A case whose person is left empty is forgotten: nobody is told of it then.
        split: JSON {"test": [cases], "validation": [cases]}; by default LiTS volumes 28 to 47 are the test.
        liver_only: source folders or cases, comma between them, whose segmentations hold no tumour label. Nothing
            marked there does not mean no tumour.
        tumour: CSV of volume,slice,tumour_present (1, 0, or -1 unknown) for such cases.
        val_fraction: part of the people drawn for validation if the split file lists neither that nor training.
        seed: of that draw.
        link: put symbolic links to loose files into OUTPUT/cases instead of naming them where they are.
        copy: copy them there.
    """
    from liver_ct import lits

    problems: list[str] = []

    def report(problem: str) -> None:
        problems.append(problem)
        print_error(problem)

    mode = "copy" if copy else "link" if link else "reference"
    with errors_in_one_line():
        done = lits.prepare(
            Path(source),
            Path(output),
            groups=Path(groups) if groups else None,
            split=Path(split) if split else None,
            liver_only=liver_only,
            tumour=Path(tumour) if tumour else None,
            val_fraction=val_fraction,
            seed=seed,
            mode=mode,
            report=report,
            note=print_note,
            track=partial(progress_bar, desc="LiTS", unit="case"),
        )
    counts = ", ".join(f"{key} {len(rows)}" for key, rows in done.datalist.items())
    print(f"{done.file}: {counts}; left out by the split {done.left_out}; not usable {done.not_usable}.")
    if problems:
        print(f"{len(problems)} problem(s), see above.", file=sys.stderr)
        raise SystemExit(1)


def slices(
    npz: str,
    datalist: str,
    output: str,
    groups: str | None = None,
    split: str | None = None,
    tumour: str | None = None,
    thickness: float = 5.0,
) -> None:
    """Add isolated labelled slices to a datalist as NIfTI volumes of depth 1.

    Slices of a person in validation go to the list "validation_slices", all others to "training_slices"; slices of
    test volumes, or of people who have one, are left out.

    Args:
        npz: archive with image [N,H,W] in HU (rows front to back, columns to the patient's left; where hu_slope and
            hu_intercept are given, HU are image * hu_slope + hu_intercept), liver [N,H,W], slice [N], lits_volume or
            case [N], and spacing_mm [N] (where it is missing, slices are taken to be 384 mm wide).
        datalist: datalist.json that `prepare` wrote.
        output: folder for the NIfTI files.
        groups: JSON or CSV as for `prepare`; what an earlier call was told is known. Volumes stay as they are listed.
        split: as given to `prepare`.
        tumour: CSV of row,tumour_present (1, 0, or -1 unknown) and, where known, area_px256 (pixels, were
            the slice 256 wide), confidence and liver_dice: only rows of confidence "high" and of a liver_dice above
            0.95 are taken. Case (lits_volume, volume or case) and slice of a row, where told, must be the archive's.
        thickness: voxel depth to write, in mm; an isolated slice has no neighbour to take it from.
    """
    from liver_ct import lits

    with errors_in_one_line():
        content = lits.add_slices(
            Path(npz),
            Path(datalist),
            Path(output),
            groups=Path(groups) if groups else None,
            split=Path(split) if split else None,
            tumour=Path(tumour) if tumour else None,
            thickness=thickness,
            note=print_note,
            track=partial(progress_bar, desc="slices"),
        )
    counts = ", ".join(f"{key} {len(content[key])}" for key in ("training_slices", "validation_slices"))
    print(f"{Path(datalist).absolute()}: {counts}.")


def pack(datalist: str, output: str) -> None:
    """Put everybody of a datalist but the test cases into one small file, OUTPUT, that training can start from.

    CT and labels at 2 x 2 x 3 mm, in steps of 5 HU: about 0.6 MB a volume.

    Args:
        datalist: datalist.json that `prepare` and `slices` wrote.
        output: the .zip to write.
    """
    from liver_ct import lits

    with errors_in_one_line():
        size = lits.pack(Path(datalist).absolute(), Path(output), track=partial(progress_bar, desc="pack"))
    print(f"{output}: {size / 1e6:.1f} MB.")


PROGRAM = Program("lits", __doc__, {"prepare": prepare, "slices": slices, "pack": pack})
main = PROGRAM.run
