"""Promises of the MONAI Label app, kept by the real server on loopback towards MONAI Label's own client.

Not in tests/: it needs an environment of its own (`make test-monailabel`). The tests run in this order on one server:
labels are submitted and weights trained towards the end. The shipped weights look at phantoms.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
import SimpleITK
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from programs import program
from serving import ONE_THREAD, ROOT, copy_app, free_port, serve, wait_for

from liver_ct import phantom

SEG, BANDS, BOTH, CLS = (
    "liver_ct_segmentation",
    "liver_ct_prob_mask",
    "liver_ct_two_stage",
    "liver_tumor_ct_classification",
)
CASES = ("volume-0", "volume-1", "volume-2")
BROKEN = "damaged"
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}  # what Slicer and OHIF add to every request
ORTHANC_DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STEP = 1 / 255 + 1e-6  # of a Prob-Mask in a file


class Site:
    """A folder of studies, its labels and the chain's results, and a client of the server that serves it."""

    def __init__(self, root: Path, client: MONAILabelClient) -> None:
        self.studies, self.labels, self.chain, self.client = root / "studies", root / "labels", root / "chain", client

    def infer(self, model: str, case: str, params: dict | None = None, **more: Any) -> tuple[str | None, dict]:
        """File and params. The client leaves an answer without a file as bytes."""
        file, answer = self.client.infer(model, case, dict(params or {}), **more)
        return file, json.loads(answer) if isinstance(answer, bytes) else answer

    def refusal(self, model: str, case: str, params: dict | None = None) -> tuple[int, str]:
        """Status and message of a request that must fail."""
        with pytest.raises(MONAILabelClientException) as refused:
            self.infer(model, case, params)
        status, response = refused.value.msg.removeprefix("Status: ").split("; Response: ", 1)
        return int(status), json.loads(response)["detail"]

    def truth(self, case: str) -> np.ndarray:
        """The phantom's liver."""
        return voxels(self.labels / f"{case.replace('volume', 'segmentation')}.nii.gz") > 0

    def train(self, **params: Any) -> dict:
        """Train to the end; returns the task."""
        self.client.train_start(SEG, {"max_epochs": 1, "device": "cpu", **params})
        return wait_for(self.client.train_status, lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))


def voxels(file: str | Path) -> np.ndarray:
    """What any NIfTI reader sees."""
    return np.asarray(nib.load(file).dataobj)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks."""
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """Three phantoms of different noise and a damaged file, what the chain finds in them, and the running server."""
    root = tmp_path_factory.mktemp("site")
    (root / "studies").mkdir()
    for number, noise in enumerate((10.0, 16.0, 13.0)):
        image, label = phantom.write_case(root / "labels", number, size=(96, 96, 50), spacing=(4, 4, 5), noise=noise)
        image.rename(root / "studies" / image.name)
    command = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "--picture", "false", "--jobs", "1"]
    command += ["--input", str(root / "studies"), "--output", str(root / "chain")]
    subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})
    (root / "studies" / f"{BROKEN}.nii.gz").write_bytes((root / "studies" / "volume-0.nii.gz").read_bytes()[:50000])
    (root / "studies" / "volume-0").mkdir()  # not what volume-0.nii.gz was made from
    for name in ("bundles", "src"):  # as in the repository, two folders above the app
        (root / name).symlink_to(ROOT / name)
    with serve(copy_app(root / "apps" / "monailabel"), root / "studies", root) as client:
        yield Site(root, client)


def test_info_tells_models_training_and_strategies(site):
    info = site.client.info()
    assert {name: model["type"] for name, model in info["models"].items()} == {
        SEG: "segmentation",
        BANDS: "segmentation",
        BOTH: "segmentation",
        CLS: "classification",
    }
    assert info["models"][SEG]["labels"] == info["models"][BOTH]["labels"] == {"liver": 1}
    assert info["labels"] == ["liver"] and "least_certain" in info["strategies"] and "uncertainty" in info["scoring"]
    assert list(info["trainers"]) == [SEG]
    assert info["datastore"] == {"total": 4, "completed": 0, "label_tags": {}}


def test_liver_mask_lies_on_the_ct_and_on_the_liver(site):
    file, params = site.infer(SEG, "volume-0")
    mask, ct = nib.load(file), nib.load(site.studies / "volume-0.nii.gz")
    assert mask.shape == ct.shape and np.allclose(mask.affine, ct.affine, atol=1e-4)
    assert set(np.unique(voxels(file))) == {0, 1} and dice(voxels(file) == 1, site.truth("volume-0")) > 0.9
    assert params["label_names"] == {"liver": 1} and params["weights"] == "model.pt"
    result = json.loads((site.chain / "volume-0" / "result.json").read_text())
    assert params["liver_volume_ml"] == pytest.approx(result["liver_volume_ml"], abs=0.02)


def test_file_stays_with_a_client_that_uses_the_servers_temporary_folder(site):
    client = MONAILabelClient(site.client.get_server_url(), tmpdir=tempfile.gettempdir())
    file, _ = client.infer(SEG, "volume-0", {})
    assert client.info() and Path(file).exists()  # the server removes its own after the answer
    Path(file).unlink()


@pytest.mark.parametrize("model", [SEG, BOTH])
def test_prob_mask_comes_as_file_and_is_the_chains(site, model):
    file, params = site.infer(model, "volume-1", {"result": "prob_mask"})
    ours, chain = nib.load(file), nib.load(site.chain / "volume-1" / "prob_mask.nii.gz")
    assert np.abs(voxels(file) - np.asarray(chain.dataobj)).max() <= STEP and np.array_equal(ours.affine, chain.affine)
    assert ((voxels(file) > 0.1) & (voxels(file) < 0.9)).any() and params["result"] == "prob_mask"


def test_nrrd_as_slicer_asks_for_it_lies_where_the_ct_does(site):
    chain = site.chain / "volume-0"
    for params, values in (({}, 1), ({"result": "prob_mask"}, 255)):
        file, _ = site.infer(SEG, "volume-0", {**SLICER, **params})
        got, ct = SimpleITK.ReadImage(file), SimpleITK.ReadImage(str(site.studies / "volume-0.nii.gz"))
        want = voxels(chain / ("prob_mask.nii.gz" if params else "liver_mask.nii.gz")) * values
        assert file.endswith(".nrrd") and got.GetPixelID() == SimpleITK.sitkUInt8
        assert np.abs(SimpleITK.GetArrayFromImage(got).T - want).max() <= 1.001 * (values == 255)
        for place in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
            assert getattr(got, place)() == pytest.approx(getattr(ct, place)(), abs=1e-4)


def test_viewers_see_the_prob_mask_in_three_ranges(site):
    file, params = site.infer(BANDS, "volume-0", SLICER)
    prob = voxels(site.chain / "volume-0" / "prob_mask.nii.gz")
    bands = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)).T
    for band, edge in enumerate((0.1, 0.5, 0.9), 1):
        assert not (bands[prob > edge + STEP] < band).any() and not (bands[prob < edge - STEP] >= band).any()
    assert set(np.unique(bands)) == {0, 1, 2, 3} and list(params["label_names"].values()) == [1, 2, 3]


def test_image_from_the_viewers_own_disk(site):
    image = str(site.studies / "volume-2.nii.gz")
    session = site.client.create_session(image)["session_id"]
    for more in ({"session_id": session}, {"file": image}):
        file, params = site.infer(BOTH, "", **more)
        assert np.array_equal(voxels(file), voxels(site.chain / "volume-2" / "liver_mask.nii.gz"))
        check_findings(site, "volume-2", params)


def chain_rows(site: Site, case: str) -> dict[int, float]:
    """Tumour probability by slice, of the chain."""
    with (site.chain / case / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {int(r["slice"]): float(r["tumour_probability"]) for r in rows if r["tumour_probability"]}


def check_findings(site: Site, case: str, params: dict) -> None:
    """The params hold the chain's findings."""
    result = json.loads((site.chain / case / "result.json").read_text())
    found = {row["slice"]: row["tumour_probability"] for row in params["slices"]}
    assert found == pytest.approx(chain_rows(site, case), abs=1e-5) and len(found) > 10
    assert params["study_tumour_probability"] == pytest.approx(result["study_tumour_probability"], abs=1e-5)
    assert params["flagged_slices"] == result["flagged_slices"] and params["flag_threshold"] == result["flag_threshold"]
    assert params["notes"] == result["notes"]


def test_both_stages_give_the_mask_and_the_chains_probabilities(site):
    for case in CASES:
        file, params = site.infer(BOTH, case)
        assert np.array_equal(voxels(file), voxels(site.chain / case / "liver_mask.nii.gz"))
        check_findings(site, case, params)


def test_classification_answers_without_a_file(site):
    file, params = site.infer(CLS, "volume-1")
    assert file is None and params["mask_source"] == "prob_mask"
    check_findings(site, "volume-1", params)
    assert params["prediction"] == [{"idx": 0, "label": "tumour", "score": params["study_tumour_probability"]}]


def test_classification_looks_within_a_mask_sent_along(site, tmp_path):
    whole = site.infer(CLS, "volume-1", label_in=str(site.labels / "segmentation-1.nii.gz"))[1]
    truth = nib.load(site.labels / "segmentation-1.nii.gz")
    half = np.asarray(truth.dataobj).copy()
    half[..., : half.shape[2] // 2] = 0
    nib.save(nib.Nifti1Image(half, truth.affine), tmp_path / "half.nii.gz")
    upper = site.infer(CLS, "volume-1", label_in=str(tmp_path / "half.nii.gz"))[1]
    assert whole["mask_source"] == upper["mask_source"] == "label"
    assert min(r["slice"] for r in upper["slices"]) == half.shape[2] // 2 - 5  # the bundle's margin
    assert min(r["slice"] for r in whole["slices"]) < half.shape[2] // 2 - 5
    assert whole["notes"] == []
    nib.save(nib.Nifti1Image(np.flip(half, 0), truth.affine), tmp_path / "left.nii.gz")
    notes = site.infer(CLS, "volume-1", label_in=str(tmp_path / "left.nii.gz"))[1]["notes"]
    assert any("patient's right" in note for note in notes)


def test_bad_requests_get_one_line_and_the_server_lives_on(site):
    for model in (SEG, BANDS, BOTH, CLS):
        assert site.refusal(model, BROKEN) == (
            400,
            f"{BROKEN}: not a readable image (damaged, cut short or of another format). Export or copy it again.",
        )
    assert site.refusal(SEG, "volume-9")[0] == 400 and "volume-9: no such image" in site.refusal(SEG, "volume-9")[1]
    assert site.refusal("spleen", "volume-0")[0] == 404 and "spleen" in site.refusal("spleen", "volume-0")[1]
    assert site.refusal(SEG, "volume-0", {"result": "logits"})[1].startswith("logits: no such result. Use mask,")
    status, line = site.refusal(SEG, "volume-0", {"device": "tpu"})
    assert status == 400 and line.startswith("--device tpu: unknown. Use cpu or cuda")
    assert site.infer(SEG, "volume-0")[1]["liver_volume_ml"] > 500


def test_two_requests_at_once_get_their_own_answers(site):
    answers: dict[str, tuple] = {}

    def ask(case: str) -> None:
        answers[case] = site.infer(BOTH, case)

    threads = [threading.Thread(target=ask, args=(case,)) for case in CASES[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for case, (file, params) in answers.items():
        assert np.array_equal(voxels(file), voxels(site.chain / case / "liver_mask.nii.gz"))
        check_findings(site, case, params)
    assert len(answers) == 2


def test_batch_leaves_a_mask_for_every_study_but_the_damaged_one(site):
    batch = f"{site.client.get_server_url()}/batch/infer"
    assert requests.post(f"{batch}/{SEG}?images=all", json={}, timeout=30).ok
    wait_for(lambda: requests.get(f"{batch}/", timeout=30).json()["status"], lambda status: status == "DONE")
    left = site.studies / "labels" / "original"
    assert {file.name for file in left.iterdir()} == {f"{case}.nii.gz" for case in CASES}
    assert np.array_equal(voxels(left / "volume-2.nii.gz"), voxels(site.chain / "volume-2" / "liver_mask.nii.gz"))


def entropy(site: Site, case: str) -> float:
    """Mean binary entropy in bits where the chain's Prob-Mask is 0.05 or more."""
    p = voxels(site.chain / case / "prob_mask.nii.gz").astype(float)
    p = p[(p >= 0.05) & (p < 1)]
    count = np.count_nonzero(voxels(site.chain / case / "prob_mask.nii.gz") >= 0.05)
    return float((-p * np.log2(p) - (1 - p) * np.log2(1 - p)).sum() / count)


def scores(root: Path) -> dict[str, dict]:
    """What the server's scoring has found so far, by image."""
    files = list((root / "apps" / "monailabel" / "model").glob("uncertainty-*.json"))
    return json.loads(files[0].read_text()) if files else {}


def test_least_certain_study_comes_next(site):
    wait_for(lambda: set(scores(site.studies.parent)), lambda found: found == {*CASES, BROKEN})
    by_entropy = sorted(CASES, key=lambda case: entropy(site, case), reverse=True)
    start = time.monotonic()
    first = site.client.next_sample("least_certain", {})
    assert time.monotonic() - start < 2
    assert first["id"] == by_entropy[0] and first["path"] == str(site.studies / f"{first['id']}.nii.gz")
    assert first["uncertainty"] == pytest.approx(entropy(site, first["id"]), abs=0.02)
    assert first["uncertainty"] == pytest.approx(site.infer(SEG, first["id"])[1]["uncertainty"], abs=1e-5)


def test_training_without_a_label_says_so(site):
    task = site.train()
    assert task["status"] == "ERROR" and "no label submitted yet. Submit a label first." in "".join(task["details"])


def test_labelled_study_is_not_proposed_again(site):
    first = site.client.next_sample("least_certain", {})["id"]
    label = site.labels / f"{first.replace('volume', 'segmentation')}.nii.gz"
    site.client.save_label(first, str(label), params={"label_info": [{"name": "liver", "idx": 1}]})
    second = site.client.next_sample("least_certain", {})["id"]
    left = [case for case in CASES if case != first]
    assert second == max(left, key=lambda case: entropy(site, case))
    assert site.client.info()["datastore"]["completed"] == 1


def test_label_that_cannot_be_used_is_named_and_changes_nothing(site):
    (labelled,) = {case for case in CASES if (site.studies / "labels" / "final" / f"{case}.nii.gz").exists()}
    truth = nib.load(site.labels / f"{labelled.replace('volume', 'segmentation')}.nii.gz")
    moved = nib.Nifti1Image(np.asarray(truth.dataobj), truth.affine + np.diag([0.5, 0, 0, 0]))
    nib.save(moved, site.studies.parent / "moved.nii.gz")
    site.client.save_label(labelled, str(site.studies.parent / "moved.nii.gz"))
    task = site.train()
    assert task["status"] == "ERROR" and f"{labelled}.nii.gz: lies on another grid than its CT" in "".join(
        task["details"]
    )
    assert site.infer(SEG, labelled)[1]["weights"] == "model.pt"
    site.client.save_label(labelled, str(site.labels / f"{labelled.replace('volume', 'segmentation')}.nii.gz"))


def test_training_from_a_submitted_label_is_taken_up_at_once(site):
    bundle = ROOT / "bundles" / "liver_seg"
    shipped = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    files = sorted((bundle / "runs").rglob("*"))
    (labelled,) = {case for case in CASES if (site.studies / "labels" / "final" / f"{case}.nii.gz").exists()}
    before = voxels(site.infer(SEG, labelled, {"result": "prob_mask"})[0])
    task = site.train(volume_repeats=16, batch_size=8)
    assert task["status"] == "DONE", task["details"]
    file, params = site.infer(SEG, labelled, {"result": "prob_mask"})
    assert params["weights"] == f"{SEG}.pt" and np.abs(voxels(file) - before).max() > 0.05
    truth = site.truth(labelled)
    assert dice(voxels(file) > 0.5, truth) > dice(before > 0.5, truth) > 0.9  # it learned from this very label
    now = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    assert now == shipped and sorted((bundle / "runs").rglob("*")) == files
    runs = list((site.studies.parent / "apps" / "monailabel" / "model" / "runs").glob("*/tensorboard"))
    assert runs and not list(runs[-1].parent.glob("*.pt"))


def test_new_weights_score_the_studies_anew(site):
    left = [case for case in CASES if not (site.studies / "labels" / "final" / f"{case}.nii.gz").exists()]
    wait_for(lambda: scores(site.studies.parent)[left[-1]]["weights"].split()[0], lambda name: name == f"{SEG}.pt")
    found = site.client.next_sample("least_certain", {})
    assert found["uncertainty"] == pytest.approx(site.infer(SEG, found["id"])[1]["uncertainty"], abs=1e-5)


def test_uploaded_weights_leave_the_bundles_own(site):
    shipped = ROOT / "bundles" / "liver_cls" / "models" / "model.pt"
    before, url = shipped.read_bytes(), f"{site.client.get_server_url()}/model/{CLS}"
    assert requests.put(url, files={"file": ("model.pt", before)}, timeout=30).ok
    assert site.infer(CLS, "volume-0")[1]["weights"] == f"{CLS}.pt" and shipped.read_bytes() == before
    assert requests.put(url, files={"file": ("model.pt", before[:1000])}, timeout=30).ok
    assert "damaged, or not this bundle's weights" in site.refusal(CLS, "volume-0")[1]
    assert requests.delete(url, timeout=30).ok
    assert site.infer(CLS, "volume-0")[1]["weights"] == "model.pt"


def test_app_copied_elsewhere_with_the_bundles_inside(site, tmp_path):
    app = copy_app(tmp_path / "app")
    for folder, name in (("liver_seg", SEG), ("liver_cls", CLS)):
        shutil.copytree(ROOT / "bundles" / folder, app / "model" / name, ignore=shutil.ignore_patterns("eval", "runs"))
    (tmp_path / "studies").mkdir()
    shutil.copy(site.studies / "volume-2.nii.gz", tmp_path / "studies")
    # the package comes from elsewhere, as where it is installed
    with serve(app, tmp_path / "studies", tmp_path, PYTHONPATH=str(ROOT / "src")) as client:
        check_findings(site, "volume-2", client.infer(BOTH, "volume-2", {})[1])


@contextmanager
def dicom_server(folder: Path) -> Iterator[str]:
    """Address of a real Orthanc with DICOMweb, empty, on loopback."""
    if not ORTHANC_DICOMWEB.exists():
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("Orthanc's DICOMweb is not installed (Debian: apt-get install orthanc orthanc-dicomweb)")
    port = free_port()
    settings = {"HttpPort": port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False}
    settings |= {
        "DicomServerEnabled": False,
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
    }
    settings |= {"Plugins": [str(ORTHANC_DICOMWEB)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    (folder / "orthanc.json").write_text(json.dumps(settings))
    orthanc = program("Orthanc", "orthanc")
    with (folder / "orthanc.log").open("w") as log:
        server = subprocess.Popen([orthanc, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        wait_for(lambda: is_up(f"http://127.0.0.1:{port}/system"), bool, 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def is_up(url: str) -> bool:
    """Whether the address answers."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def store_phantom(server: str, folder: Path, seed: int, leave_out: int | None = None) -> tuple[str, nib.Nifti1Image]:
    """Store a phantom as a DICOM series, perhaps without one slice; returns the series' UID and the liver, in RAS."""
    ct, labels, affine = phantom.make_phantom(size=(96, 96, 50), spacing=(4, 4, 5), seed=seed)
    paths = phantom.write_dicom_series(folder, ct, affine)
    for number, path in enumerate(paths):
        if number != leave_out:
            assert requests.post(f"{server}/instances", data=path.read_bytes(), timeout=30).ok
    liver = nib.as_closest_canonical(nib.Nifti1Image((labels > 0).astype(np.uint8), affine))
    return str(pydicom.dcmread(paths[0]).SeriesInstanceUID), liver


def save_as(item: pydicom.Dataset, path: Path, enforce_file_format: bool) -> None:
    """pydicom 3's spelling, which scripts/phantom.py speaks, for the pydicom 2 of MONAI Label."""
    item.is_little_endian, item.is_implicit_VR = True, False
    pydicom.dcmwrite(path, item, write_like_original=not enforce_file_format)


def test_studies_of_a_dicomweb_server(tmp_path, monkeypatch):
    monkeypatch.setattr(pydicom.Dataset, "save_as", save_as)
    for name in ("bundles", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    app = copy_app(tmp_path / "apps" / "monailabel")
    with dicom_server(tmp_path) as orthanc:
        whole, liver = store_phantom(orthanc, tmp_path / "whole", seed=5)
        gap, _ = store_phantom(orthanc, tmp_path / "gap", seed=6, leave_out=20)
        cache = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")}
        with serve(app, f"{orthanc}/dicom-web", tmp_path, **cache) as client:
            site = Site(tmp_path, client)
            file, params = site.infer(BOTH, whole)
            mask = nib.as_closest_canonical(nib.load(file))
            assert np.allclose(mask.affine, liver.affine, atol=1e-3) and len(params["slices"]) > 10
            assert dice(np.asarray(mask.dataobj) > 0, np.asarray(liver.dataobj) > 0) > 0.9
            status, line = site.refusal(SEG, gap)
            assert status == 400 and line.startswith(f"{gap}: slices 5.00 to 10.00 mm apart, so some are missing.")

            wait_for(lambda: set(scores(tmp_path)), lambda found: found == {whole, gap})
            assert site.client.next_sample("least_certain", {})["id"] == whole  # the other cannot be read
            nib.save(liver, tmp_path / "liver.nii.gz")
            client.save_label(whole, str(tmp_path / "liver.nii.gz"), params={"label_info": [{"name": "liver"}]})
            stored = requests.get(f"{orthanc}/dicom-web/series?Modality=SEG", timeout=30).json()
            assert len(stored) == 1
            assert site.client.next_sample("least_certain", {}).get("id") != whole
