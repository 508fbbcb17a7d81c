"""scripts/lits.py: what a user has downloaded becomes a checked datalist, split by patient."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lits
import nibabel as nib
import numpy as np
import pytest
import warm

from liver_ct import phantom
from liver_ct.lits import BrokenPair, checking, finding, people, unpack
from liver_ct.lits.slices import read_slices

SCRIPT = str(Path(__file__).resolve().parents[1] / "scripts" / "lits.py")


class Result(NamedTuple):
    """Exit code and what went to standard error."""

    returncode: int
    stderr: str


def prepare(source: Path, output: Path, **arguments) -> Result:
    """Run the command within this process."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            lits.prepare(str(source), str(output), **arguments)
        except SystemExit as stop:
            if isinstance(stop.code, str):  # as the interpreter does it
                return Result(1, stderr.getvalue() + stop.code)
            return Result(stop.code, stderr.getvalue())
    return Result(0, stderr.getvalue())


def datalist(output: Path) -> dict:
    """Its lists of cases."""
    content = json.loads((output / "datalist.json").read_text())
    content.pop("people", None)
    return content


def case_ids(output: Path) -> dict[str, set[str]]:
    """Case names per list."""
    return {key: {entry["case_id"] for entry in rows} for key, rows in datalist(output).items()}


def ready(output: Path) -> set[str]:
    """All cases of the datalist."""
    return set().union(*case_ids(output).values())


def rewrite(path: Path, change, affine=None) -> None:
    """Replace a NIfTI's voxels by change(voxels), and its affine if one is given."""
    image = nib.load(path)
    array = change(np.asanyarray(image.dataobj))
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


def errors(result: Result) -> list[str]:
    """The lines that report a problem."""
    return [line for line in result.stderr.splitlines() if line.startswith("ERROR")]


# ---------------------------------------------------------------------------------------------- layouts


def test_files_on_disk_are_named_where_they_are(tmp_path, write_lits):
    source = write_lits(tmp_path / "in" / "deep", [2, 3, 4])
    result = prepare(tmp_path / "in", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    entries = datalist(tmp_path / "out")["training"] + datalist(tmp_path / "out")["validation"]
    assert {Path(entry["image"]).parent for entry in entries} == {source}
    assert not (tmp_path / "out" / "cases").exists()  # nothing copied


def test_links_on_request(tmp_path, write_lits):
    write_lits(tmp_path / "in", [2])
    assert prepare(tmp_path / "in", tmp_path / "out", link=True).returncode == 0
    (entry,) = datalist(tmp_path / "out")["training"]
    assert entry["image"] == "cases/volume-2.nii.gz" and (tmp_path / "out" / entry["image"]).is_symlink()


def test_zips_with_nested_folders_are_unpacked(tmp_path, write_lits):
    loose = write_lits(tmp_path / "loose", [2, 3], suffix=".nii")
    (tmp_path / "in").mkdir()
    for number, name in ((2, "Training_Batch1.zip"), (3, "Training_Batch2.zip")):
        with zipfile.ZipFile(tmp_path / "in" / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(loose.glob(f"*-{number}.nii")):
                archive.write(path, f"media/nas/Training Batch/{path.name}")
            archive.writestr("__MACOSX/._volume-9.nii", b"junk")
            archive.writestr("test-volume-5.nii", b"the challenge's unlabelled test set")
    result = prepare(tmp_path / "in", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert ready(tmp_path / "out") == {"volume-2", "volume-3"}
    unpacked = tmp_path / "out" / "cases" / "volume-2.nii"
    assert unpacked.read_bytes() == (loose / "volume-2.nii").read_bytes()  # not encoded again


@pytest.mark.parametrize("packed", [False, True])
def test_msd_task03_becomes_volume_n(tmp_path, tiny, packed):
    folder = tmp_path / "in" / "Task03_Liver"
    for number in (5, 28):
        phantom.write_msd(folder, number, **tiny)
    if packed:
        with tarfile.open(tmp_path / "Task03_Liver.tar", "w") as archive:
            archive.add(folder, "Task03_Liver")
        source = tmp_path / "tar"
        source.mkdir()
        (tmp_path / "Task03_Liver.tar").rename(source / "Task03_Liver.tar")
    result = prepare(source if packed else tmp_path / "in", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert case_ids(tmp_path / "out") == {"training": {"volume-5"}, "validation": set(), "test": {"volume-28"}}


# ---------------------------------------------------------------------------------------------- bad input


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def voxels(change) -> Callable[[Path], None]:
    """A change of all voxels of a file."""
    return lambda path: rewrite(path, change)


CT, LABELS = "volume-3.nii.gz", "segmentation-3.nii.gz"
label_three = voxels(lambda array: np.where(array == 2, 3, array).astype(np.uint8))
BREAKS = {
    "cut short": (CT, truncate, "cannot be read"),
    "no labels": (LABELS, Path.unlink, "is missing"),
    "another grid": (LABELS, voxels(lambda array: array[:-1]), "grid"),
    "label 3": (LABELS, label_three, "labels from 0 to 3"),
    "no liver": (LABELS, voxels(np.zeros_like), "no voxel is labelled"),
    "turned over": (LABELS, voxels(lambda array: array[:, :, ::-1][::-1]), "only"),
    "no HU": (CT, voxels(lambda array: array + 1024), "values from"),
    "MR, interpolated": (CT, voxels(lambda array: np.where(array > 1500, -47, np.clip(array, 0, 800))), "values from"),
    "NaN": (CT, voxels(lambda array: np.where(array > 300, np.nan, array).astype(np.float32)), "holds NaN"),
    "4D": (CT, voxels(lambda array: np.stack([array, array], axis=-1)), "shape"),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_broken_pair_is_reported_in_one_line_and_the_rest_goes_on(tmp_path, write_lits, fault):
    folder = write_lits(tmp_path / "in", [2, 3, 4])
    name, damage, cause = BREAKS[fault]
    damage(folder / name)
    result = prepare(folder, tmp_path / "out")
    assert result.returncode == 1 and len(errors(result)) == 1
    assert re.search(rf"{name.split('.')[0]}\S* {cause}", errors(result)[0])
    assert ready(tmp_path / "out") == {"volume-2", "volume-4"}


def test_command_line_exits_with_one_after_a_broken_pair(tmp_path, write_lits):
    folder = write_lits(tmp_path / "in", [2, 3])
    truncate(folder / CT)
    command = [sys.executable, lits.__file__, "prepare", "--source", folder, "--output", tmp_path / "out"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 1 and len(errors(result)) == 1 and "Traceback" not in result.stderr
    assert ready(tmp_path / "out") == {"volume-2"}


def test_damaged_archive_is_reported_and_the_rest_goes_on(tmp_path, write_lits):
    folder = write_lits(tmp_path / "in", [2])
    (folder / "Training_Batch1.zip").write_bytes(b"PK\x03\x04 half a download")
    result = prepare(folder, tmp_path / "out")
    assert result.returncode == 1 and "Training_Batch1.zip: not a readable archive" in errors(result)[0]
    assert ready(tmp_path / "out") == {"volume-2"}


def test_member_that_points_outside_its_zip_is_refused(tmp_path, write_lits):
    folder = write_lits(tmp_path / "in", [2])
    with zipfile.ZipFile(folder / "evil.zip", "w") as archive:
        archive.write(folder / "volume-2.nii.gz", "../../volume-7.nii.gz")
        archive.write(folder / "segmentation-2.nii.gz", "/tmp/segmentation-7.nii.gz")
    result = prepare(folder, tmp_path / "deep" / "out")
    assert result.returncode == 1 and len(errors(result)) == 2 and "outside the archive" in result.stderr
    assert ready(tmp_path / "deep" / "out") == {"volume-2"}
    assert not list(tmp_path.rglob("*-7.nii.gz"))


def test_nothing_to_prepare_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    for source in (tmp_path / "in", tmp_path / "missing"):
        result = prepare(source, tmp_path / "out")
        assert result.returncode == 1 and len(errors(result)) == 1


# ---------------------------------------------------------------------------------------------- headers that differ


def test_segmentation_with_a_wrong_header_gets_the_cts(tmp_path, write_lits):
    folder = write_lits(tmp_path / "in", [2])
    before = np.asanyarray(nib.load(folder / "segmentation-2.nii.gz").dataobj)
    rewrite(folder / "segmentation-2.nii.gz", lambda array: array, affine=np.diag([9.0, 9.0, 8.0, 1.0]))
    assert prepare(folder, tmp_path / "out").returncode == 0
    (entry,) = datalist(tmp_path / "out")["training"]
    repaired = nib.load(tmp_path / "out" / entry["label"])
    assert (np.asanyarray(repaired.dataobj) == before).all()
    assert np.allclose(repaired.affine, nib.load(entry["image"]).affine)


def test_a_header_that_is_not_followed_is_noted_and_one_that_fits_better_is_refused(tmp_path, write_lits):
    folder = write_lits(tmp_path / "in", [2, 3, 4, 5])
    labels = {number: nib.load(folder / f"segmentation-{number}.nii.gz") for number in (2, 3, 4, 5)}
    shifts = {2: 32, 3: 32, 4: -32}
    for number, shift in shifts.items():
        moved = nib.affines.from_matvec(labels[number].affine[:3, :3], labels[number].affine[:3, 3] + [0, 0, shift])
        change = (lambda array: np.roll(array, 4, 2)) if number == 4 else np.asarray  # its header is right
        rewrite(folder / f"segmentation-{number}.nii.gz", change, moved)
    rewrite(folder / "segmentation-5.nii.gz", np.asarray, labels[5].affine @ np.diag([1, -1, 1, 1]))
    for _ in range(2):  # also where nothing is read again
        result = prepare(folder, tmp_path / "out")
        (refused,), (shifted, turned) = errors(result), [line for line in notes(result) if "by its header" in line]
        assert re.match(rf"ERROR {folder}/segmentation-4.nii.gz: \d+% of it lies on tissue where its header ", refused)
        assert shifted.startswith(f"{folder}/segmentation-2.nii.gz and 1 other files: by its header it lies 32 mm away")
        assert turned.startswith(f"{folder}/segmentation-5.nii.gz: by its header its axes are LAS, not LPS; taken as")
        assert ready(tmp_path / "out") == {"volume-2", "volume-3", "volume-5"}


def test_segmentation_stored_in_other_axes_is_turned_to_the_ct(tmp_path, write_lits, tiny):
    folder = write_lits(tmp_path / "in", [2])
    before = np.asanyarray(nib.load(folder / "segmentation-2.nii.gz").dataobj)
    _, labels, affine = phantom.make_phantom(**tiny, seed=2, axcodes="SRA")
    nib.save(nib.Nifti1Image(labels, affine), folder / "segmentation-2.nii.gz")
    assert prepare(folder, tmp_path / "out").returncode == 0
    (entry,) = datalist(tmp_path / "out")["training"]
    assert (np.asanyarray(nib.load(tmp_path / "out" / entry["label"]).dataobj) == before).all()


@pytest.mark.parametrize("window", [(-40, 160), (-160, 240)])
def test_clipped_ct_is_accepted(tmp_path, write_lits, window):
    folder = write_lits(tmp_path / "in", [2])
    rewrite(folder / "volume-2.nii.gz", lambda array: np.clip(array, *window))
    assert prepare(folder, tmp_path / "out").returncode == 0


# ---------------------------------------------------------------------------------------------- running again


def test_second_run_reads_nothing_again(tmp_path, write_lits, monkeypatch):
    folder = write_lits(tmp_path / "loose", [2, 3])
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "batch.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    lits.prepare(str(tmp_path / "in"), str(tmp_path / "out"))
    first, stamp = datalist(tmp_path / "out"), (tmp_path / "out" / "cases" / "volume-2.nii.gz").stat().st_mtime_ns
    for module, name in ((checking, "check_pair"), (finding, "unpack")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("done again"))
    lits.prepare(str(tmp_path / "in"), str(tmp_path / "out"))
    assert datalist(tmp_path / "out") == first
    assert (tmp_path / "out" / "cases" / "volume-2.nii.gz").stat().st_mtime_ns == stamp


def test_a_pair_is_checked_again_once_it_is_mended_or_changed(tmp_path, write_lits):
    folder = write_lits(tmp_path / "in", [2, 3])
    truncate(folder / CT)
    assert prepare(folder, tmp_path / "out").returncode == 1
    write_lits(folder, [3])
    assert prepare(folder, tmp_path / "out").returncode == 0
    assert ready(tmp_path / "out") == {"volume-2", "volume-3"}
    label_three(folder / LABELS)
    assert prepare(folder, tmp_path / "out").returncode == 1
    assert ready(tmp_path / "out") == {"volume-2"}


# ---------------------------------------------------------------------------------------------- splits and people


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Fourteen cases that share one pair of files: what is split here is the names."""
    folder = tmp_path_factory.mktemp("many")
    volume, segmentation = phantom.write_case(folder, 0, size=(40, 32, 20), spacing=(9, 9, 8))
    for number in [1, 2, 3, 6, 7, 8, 9, 10, 11, 27, 28, 47, 48]:
        os.link(volume, folder / f"volume-{number}.nii.gz")
        os.link(segmentation, folder / f"segmentation-{number}.nii.gz")
    return folder


def groups_of(content: dict, key: str) -> set[str]:
    return {entry["group"] for entry in content[key]}


def test_reference_split_tests_on_28_to_47(tmp_path, many):
    lits.prepare(str(many), str(tmp_path))
    assert case_ids(tmp_path)["test"] == {"volume-28", "volume-47"}
    assert len(ready(tmp_path)) == 14


@pytest.mark.parametrize("seed", range(5))
def test_known_people_stay_on_one_side(tmp_path, many, seed):
    lits.prepare(str(many), str(tmp_path), val_fraction=0.4, seed=seed)
    content = datalist(tmp_path)
    assert not groups_of(content, "training") & groups_of(content, "validation")
    groups = {e["case_id"]: e["group"] for e in content["training"] + content["validation"]}
    assert groups["volume-0"] == groups["volume-1"]
    assert len({groups[f"volume-{n}"] for n in (6, 7, 8, 9, 10)}) == 1
    assert len(set(groups.values())) == 7
    assert len(groups_of(content, "validation")) == 3  # 0.4 of 7 people


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_people_from_a_file(tmp_path, many, kind):
    people = {"volume-2": "anna", "volume-3": "anna", "volume-11": "bert", "volume-28": "bert"}
    path = tmp_path / f"people.{kind}"
    rows = "case,person\n" + "".join(f"{case},{person}\n" for case, person in people.items())
    path.write_text(json.dumps(people) if kind == "json" else rows)
    lits.prepare(str(many), str(tmp_path / "out"), groups=str(path), val_fraction=0.3)
    content = datalist(tmp_path / "out")
    assert not groups_of(content, "training") & groups_of(content, "validation")
    assert "volume-11" not in ready(tmp_path / "out")  # bert is tested on: nothing of him in training


def test_split_from_a_file(tmp_path, many):
    (tmp_path / "split.json").write_text(json.dumps({"test": ["volume-48", 27], "validation": [6]}))
    lits.prepare(str(many), str(tmp_path / "out"), split=str(tmp_path / "split.json"))
    ids = case_ids(tmp_path / "out")
    assert ids["test"] == {"volume-27", "volume-48"}
    assert ids["validation"] == {f"volume-{n}" for n in (6, 7, 8, 9, 10)}  # one person
    assert "volume-28" in ids["training"]


def test_nobody_of_a_training_list_is_drawn_for_validation():
    cases, wanted = [str(n) for n in range(11, 20)], {"training": {str(n) for n in range(11, 19)}, "test": {"20"}}
    assert set(people.assign(cases, {}, wanted, 0.5, 0).values()) == {"training", None}


def test_split_that_divides_a_person_is_refused(tmp_path, many):
    (tmp_path / "split.json").write_text(json.dumps({"training": [0], "validation": [1]}))
    with pytest.raises(SystemExit, match="person-0"):
        lits.prepare(str(many), str(tmp_path / "out"), split=str(tmp_path / "split.json"))


# ---------------------------------------------------------------------------------------------- isolated slices


@pytest.fixture
def archive(tmp_path, many):
    """Slices of volumes 0, 1 (one person), 3, 28 (test) and 99 (no volume), cut from the shared phantom."""
    ct = np.asanyarray(nib.load(many / "volume-0.nii.gz").dataobj)
    seg = np.asanyarray(nib.load(many / "segmentation-0.nii.gz").dataobj)
    volumes = np.array([0, 1, 3, 28, 99])
    image = np.stack([np.clip(ct[..., 10].T, 0, 255).astype(np.uint8)] * 5)
    liver = np.stack([(seg[..., 10].T > 0).astype(np.uint8)] * 5)
    path = tmp_path / "slices.npz"
    spacing = np.full(5, 9, np.float32)
    np.savez(path, image=image, liver=liver, lits_volume=volumes, slice=np.arange(5) + 10, spacing_mm=spacing)
    return path


def test_slices_join_the_datalist_with_their_person(tmp_path, many, archive):
    out = tmp_path / "out"
    (tmp_path / "split.json").write_text(json.dumps({"test": [28], "validation": [0]}))
    lits.prepare(str(many), str(out), split=str(tmp_path / "split.json"))
    for _ in range(2):  # again changes nothing
        lits.slices(str(archive), str(out / "datalist.json"), str(out / "slices"))
        content = datalist(out)
        train = {entry["case_id"]: entry["group"] for entry in content["training_slices"]}
        assert train == {"slice-3-12": "volume-3", "slice-99-14": "volume-99"}
        assert {entry["case_id"] for entry in content["validation_slices"]} == {"slice-0-10", "slice-1-11"}
    lits.prepare(str(many), str(out), split=str(tmp_path / "split.json"))
    assert datalist(out) == content  # preparing again keeps them


def test_slice_lies_as_in_its_volume(tmp_path, many, archive):
    out = tmp_path / "out"
    lits.prepare(str(many), str(out), val_fraction=0)
    lits.slices(str(archive), str(out / "datalist.json"), str(out / "slices"))
    entry = datalist(out)["training_slices"][0]
    image, label = (nib.load(out / entry[key]) for key in ("image", "label"))
    volume = nib.load(many / "volume-0.nii.gz")
    assert image.shape == label.shape == (40, 32, 1)
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(volume.affine) == ("L", "P", "S")
    expected = np.clip(np.asanyarray(volume.dataobj)[..., 10:11], 0, 255)
    assert (np.asanyarray(image.dataobj) == expected).all()
    assert np.argwhere(np.asanyarray(label.dataobj))[:, 0].mean() < 20  # the patient's right comes first


def test_slices_that_lie_otherwise_are_noted(tmp_path, many, archive):
    lits.prepare(str(many), str(tmp_path / "out"), val_fraction=0)
    with np.load(archive) as data:
        arrays = dict(data)
    turns = {
        "as they should": lambda a: a,
        "mirrored": lambda a: a[:, :, ::-1],
        "front to the back": lambda a: a[:, ::-1],
        "turned": lambda a: np.rot90(a, axes=(1, 2)),
        "transposed": lambda a: a.transpose(0, 2, 1),
    }
    for name, turn in turns.items():
        np.savez(archive, **arrays | {key: turn(arrays[key]) for key in ("image", "liver")})
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            lits.slices(str(archive), str(tmp_path / "out" / "datalist.json"), str(tmp_path / "slices"))
        lines = [line for line in stderr.getvalue().splitlines() if line.startswith("NOTE ")]
        cause = f"NOTE {archive}: by liver, spine and body 5 of 5 slices are turned, mirrored or transposed. Give "
        assert len(lines) == (name != "as they should") and all(line.startswith(cause) for line in lines), name


def test_wrong_slice_archive_is_one_line(tmp_path, many):
    lits.prepare(str(many), str(tmp_path / "out"))
    np.savez(tmp_path / "bad.npz", image=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(SystemExit, match="bad.npz: not a slice archive"):
        lits.slices(str(tmp_path / "bad.npz"), str(tmp_path / "out" / "datalist.json"), str(tmp_path / "s"))


# --------------------------------------------------------------------------------------------- what is known of tumours


def command(*words) -> None:
    """``liver-ct lits`` as it is typed."""
    done = warm.python(SCRIPT, *words)
    if done.returncode:
        raise SystemExit(done.stderr)


@pytest.fixture
def two_sources(tmp_path, write_lits):
    """Case 2 in the folder ``site``, and b05 and 3 in ``btcv``."""
    write_lits(tmp_path / "in" / "site", [2])
    folder = write_lits(tmp_path / "in" / "btcv", [3, 5])
    for role in ("volume", "segmentation"):
        (folder / f"{role}-5.nii.gz").rename(folder / f"{role}-b05.nii.gz")
    return tmp_path / "in"


def entries_by_case(output: Path) -> dict[str, dict]:
    return {entry["case_id"]: entry for rows in datalist(output).values() for entry in rows}


def test_names_with_letters_are_cases_of_their_own(tmp_path, two_sources):
    (tmp_path / "split.json").write_text(json.dumps({"test": ["b05"]}))
    words = ["--split", tmp_path / "split.json"]
    command("prepare", "--source", two_sources, "--output", tmp_path / "out", *words)
    entries = entries_by_case(tmp_path / "out")
    sources = {"volume-2": "site", "volume-3": "btcv", "volume-b05": "btcv"}
    assert {case: entry["source"] for case, entry in entries.items()} == sources
    assert case_ids(tmp_path / "out")["test"] == {"volume-b05"} and entries["volume-b05"]["group"] == "volume-b05"


@pytest.mark.parametrize(
    "named, unmarked",
    [
        ("btcv", {"volume-3", "volume-b05"}),
        ("volume-2", {"volume-2"}),
        ("2", {"volume-2"}),
        ("2,b05", {"volume-2", "volume-b05"}),
    ],
)
def test_liver_only_names_sources_or_cases(tmp_path, two_sources, named, unmarked):
    command("prepare", "--source", two_sources, "--output", tmp_path / "out", "--liver_only", named)
    entries = entries_by_case(tmp_path / "out")
    assert {case for case, entry in entries.items() if entry.get("tumour_label", True) is False} == unmarked


def test_misspelt_liver_only_is_one_line(tmp_path, two_sources):
    with pytest.raises(SystemExit, match="ERROR --liver_only btvc: no such source folder or case"):
        command("prepare", "--source", two_sources, "--output", tmp_path / "out", "--liver_only", "btvc")


def notes(result: Result) -> list[str]:
    """The lines that say what may be meant otherwise."""
    return [line.removeprefix("NOTE ") for line in result.stderr.splitlines() if line.startswith("NOTE ")]


def test_what_may_be_meant_otherwise_is_noted(tmp_path, write_lits):
    source, split = write_lits(tmp_path / "in" / "ours", [2], tumours=0).parent, tmp_path / "split.json"
    write_lits(source / "theirs", [2, 3])
    split.write_text(json.dumps({"test": ["03", "b5", 7]}))
    result = prepare(source, tmp_path / "out", split=str(split))
    twice, lost, none = notes(result)
    assert result.returncode == 0
    assert twice.startswith(f"{source}/theirs/segmentation-2.nii.gz and 1 other files: left out, as segmentation-2 is ")
    assert lost.startswith(f"{split}: names volume-7 and 1 other cases, not below {source} (yet).")
    assert none.startswith("ours: none of its 1 segmentations marks a tumour (2), so that all are taken for")
    again = prepare(source, tmp_path / "out", liver_only=["ours"])
    assert notes(again) == [twice]


def test_one_ct_of_two_names_is_noted_unless_it_is_of_one_person(tmp_path, write_lits):
    source, people = write_lits(tmp_path / "in", [2, 5, 6]), tmp_path / "people.json"
    for name in ("volume", "segmentation"):  # the CT of 2 once more, written by another program
        image = nib.load(source / f"{name}-2.nii.gz")
        moved = nib.affines.from_matvec(image.affine[:3, :3], [1, 2, 3])
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), moved), source / f"{name}-5.nii.gz")
    for _ in range(2):  # also where nothing is read again
        (line,) = notes(prepare(source, tmp_path / "out"))
        assert line.startswith("volume-5: the same voxels as volume-2, but another person's by its name. Leave one out")
    people.write_text(json.dumps({"2": "one", "5": "one"}))
    assert notes(prepare(source, tmp_path / "out", groups=str(people))) == []


def test_known_tumour_of_single_slices_joins_a_case_without_outlines(tmp_path, two_sources):
    table = "volume,slice,tumour_present\nb05,4,1\nb05,5,0\nb05,6,-1\nb05,7,\nvolume-2,1,1\n"
    (tmp_path / "tumour.csv").write_text(table)
    words = ["--liver_only", "btcv", "--tumour", tmp_path / "tumour.csv"]
    done = warm.python(SCRIPT, "prepare", "--source", two_sources, "--output", tmp_path / "out", *words)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("NOTE ")]
    assert "tumour.csv: 1 of its rows are left out, of volume-2, whose outlines say more. If no tumour is" in line
    entries = entries_by_case(tmp_path / "out")
    assert (entries["volume-b05"]["tumour_in"], entries["volume-b05"]["tumour_free"]) == ([4], [5])
    assert "tumour_in" not in entries["volume-2"]  # its outlines say more
    assert "tumour_in" not in entries["volume-3"]  # nothing is known


WRONG_ROWS = [
    "b05,x,1", "b05,4,yes", "nobody,4,1", "b05,nan,1", "b05,inf,1", "b05,-1,1", "b05,4.5,1",
    "b05,4,1\nb05,4,0", "b05,500,1", "7777,4,1",
]  # fmt: skip


@pytest.mark.parametrize("row", WRONG_ROWS)
def test_wrong_tumour_table_is_one_line(tmp_path, two_sources, row):
    (tmp_path / "tumour.csv").write_text(f"volume,slice,tumour_present\n{row}\n")
    result = prepare(two_sources, tmp_path / "out", tumour=str(tmp_path / "tumour.csv"), liver_only=["btcv"])
    assert result.returncode == 1 and len(errors(result)) == 1 and "tumour.csv: " in errors(result)[0]


@pytest.mark.parametrize(
    ("option", "name", "content"),
    [
        ("groups", "people.json", b"[1, 2]"), ("groups", "people.csv", b"case,person\n2,a\n2,b\n"),
        ("groups", "people.csv", "case,person\n2,M\u00fcller\n".encode("latin-1")),
        ("split", "split.json", b"[2]"), ("split", "split.json", b'{"test": 2}'),
    ],
)  # fmt: skip
def test_wrong_people_and_splits_are_one_line(tmp_path, many, option, name, content):
    (tmp_path / name).write_bytes(content)
    line = prepare(many, tmp_path / "out", **{option: str(tmp_path / name)}).stderr
    assert line.startswith(f"ERROR {tmp_path / name}: ") and len(line.splitlines()) == 1


@pytest.mark.parametrize("fraction", [2.0, -1.0, float("nan")])
def test_a_fraction_of_no_people_is_refused(tmp_path, many, fraction):
    assert "ERROR --val_fraction" in prepare(many, tmp_path / "out", val_fraction=fraction).stderr


@pytest.mark.parametrize(
    ("change", "affine", "cause"),
    [
        (lambda ct: ct // 2, None, "where air is -1000"),
        (lambda ct: ct[..., np.random.default_rng(0).permutation(ct.shape[2])], None, "of it lies on tissue"),
        (None, np.eye(4), "a field of view of 40 x 32 x 20 mm"),
        (None, np.diag([0.009, 0.009, 0.008, 1]), "are not those of a CT"),
    ],
    ids=["half the HU", "shuffled", "no affine", "metres"],
)
def test_what_the_chain_does_not_read_is_not_learned_from(tmp_path, write_lits, change, affine, cause):
    folder = write_lits(tmp_path / "in", [2])
    for name in ("volume-2.nii.gz", "segmentation-2.nii.gz"):
        rewrite(folder / name, change if change and name[0] == "v" else np.asarray, affine)
    result = prepare(folder, tmp_path / "out")
    assert result.returncode == 1 and len(errors(result)) == 1 and re.search(cause, errors(result)[0])


WRONG_SLICES = {
    "NaN": {"image": lambda a: np.where(a > 100, np.nan, a).astype(np.float32)},
    "beyond 16 bits": {"image": lambda a: a.astype(np.int32) * 1000},
    "0 to 1": {"image": lambda a: a / np.float32(255)},
    "no slope": {"hu_slope": lambda _: np.array(0.0)},
    "a slope each": {"hu_slope": lambda _: np.ones(5)},
    "half a liver": {"liver": lambda a: a * 0.5},
    "liver below 0": {"liver": lambda a: -a.astype(np.int8)},
    "no liver": {"liver": lambda a: a * 0},
    "infinite pixels": {"spacing_mm": lambda a: a + np.inf},
    "slices by letters": {"slice": lambda _: np.array([*"abcde"])},
    "no number": {"slice": lambda a: a + np.nan},
    "one slice twice": {"slice": lambda a: a * 0, "lits_volume": lambda a: a * 0 + 3},
    "no array": {"image": lambda _: np.array(5)},
    "no slice": dict.fromkeys(["image", "liver", "slice", "lits_volume", "spacing_mm"], lambda a: a[:0]),
}


@pytest.mark.parametrize("fault", WRONG_SLICES)
def test_a_wrong_archive_of_slices_is_one_line(archive, fault):
    with np.load(archive) as data:
        arrays = {**data, **{key: change(data.get(key)) for key, change in WRONG_SLICES[fault].items()}}
    np.savez(archive, **arrays)
    with pytest.raises(BrokenPair, match=r"slices\.npz: .*\.$"):
        read_slices(archive)


def test_slices_of_a_corrected_archive_replace_the_earlier_ones(tmp_path, many, archive):
    lits.prepare(str(many), str(tmp_path / "out"))
    with np.load(archive) as data:
        corrected = {**data, "image": data["image"] // 2}
    for arrays in ({}, corrected):
        if arrays:
            np.savez(archive, **arrays)
        entry = add(archive, tmp_path / "out")["slice-3-12"]
    assert np.asarray(nib.load(tmp_path / "out" / entry["image"]).dataobj).max() == corrected["image"].max()


@pytest.fixture
def other_archive(tmp_path, archive):
    """Slices of another set: cases by number, HU in steps of 2 from -100 on, spacing unknown."""
    number = np.arange(5)
    with np.load(archive) as data:
        image, liver = data["image"], data["liver"]
    path = tmp_path / "site22_slices.npz"
    np.savez(path, image=image // 2, liver=liver, case=number, slice=number, hu_slope=2.0, hu_intercept=-100)
    return path


def add(npz: Path, out: Path, *words) -> dict[str, dict]:
    """Add slices from the command line; returns the slices of the datalist by name."""
    arguments = ["--npz", npz, "--datalist", out / "datalist.json", "--output", out / "slices"]
    command("slices", *arguments, *words)
    return {case: entry for case, entry in entries_by_case(out).items() if case.startswith("slice-")}


def test_slices_of_another_set_keep_apart_from_lits(tmp_path, many, other_archive):
    out = tmp_path / "out"
    lits.prepare(str(many), str(out), val_fraction=0)
    found = add(other_archive, out)
    assert set(found) == {f"slice-site{n}-{n}" for n in range(5)}  # 0 and 1 are no person of LiTS here
    entry = found["slice-site1-1"]
    assert entry["group"] == "volume-site1" and entry["source"] == "site22_slices"
    assert entry["tumour_label"] is False and "tumour_present" not in entry and "row" not in entry
    with np.load(other_archive) as data:
        expected = data["image"][1].T * 2.0 - 100
    image = nib.load(out / entry["image"])
    assert (image.get_fdata()[..., 0] == expected).all()
    assert image.header.get_zooms()[:2] == pytest.approx((1.5 * 256 / 40,) * 2)


def test_only_sure_labels_of_slices_are_taken(tmp_path, many, archive):
    out = tmp_path / "out"
    lits.prepare(str(many), str(out), val_fraction=0)
    with np.load(archive) as data:
        np.savez(archive, **{**data, "lits_volume": np.array([60, 61, 62, 63, 64])})
    rows = ["0,1,100,high,0.99", "1,0,0,high,0.96", "2,1,50,edge,0.99", "3,1,50,high,0.95", "4,,,high,0.99"]
    path = tmp_path / "tumour.csv"
    path.write_text("\n".join(["row,tumour_present,area_px256,confidence,liver_dice", *rows]) + "\n")
    found = {entry["case_id"].split("-")[1]: entry for entry in add(archive, out, "--tumour", path).values()}
    assert [found[str(case)].get("tumour_present") for case in range(60, 65)] == [1, 0, None, None, None]
    wide = 9 * 40 / 256  # mm of a pixel, were the 40 of 9 mm 256
    assert found["60"]["tumour_area_mm2"] == pytest.approx(100 * wide**2, abs=0.05)


def test_who_is_who_is_told_once(tmp_path, many, archive):
    out, people = tmp_path / "out", tmp_path / "people.json"
    people.write_text(json.dumps({"3": "anna", "99": "anna", "60": "bert", "61": "bert", "6": "cid"}))
    lits.prepare(str(many), str(out), groups=str(people), val_fraction=0)
    add(archive, out, "--groups", people)
    with np.load(archive) as data:
        np.savez(tmp_path / "more.npz", **{**data, "lits_volume": np.array([60, 61, 99, 28, 3])})
    add(tmp_path / "more.npz", out, "--groups", people)
    before = datalist(out)
    groups = {entry["case_id"]: entry["group"] for key in before for entry in before[key]}
    assert groups["volume-3"] == groups["slice-99-14"] == groups["slice-3-12"] == "anna"
    assert groups["slice-60-10"] == groups["slice-61-11"] == "bert"
    assert {groups[f"volume-{n}"] for n in (6, 7, 8, 9, 10)} == {"cid"}  # who are known to be one
    assert groups["volume-0"] == groups["volume-1"]  # of whom the file says nothing
    add(tmp_path / "more.npz", out)
    assert datalist(out) == before
    lits.prepare(str(many), str(out), val_fraction=0)
    assert datalist(out) == {key: entries for key, entries in before.items() if entries or key == "validation"}


def test_a_case_with_an_empty_person_is_forgotten(tmp_path, many, archive):
    out, file = tmp_path / "out", tmp_path / "people.csv"

    def told(rows: str) -> str:
        file.write_text(f"case;person\n{rows}")  # as spreadsheets of many countries write it
        return str(file)

    lits.prepare(str(many), str(out), groups=told("2;anna\n3;anna\n99;anna\n6;\n"), val_fraction=0)
    add(archive, out)
    groups = {case: entry["group"] for case, entry in entries_by_case(out).items()}
    assert groups["volume-2"] == groups["volume-3"] == groups["slice-99-14"] == "anna"
    assert {groups[f"volume-{n}"] for n in range(6, 11)} == {"person-6"}  # an empty cell takes nobody apart
    with pytest.raises(SystemExit, match=r"people.csv: case 2 has a volume in .*datalist.json. Prepare the data with"):
        add(archive, out, "--groups", told("2;\n3;\n"))
    lits.prepare(str(many), str(out), groups=told("2;\n99;\n"), val_fraction=0)
    for _ in range(2):
        groups = {case: entry["group"] for case, entry in entries_by_case(out).items()}
        assert (groups["volume-2"], groups["volume-3"], groups["slice-99-14"]) == ("volume-2", "anna", "volume-99")
        lits.prepare(str(many), str(out), val_fraction=0)  # who was forgotten stays so
    add(archive, out, "--groups", told("2;\n7;\n"))
    assert json.loads((out / "datalist.json").read_text())["people"] == {"3": "anna"}


def test_who_is_asked_for_without_a_volume_keeps_to_that_side(tmp_path, many, archive):
    """Person 99 has isolated slices alone."""
    out, split = tmp_path / "out", tmp_path / "split.json"
    lits.prepare(str(many), str(out), val_fraction=0)
    add(archive, out)
    for side, key in (("validation", "validation_slices"), ("test", None)):
        split.write_text(json.dumps({"test": [28], "validation": []} | {side: [99]}))
        lits.prepare(str(many), str(out), split=str(split))
        assert [key for key, ids in case_ids(out).items() if "slice-99-14" in ids] == ([key] if key else [])
        if key:
            add(archive, out, "--split", split)
            assert "slice-99-14" in case_ids(out)[key]


def test_names_of_people_are_compared_as_they_read(tmp_path):
    (tmp_path / "people.json").write_text("\ufeff" + json.dumps({"2": "Mu\u0308ller", "3": "M\u00fcller ", "4": None}))
    assert people.read_people(tmp_path / "people.json") == {"2": "M\u00fcller", "3": "M\u00fcller", "4": ""}
    (tmp_path / "people.csv").write_bytes("case,person\n2,M\u00fcller\n".encode("cp1252"))
    with pytest.raises(BrokenPair, match=r"people.csv: is no text in UTF-8. Save it as CSV UTF-8.$"):
        people.read_people(tmp_path / "people.csv")


@pytest.mark.parametrize("other", ["p07", "P 7", "P_07", "P-7"])
def test_one_name_in_two_spellings_is_refused(tmp_path, many, other):
    names, table = {"2": "P_7", "3": other, "8": "P_77", "9": "P_7_7"}, tmp_path / "people.json"
    table.write_text(json.dumps(names | ({"2": "P07"} if other == "p07" else {})))
    line = prepare(many, tmp_path / "out", groups=str(table)).stderr
    assert line.startswith(f"ERROR {table}: is '{other}' the person 'P") and len(line.splitlines()) == 1
    table.write_text(json.dumps(names | {"3": "P_8"}))
    assert prepare(many, tmp_path / "out", groups=str(table)).returncode == 0


def test_slices_of_a_person_who_had_none_yet_join_the_volume(tmp_path, many, archive):
    out, people = tmp_path / "out", tmp_path / "people.json"
    people.write_text(json.dumps({"3": "anna", "99": "anna"}))
    (tmp_path / "split.json").write_text(json.dumps({"validation": [3]}))
    lits.prepare(str(many), str(out), groups=str(people), split=str(tmp_path / "split.json"))
    for _ in range(2):
        lits.prepare(str(many), str(out), split=str(tmp_path / "split.json"))
        assert add(archive, out)["slice-99-14"]["group"] == "anna"
        assert {"slice-3-12", "slice-99-14"} <= case_ids(out)["validation_slices"]


def test_people_whom_an_earlier_version_left_apart_are_joined(tmp_path, many, archive):
    """A groups file took the place of the volumes known to be one person."""
    out = tmp_path / "out"
    lits.prepare(str(many), str(out), val_fraction=0)
    add(archive, out)
    content = datalist(out)
    for entry in [*content["training"], *content["training_slices"]]:
        entry["group"] = f"volume-{entry['case_id'].split('-')[1]}"
    (out / "datalist.json").write_text(json.dumps(content))
    lits.prepare(str(many), str(out), val_fraction=0)
    groups = {entry["case_id"]: entry["group"] for entries in datalist(out).values() for entry in entries}
    assert len({groups[case] for case in ("volume-0", "volume-1", "slice-0-10", "slice-1-11")}) == 1


def test_a_groups_file_given_to_slices_alone_divides_nobody(tmp_path, many, archive):
    out, people = tmp_path / "out", tmp_path / "people.json"
    lits.prepare(str(many), str(out), val_fraction=0)
    people.write_text(json.dumps({"3": "anna", "99": "anna"}))
    assert add(archive, out, "--groups", people)["slice-99-14"]["group"] == "volume-3"
    people.write_text(json.dumps({"2": "anna", "3": "anna"}))
    with pytest.raises(SystemExit, match=r"people.json: cases 3 and 2 are one person, but two in .*datalist.json. Pr"):
        add(archive, out, "--groups", people)
    lits.prepare(str(many), str(out), groups=str(people), val_fraction=0)
    assert add(archive, out, "--groups", people)["slice-3-12"]["group"] == "anna"
    content = json.loads((out / "datalist.json").read_text())
    (out / "datalist.json").write_text(json.dumps({**content, "people": ["anna"]}))
    with pytest.raises(SystemExit, match=r"datalist.json: people is no object {case: person}"):
        add(archive, out)


def test_archives_whose_cases_would_be_called_alike_are_refused(tmp_path, many, archive):
    out = tmp_path / "out"
    lits.prepare(str(many), str(out), val_fraction=0)
    with np.load(archive) as data:
        kept = {key: value for key, value in data.items() if key != "lits_volume"}
        for name in ("site1", "site2", "north"):
            np.savez(tmp_path / f"{name}_slices.npz", **kept, case=np.arange(5))
    add(tmp_path / "site1_slices.npz", out)
    with pytest.raises(SystemExit, match="site2_slices.npz: its cases are called as those of site1_slices"):
        add(tmp_path / "site2_slices.npz", out)
    assert len(add(tmp_path / "north_slices.npz", out)) == len(add(tmp_path / "site1_slices.npz", out)) == 10


@pytest.mark.parametrize("thickness", [0.0, -5.0, float("nan")])
def test_slices_of_no_thickness_are_refused(tmp_path, thickness):
    with pytest.raises(SystemExit, match="^ERROR --thickness .*: no depth of a voxel in mm"):
        lits.slices("a.npz", "datalist.json", str(tmp_path), thickness=thickness)


def test_table_of_another_archive_is_one_line(tmp_path, many, archive):
    lits.prepare(str(many), str(tmp_path / "out"))
    (tmp_path / "tumour.csv").write_text("row,tumour_present\n7,1\n")
    with pytest.raises(SystemExit, match="ERROR .*tumour.csv: row 7 is not in the archive"):
        add(archive, tmp_path / "out", "--tumour", tmp_path / "tumour.csv")


@pytest.mark.parametrize(
    ("head", "rows", "line"),
    [
        ("row,case,slice", ["0,site0,0", "1,1,1", "3,3,", "4,04,4.0"], None),
        ("row,lits_volume,slice", ["0,1,1", "1,0,0"], "row 0 is of case 1, where the archive has slice 0 of case 0"),
        ("row,slice", ["0,0", "1,2"], "row 1 is of slice 2, where the archive has slice 1 of case 1"),
    ],
)
def test_a_table_in_another_order_than_its_archive_is_refused(tmp_path, many, other_archive, head, rows, line):
    lits.prepare(str(many), str(tmp_path / "out"))
    table = tmp_path / "tumour.csv"
    table.write_text("\n".join([f"{head},tumour_present", *(f"{row},1" for row in rows)]) + "\n")
    if line is None:
        found = add(other_archive, tmp_path / "out", "--tumour", table)
        assert sum(entry.get("tumour_present", 0) for entry in found.values()) == 4
    else:
        with pytest.raises(SystemExit, match=f"ERROR {table}: {line}. Number the rows as the archive does"):
            add(other_archive, tmp_path / "out", "--tumour", table)


def test_archive_whose_cases_are_paths_is_refused(tmp_path, many, archive):
    lits.prepare(str(many), str(tmp_path / "out"))
    with np.load(archive) as data:
        kept = {key: value for key, value in data.items() if key != "lits_volume"}
        np.savez(archive, **kept, case=np.array([f"../../{n}" for n in range(5)]))
    with pytest.raises(SystemExit, match=r"ERROR .*slices.npz: '../../0' names no case"):
        add(archive, tmp_path / "out")


# ---------------------------------------------------------------------------------------------- one small file


@pytest.fixture
def fine(tmp_path, archive):
    """Datalist of two cases at 1.6 x 1.6 x 2 mm, one of them tested on, and of slices."""
    spots, labels, affine = phantom.make_phantom((240, 200, 20), (1.6, 1.6, 2.0), tumours=0)
    x, y, z = (int(place) for place in np.argwhere(labels).mean(0))
    landmark = np.s_[x : x + 4, y : y + 4, z : z + 3]
    spots, labels = spots.clip(-1000, 140).astype(np.int16), (labels > 0).astype(np.uint8)
    spots[landmark], labels[landmark] = 300, 2
    (tmp_path / "in").mkdir()
    for number in (2, 28):
        nib.save(nib.Nifti1Image(spots, affine), tmp_path / "in" / f"volume-{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / "in" / f"segmentation-{number}.nii.gz")
    assert prepare(tmp_path / "in", tmp_path / "out").returncode == 0
    add(archive, tmp_path / "out")
    return tmp_path / "out" / "datalist.json"


def pack(datalist: Path, output: Path) -> None:
    command("pack", "--datalist", datalist, "--output", output)


def centre(image: nib.Nifti1Image, inside: np.ndarray) -> np.ndarray:
    """Middle of some voxels in the world, mm."""
    return nib.affines.apply_affine(image.affine, np.argwhere(inside).mean(0))


def test_packed_set_holds_everybody_but_the_test_at_the_working_grid(tmp_path, fine):
    pack(fine, tmp_path / "train.zip")
    first = (tmp_path / "train.zip").read_bytes()
    pack(fine, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == first
    file = unpack(tmp_path / "train.zip", tmp_path / "data")
    content = json.loads(file.read_text())
    assert set(content) == {"training", "training_slices"} and len(content["training"]) == 1
    assert not list(tmp_path.glob("data/*28*"))
    (entry,) = content["training"]
    image, label = (nib.load(file.parent / entry[key]) for key in ("image", "label"))
    assert image.shape == label.shape and image.header.get_zooms() == pytest.approx((2, 2, 3), abs=0.15)
    before = nib.load(tmp_path / "in" / "volume-2.nii.gz")
    expected = centre(before, np.asanyarray(before.dataobj) > 250)
    assert centre(image, image.get_fdata() > 200) == pytest.approx(expected, abs=1)
    assert centre(label, np.asanyarray(label.dataobj) == 2) == pytest.approx(expected, abs=1)
    assert set(np.unique(label.dataobj)) == {0, 1, 2}
    lone = nib.load(file.parent / content["training_slices"][0]["image"])
    assert lone.shape[2] == 1 and content["training_slices"][0]["tumour_label"] is False


@pytest.mark.parametrize("axial", [0, 2])
def test_slices_that_are_listed_are_those_of_the_packed_ct(tmp_path, fine, axial):
    """Of 20 slices the packed CT has 13; version 0.9.3 listed those with the numbers of the 20."""
    content = json.loads(fine.read_text())
    (entry,) = content["training"]
    order = [2, 0, 1] if axial == 0 else [0, 1, 2]
    for role in ("image", "label"):
        image = nib.load(entry[role])
        values = (np.asanyarray(image.dataobj) > 0).astype(np.int16)
        if role == "image":
            values[:] = -20
            values[..., 5:12] = 200  # tumour is where the slices are bright
            values[..., 18:] = -1000  # and no body in the last
        image = nib.Nifti1Image(values.transpose(order), image.affine[:, [*order, 3]])
        entry[role] = str(tmp_path / f"{role}.nii.gz")
        nib.save(image, entry[role])
    entry |= {"tumour_label": False, "tumour_in": [*range(5, 12)], "tumour_free": [*range(5), *range(12, 16)]}
    fine.write_text(json.dumps(content))
    pack(fine, tmp_path / "train.zip")
    file = unpack(tmp_path / "train.zip", tmp_path / "data")
    (packed,) = json.loads(file.read_text())["training"]
    hu = np.moveaxis(nib.load(file.parent / packed["image"]).get_fdata(), axial, 2)
    bright = hu.mean((0, 1)) >= 100
    assert len(bright) == 13 and 3 < bright.sum() < 7
    assert packed["tumour_in"] == np.flatnonzero(bright).tolist()
    assert packed["tumour_free"] == [k for k in np.flatnonzero(~bright) if k < 10]  # of the last too little is known
    with zipfile.ZipFile(tmp_path / "train.zip", "a") as archive:
        archive.comment = b""  # as before
    for folder in (tmp_path / "before", file.parent):  # where it was unpacked already, too
        with pytest.raises(BrokenPair, match="train.zip: packed by version 0.9.3 or before, .* Make it again"):
            unpack(tmp_path / "train.zip", folder)


def test_packing_a_list_of_slices_that_the_ct_lacks_is_one_line(tmp_path, fine):
    content = json.loads(fine.read_text())
    content["training"][0] |= {"tumour_label": False, "tumour_in": [3, 20], "tumour_free": []}
    fine.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"ERROR .*list.json: volume-2 has slices 0 to 19, but it tells of 20"):
        pack(fine, tmp_path / "train.zip")


@pytest.mark.parametrize("content", ["[]", "null", '{"training": "x"}', '{"training": [{}]}'])
def test_packing_what_is_no_datalist_is_one_line(tmp_path, content):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(SystemExit, match=r"ERROR .*list.json: .*\.$"):
        pack(tmp_path / "list.json", tmp_path / "train.zip")


@pytest.mark.parametrize("fault", ["../../evil", "volume-2", "grid"])
def test_packing_what_would_be_wrong_is_one_line(tmp_path, fine, fault):
    content = json.loads(fine.read_text())
    (entry,) = content["training"]
    if fault == "grid":
        rewrite(Path(entry["label"]), lambda labels: labels[:-3])
    else:
        content["training"].append({**entry, "case_id": fault})
    fine.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="another grid" if fault == "grid" else "case_id"):
        pack(fine, tmp_path / "train.zip")


def test_interrupted_unpacking_goes_on(tmp_path, fine):
    pack(fine, tmp_path / "train.zip")
    file = unpack(tmp_path / "train.zip", tmp_path / "data")
    kept, gone = tmp_path / "data" / "volume-2_image.nii", tmp_path / "data" / "volume-2_label.nii"
    stamp = kept.stat().st_mtime_ns
    gone.unlink()
    file.unlink()
    assert unpack(tmp_path / "train.zip", tmp_path / "data").is_file() and gone.is_file()
    assert kept.stat().st_mtime_ns == stamp


def test_another_packed_set_is_not_unpacked_over_the_first(tmp_path, fine):
    pack(fine, tmp_path / "train.zip")
    content = json.loads(fine.read_text())
    content["training"][0]["group"] = "somebody-else"
    fine.write_text(json.dumps(content))
    pack(fine, tmp_path / "other.zip")
    unpack(tmp_path / "train.zip", tmp_path / "data")
    with pytest.raises(BrokenPair, match=r"other.zip: another set was unpacked to .*data. Choose another output"):
        unpack(tmp_path / "other.zip", tmp_path / "data")


@pytest.mark.parametrize("wrong, line", [
    ("labels", r"segmentation-2.nii.gz: holds 127, and not 0, 1 and 2 alone"),
    ("exchanged", r"holds -?\d+, and not 0, 1 and 2 alone"), ("probability", r"values from 0 to 1 are not the HU"),
])  # fmt: skip
def test_what_packing_would_make_something_else_of_is_refused(tmp_path, fine, wrong, line):
    content = json.loads(fine.read_text())
    entry = content["training"][0]
    files = [fine.parent / entry[role] for role in ("image", "label")]
    if wrong == "exchanged":
        entry["image"], entry["label"] = entry["label"], entry["image"]
        fine.write_text(json.dumps(content))
    else:
        image = nib.load(files[wrong == "labels"])
        values = np.asanyarray(image.dataobj)
        changed = (values > 0) * np.uint8(127) if wrong == "labels" else (values > 0).astype(np.float32)
        nib.save(nib.Nifti1Image(changed, image.affine), tmp_path / "changed.nii.gz")
        os.replace(tmp_path / "changed.nii.gz", files[wrong == "labels"])
    with pytest.raises(SystemExit, match=line):
        pack(fine, tmp_path / "train.zip")


def test_packed_set_with_folders_in_it_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("volume-2_image.nii", b"fine")
        archive.writestr("../outside.nii", b"evil")
    with pytest.raises(BrokenPair, match=r"evil.zip: holds '../outside.nii'"):
        unpack(tmp_path / "evil.zip", tmp_path / "data")
    assert not (tmp_path / "outside.nii").exists() and not (tmp_path / "data").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:500], lambda data: data[:300] + b"xxxx" + data[304:]])
def test_damaged_packed_set_is_one_line(tmp_path, fine, damage):
    pack(fine, tmp_path / "train.zip")
    path = tmp_path / "train.zip"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BrokenPair) as error:
        unpack(path, tmp_path / "data")
    assert str(error.value).startswith(f"{path}: is not a packed set") and "\n" not in str(error.value)
    assert not (tmp_path / "data" / "datalist.json").exists()


def test_packing_a_case_that_is_gone_is_one_line(tmp_path, fine):
    (tmp_path / "in" / "volume-2.nii.gz").unlink()
    with pytest.raises(SystemExit, match="ERROR .*volume-2.nii.gz: cannot be read"):
        pack(fine, tmp_path / "train.zip")
    assert not list(tmp_path.glob("*train.zip"))
