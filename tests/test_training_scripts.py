"""scripts/prob_masks.py and scripts/cross_validate.py: nobody is judged by a network that has seen them, and a killed
run goes on where it stopped. Small networks on phantoms, each run through the scripts' commands."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import cross_validate
import lits
import nibabel as nib
import numpy as np
import prob_masks
import pytest
import torch
import train
from conftest import PEOPLE

from liver_ct.cli import prob_masks as cli
from liver_ct.errors import StudyError
from liver_ct.training import calibration, cross_validation, datalists, froc, intervals, running
from liver_ct.training import prob_masks as stage_one

KNOBS = {"hu_window": [-100, 300]}  # other than the bundle's, so that a network is judged wrongly without


@pytest.fixture(scope="module")
def masks(bundles, lists, tmp_path_factory) -> Path:
    """Output folder of prob_masks, which was killed once on the way."""
    output = tmp_path_factory.mktemp("masks")
    make = {"datalist": str(lists), "output": str(output), "folds": 2, "epochs": 1, **KNOBS}
    make["bundle"] = str(bundles / "liver_seg")
    prob_masks.make(**make, only=[0])
    first = output / "fold-0" / "model.pt"
    stamp, lost = first.stat().st_mtime_ns, next((output / "prob").rglob("*_prob.nii.gz"))
    lost.unlink()
    prob_masks.make(**make)
    assert first.stat().st_mtime_ns == stamp and lost.exists()  # the fold stays, the missing case is made
    return output


def groups(path: Path, *sections: str) -> set[str]:
    content = json.loads(path.read_text())
    return {entry["group"] for section in sections for entry in content[section]}


def test_every_case_gets_a_mask_from_a_network_that_has_not_seen_its_person(masks):
    fold_of = json.loads((masks / "folds.json").read_text())
    assert set(fold_of) == {"person-0", "volume-2", "volume-3", "volume-4"} and set(fold_of.values()) == {0, 1}
    for fold in (0, 1):
        trained = groups(masks / f"fold-{fold}" / "datalist.json", "training", "training_slices")
        assert trained == {group for group, own in fold_of.items() if own != fold}
    assert groups(masks / "full" / "datalist.json", "training") == set(fold_of)  # and nobody of the test


def test_masks_lie_on_the_cts_and_the_datalist_names_them(masks):
    content = json.loads((masks / "datalist_prob.json").read_text())
    assert [e["case_id"] for e in content["training"]] == [f"volume-{n}" for n in range(5)]
    assert [e["case_id"] for e in content["test"]] == ["volume-28"]
    for entry in content["training"] + content["test"]:
        ct, prob = nib.load(entry["image"]), nib.load(entry["prob"])
        assert prob.shape == ct.shape and prob.get_data_dtype() == np.uint8
        np.testing.assert_allclose(prob.affine, ct.affine, atol=1e-4)


def test_another_number_of_folds_is_refused(masks, lists):
    with pytest.raises(SystemExit, match="folds.json: made for other data or folds"):
        prob_masks.make(str(lists), str(masks), folds=3)


@pytest.mark.parametrize("changes, line", [
    ({"epochs": 5}, r"fold-0/made_with.json: made with other settings: epochs \(1 before, 5 now\). Choose another"),
    ({"learning_rate": 0.5}, r"learning_rate \(None before, 0.5 now\)"), ({"only": "7"}, r"--only 7: no such part"),
    ({"folds": 1}, r"folds 1: .* Choose a number from 2"), ({"bundle": "nowhere"}, r"nowhere: no bundle here"),
])  # fmt: skip
def test_other_settings_take_no_folder_for_their_own(bundles, lists, masks, tmp_path, changes, line):
    shutil.copytree(masks, tmp_path / "out")
    words = {"folds": 2, "epochs": 1, "bundle": str(bundles / "liver_seg"), "only": [0], **KNOBS}
    with pytest.raises(SystemExit, match=line):
        prob_masks.make(str(lists), str(tmp_path / "out"), **{**words, **changes})


def test_other_labels_are_another_training(bundles, lists, masks, tmp_path):
    shutil.copytree(lists.parent, tmp_path / "lits")
    shutil.copytree(masks, tmp_path / "out")
    for label in (tmp_path / "lits").rglob("segmentation-*"):
        label.write_bytes(label.read_bytes()[::-1])  # of the same size
    with pytest.raises(SystemExit, match="made with other settings: cases. Choose another output"):
        prob_masks.make(str(tmp_path / "lits" / lists.name), str(tmp_path / "out"), folds=2, epochs=1,
                        bundle=str(bundles / "liver_seg"), **KNOBS)  # fmt: skip


def test_masks_of_other_weights_are_made_again(bundles, tmp_path, monkeypatch):
    made = []

    def run_bundle(bundle, datalist, output_dir, **_):
        for entry in datalist:
            made.append(entry["image"])
            path = stage_one.prob_path(entry, output_dir)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    monkeypatch.setattr(stage_one, "run_bundle", run_bundle)
    weights = tmp_path / "fold-0" / "model.pt"
    weights.parent.mkdir()
    (tmp_path / "a.nii").write_bytes(b"1")
    cases = [{"image": str(tmp_path / "a.nii"), "case_id": "a"}, {"image": "b.nii.gz", "case_id": "b"}]
    arguments = (bundles / "liver_seg", weights, cases, tmp_path / "prob")
    for content, knobs, count in ((b"1", {}, 2), (b"1", {}, 2), (b"2", {}, 4), (b"2", {"temperature": 2.0}, 6)):
        weights.write_bytes(content)
        assert stage_one.infer(*arguments, **knobs) == 0 and len(made) == count
    (tmp_path / "a.nii").write_bytes(b"2")  # a corrected CT
    for _ in range(2):
        assert stage_one.infer(*arguments, temperature=2.0) == 0 and made[6:] == [str(tmp_path / "a.nii")]


@pytest.mark.parametrize("section, change, line", [
    ("training", lambda es: es[0].pop("group"), r"training is no list of cases with image, label, case_id, group"),
    ("training", lambda es: es.append(es[0]), r"case_id 'volume-0' stands twice"),
    ("training", lambda es: es[0].update(case_id="../../evil"), r"case_id '../../evil' stands twice, or cannot name"),
    ("test", lambda es: es[0].update(group="person-0"), r"person-0 is both in test and in what is learned from"),
    ("training", lambda es: es[0].update(image="elsewhere/volume-1.nii.gz"), r"2 CTs are called volume-1.nii.gz"),
    ("training", lambda es: es[0].update(image="x/../volume-2.nii.gz"), r"\S*/volume-2.nii.gz is of two people "),
])  # fmt: skip
def test_a_datalist_that_would_mix_people_up_is_refused(bundles, lists, tmp_path, section, change, line):
    content = json.loads(lists.read_text())
    change(content[section])
    file = lists.with_name(f"changed-{tmp_path.name}.json")
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=rf"^ERROR {file}: {line}"):
        prob_masks.make(str(file), str(tmp_path / "out"), folds=2, epochs=1, bundle=str(bundles / "liver_seg"))
    file.unlink()


def test_everybodys_training_goes_on_from_the_last_fold(bundles, lists, masks, tmp_path):
    with pytest.raises(SystemExit, match="fold-1/model.pt: no such file.*Train that fold first"):
        prob_masks.make(str(lists), str(tmp_path), folds=2, epochs=1, only="full", bundle=str(bundles / "liver_seg"))
    shutil.copytree(masks, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "full")
    weights = torch.load(tmp_path / "fold-1" / "model.pt", weights_only=True)
    key = next(key for key in weights if key.endswith("bias"))
    weights[key] += 1
    torch.save(weights, tmp_path / "fold-1" / "model.pt")
    make = {"only": "full", "bundle": str(bundles / "liver_seg"), "learning_rate": 1e-12, "weight_decay": 0.0}
    prob_masks.make(str(lists), str(tmp_path), folds=2, epochs=1, **make)
    full = torch.load(tmp_path / "full" / "model.pt", weights_only=True)
    torch.testing.assert_close(full[key], weights[key], rtol=1e-5, atol=1e-6)


def test_a_mask_that_cannot_be_made_stops_no_other_and_is_said(bundles, lists, masks, tmp_path):
    output = tmp_path / "masks"
    shutil.copytree(masks, output)
    shutil.rmtree(output / "prob")
    fold_of = json.loads((masks / "folds.json").read_text())
    fold = fold_of["person-0"]
    first, *others = [e for e in json.loads(lists.read_text())["training"] if fold_of[e["group"]] == fold]
    folder = tmp_path / "lits"
    shutil.copytree(lists.parent, folder)
    image = folder / first["image"]  # of which the training of its own fold knows nothing
    image.write_bytes(bytes(image.stat().st_size))
    with pytest.raises(SystemExit, match="1 Prob-Masks are missing"):
        prob_masks.make(
            str(folder / "datalist.json"), str(output), folds=2, epochs=1, only=[fold],
            bundle=str(bundles / "liver_seg"), **KNOBS,
        )  # fmt: skip
    assert others and len(list((output / "prob").rglob("*_prob.nii.gz"))) == len(others)


@pytest.mark.slow
def test_fold_metrics_are_of_the_held_out_cases(bundles, lists, masks):
    prob_masks.evaluate(str(lists), str(masks), bundle=str(bundles / "liver_seg"))
    fold_of = json.loads((masks / "folds.json").read_text())
    (result,) = json.loads((masks / "results.json").read_text()).values()  # all are of one source
    assert result["cases"] == 5 and result["patient_groups"] == 4
    assert 0 <= result["lowest_dice"] <= result["dice"] <= 1
    for fold in (0, 1):
        rows = (masks / f"fold-{fold}" / "metrics" / "val_mean_dice_raw.csv").read_text().splitlines()[1:]
        held_out = {f"volume-{n}" for n, person in PEOPLE.items() if fold_of.get(person) == fold}
        assert {Path(row.split(",")[0]).name.removesuffix(".nii.gz") for row in rows} == held_out
        made_with = json.loads((masks / f"fold-{fold}" / "metrics" / "made_with.json").read_text())
        assert made_with["hu_window"] == KNOBS["hu_window"]


@pytest.mark.slow
def test_masks_of_another_form_of_the_cases_are_made_with_the_same_knobs(bundles, lists, masks):
    stage_one.unseen(lists, masks, "again", bundles / "liver_seg")
    made = sorted((masks / "prob").rglob("*_prob.nii.gz"))
    assert len(made) == 6
    for file in made:
        again = masks / "prob_again" / file.relative_to(masks / "prob")
        assert (np.asarray(nib.load(again).dataobj) == np.asarray(nib.load(file).dataobj)).all()


@pytest.mark.slow
def test_stage_two_is_cross_validated_on_the_same_folds(bundles, masks, tmp_path):
    cross_validate.run(str(masks), str(tmp_path), epochs=1, bundle=str(bundles / "liver_cls"))
    fold_of = json.loads((masks / "folds.json").read_text())
    tables = {fold: tmp_path / f"fold-{fold}" / "metrics" / "slices.csv" for fold in (0, 1)}
    for fold, table in tables.items():
        cases = {line.split(",")[0] for line in table.read_text().splitlines()[1:]}
        assert cases == {f"volume-{n}" for n, person in PEOPLE.items() if fold_of.get(person) == fold}
    assert (tmp_path / "full" / "model.pt").exists()
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["cases"] == 5 and result["patient_groups"] == 4 and 0 <= result["auc"] <= 1
    stamps = [path.stat().st_mtime_ns for path in tables.values()]
    cross_validate.run(str(masks), str(tmp_path), epochs=1, bundle=str(bundles / "liver_cls"))
    assert stamps == [path.stat().st_mtime_ns for path in tables.values()]  # nothing is done twice


@pytest.mark.slow
def test_one_command_from_packed_data_to_both_weights(bundles, lists, tmp_path):
    """Four people of one source, one of another that is held out, and a slice of which presence alone is known."""
    content = json.loads(lists.read_text())
    for entry in content["training"]:
        entry["source"] = "theirs" if entry["group"] == content["training"][-1]["group"] else "ours"
    content["training_slices"][0] |= {"source": "ours", "tumour_label": False, "tumour_present": 1}
    originals = lists.with_name("sources.json")
    originals.write_text(json.dumps(content))
    lits.pack(str(originals), str(tmp_path / "packed.zip"))
    words = {"data": str(tmp_path / "packed.zip"), "output": str(tmp_path / "out"), "held_out": ["theirs"]}
    words |= {"originals": str(originals), "seg_epochs": 1, "cls_epochs": 1}
    train.train(**words, seg_bundle=str(bundles / "liver_seg"), cls_bundle=str(bundles / "liver_cls"))
    out = tmp_path / "out"
    result = json.loads((out / "results.json").read_text())
    held = [entry for entry in content["training"] if entry["source"] == "theirs"]
    assert result["liver"]["theirs"]["cases"] == len(held)
    assert result["liver"]["ours"]["cases"] + len(held) == len(content["training"])
    assert result["tumour"]["cases"] == len(content["training"]) and result["tumour"]["isolated_slices"]["slices"] == 1
    seen = json.loads((out / "seg" / "fold-2" / "datalist.json").read_text())
    assert {entry["source"] for entry in seen["training"]} == {"ours"}
    for stage in ("seg", "cls"):
        assert (out / f"liver_{stage}.pt").read_bytes() == (out / stage / "full" / "model.pt").read_bytes()
    made = {path: path.stat().st_mtime_ns for path in out.rglob("model.pt")}
    train.train(**words, seg_bundle=str(bundles / "liver_seg"), cls_bundle=str(bundles / "liver_cls"))
    assert made == {path: path.stat().st_mtime_ns for path in out.rglob("model.pt")}  # nothing is done twice


def test_a_source_can_be_held_out_whole(tmp_path):
    volumes = [{"group": f"p{n}", "source": "ours" if n < 4 else "theirs"} for n in range(7)]
    slices = [{"group": "p8", "source": "ours", "tumour_present": 1}, {"group": "p9", "source": "bare"}]
    lists = {"training": volumes, "training_slices": slices}
    fold_of = datalists.assign_folds(lists, 2, tmp_path / "folds.json", ["theirs"])
    assert {group for group, fold in fold_of.items() if fold == 2} == {"p4", "p5", "p6"}
    assert {fold_of[f"p{n}"] for n in range(4)} == {0, 1} and fold_of["p8"] in (0, 1)
    assert "p9" not in fold_of  # nothing to be judged by: every part learns from it
    left = datalists.unseen_by(volumes + slices, "2", fold_of)
    assert {entry["source"] for entry in left} == {"ours", "bare"}
    slices.append({"group": "p0", "source": "theirs", "tumour_present": 0})  # of somebody with a volume of ours
    fold_of = datalists.assign_folds(lists, 2, tmp_path / "shared.json", ["theirs"])
    assert fold_of["p0"] == 2 and fold_of["p1"] in (0, 1)
    with pytest.raises(StudyError, match="--held_out ours,theirs: somebody is of both"):
        datalists.assign_folds(lists, 2, tmp_path / "other.json", ["ours", "theirs"])
    with pytest.raises(StudyError, match=r"holds 4 people who can be judged, too few for 5 folds. .*2 at least"):
        datalists.assign_folds(lists, 5, tmp_path / "other.json", ["theirs"])
    slices.pop()
    with pytest.raises(StudyError, match="no case is of the source nowhere"):
        datalists.assign_folds(lists, 2, tmp_path / "other.json", ["nowhere"])
    with pytest.raises(StudyError, match="made for other data or folds"):
        datalists.assign_folds(lists, 3, tmp_path / "folds.json")


def test_operating_points_hold_the_false_alarms():
    random = np.random.default_rng(0)
    label = (random.random(2000) < 0.3).astype(float)
    score = random.normal(size=2000) + 2 * label
    person = np.array([f"p{n % 20}" for n in range(2000)])
    for wanted, point in zip((0.05, 0.1, 0.2), cross_validation.operating_points(label, score, person)):
        flagged = score > point["threshold"]
        assert flagged[label == 0].mean() == pytest.approx(wanted, abs=0.01)
        assert flagged[label == 1].mean() == pytest.approx(point["sensitivity"], abs=0.01)
        low, high = point["interval_95"]["sensitivity"]
        assert low <= point["sensitivity"] <= high
    for one_class in (np.zeros(4), np.ones(4)):
        assert cross_validation.operating_points(one_class, np.arange(4.0), np.array(["p"] * 4)) == []


def test_pooled_figures_are_right_on_known_scores():
    label, score = np.array([0, 0, 1, 1.0]), np.array([0.1, 0.6, 0.4, 0.9])
    assert calibration.metrics(label, score) == {"auc": 0.75, "accuracy": 0.5, "tpr": 0.5, "fpr": 0.5}


def test_calibration_finds_the_true_slope_and_bias():
    random = np.random.default_rng(0)
    raw = random.normal(size=20000)
    label = (random.random(20000) < 1 / (1 + np.exp(-(2 * raw - 1)))).astype(float)
    assert calibration.calibrate(label, raw) == pytest.approx((2, -1), abs=0.1)


METRIC_FILES = ("val_mean_dice", "slice_dice", "surface_dice_2mm", "hd95_mm")


@pytest.fixture
def evaluated(lists, tmp_path) -> Path:
    """What is left of prob_masks make and evaluate, of a time when the CTs lay elsewhere."""
    images = [Path(entry["image"]).name for entry in json.loads(lists.read_text())["training"]]
    (tmp_path / "fold-0" / "metrics").mkdir(parents=True)
    (tmp_path / "fold-0" / "model.pt").touch()
    for name in METRIC_FILES:
        rows = "".join(f"/moved/{image},0.9,0.9\n" for image in images)
        (tmp_path / "fold-0" / "metrics" / f"{name}_raw.csv").write_text("filename,class0,mean\n" + rows)
    people = {entry["group"] for entry in json.loads(lists.read_text())["training"]}
    (tmp_path / "folds.json").write_text(json.dumps(dict.fromkeys(people, 0)))
    return tmp_path


def test_moved_data_have_their_metrics_and_lost_metrics_a_line(lists, evaluated, bundles, monkeypatch):
    monkeypatch.setattr(stage_one.running, "evaluate", lambda *_, **__: None)  # they have been evaluated
    bundle = str(bundles / "liver_seg")
    prob_masks.evaluate(str(lists), str(evaluated), bundle=bundle)
    (result,) = json.loads((evaluated / "results.json").read_text()).values()
    assert result["cases"] == 5 and set(result["dice_per_case"].values()) == {0.9}
    table = evaluated / "fold-0" / "metrics" / "slice_dice_raw.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(SystemExit, match=r"^ERROR .*metrics have no volume-.*\. Delete them, and evaluate again\."):
        prob_masks.evaluate(str(lists), str(evaluated), bundle=bundle)


def test_folds_without_weights_are_left_out_and_said_so(lists, evaluated, bundles, monkeypatch, capsys):
    monkeypatch.setattr(stage_one.running, "evaluate", lambda *_, **__: None)  # they have been evaluated
    people = json.loads((evaluated / "folds.json").read_text())
    (evaluated / "folds.json").write_text(json.dumps({**people, "person-0": 1}))
    prob_masks.evaluate(str(lists), str(evaluated), bundle=str(bundles / "liver_seg"))
    said = capsys.readouterr()
    assert json.loads(said.out)["all"]["cases"] == 3
    assert said.err.splitlines() == [f"NOTE {evaluated}: cases of folds without a model.pt, not judged: 2 of 5."]
    with pytest.raises(SystemExit, match=r"fold-1/model.pt: no such weights. Check the path, or do what makes them"):
        cli.unseen(str(lists), str(evaluated), name="again", bundle=str(bundles / "liver_seg"))
    (evaluated / "fold-0" / "model.pt").unlink()
    with pytest.raises(SystemExit, match=r"no fold of its cases has a model.pt. Do `prob_masks.py make` first"):
        prob_masks.evaluate(str(lists), str(evaluated), bundle=str(bundles / "liver_seg"))


def test_a_bundle_or_folds_that_are_not_there_are_named(lists, evaluated, bundles):
    for command in (prob_masks.evaluate, partial(cli.unseen, name="again")):
        with pytest.raises(SystemExit, match=r"^ERROR nowhere: no bundle here .*Check its path\.$"):
            command(str(lists), str(evaluated), bundle="nowhere")
        with pytest.raises(SystemExit, match=r"^ERROR .*none: holds no folds.json\. Give the output of"):
            command(str(lists), str(evaluated / "none"), bundle=str(bundles / "liver_seg"))


def test_slices_of_a_case_that_the_list_has_no_more_give_one_line(lists, tmp_path):
    content = json.loads(lists.read_text())
    (tmp_path / "datalist_prob.json").write_text(json.dumps({"training": content["training"][1:]}))
    people = {entry["group"] for entry in content["training"]}
    (tmp_path / "folds.json").write_text(json.dumps(dict.fromkeys(people, 0)))
    (tmp_path / "fold-0" / "metrics").mkdir(parents=True)
    row = f"case,slice,label,probability\n{content['training'][0]['case_id']},3,1,0.5\n"
    (tmp_path / "fold-0" / "metrics" / "slices.csv").write_text(row)
    with pytest.raises(SystemExit, match=r"^ERROR .*slices.csv: volume-.* is not in .*datalist_prob.json\. Give"):
        cross_validate.report(str(tmp_path), str(tmp_path))


def test_a_training_of_isolated_slices_alone_sets_nobody_apart():
    assert datalists.set_apart([], 0, 0) == {"training": [], "validation": []}
    people = [{"group": name} for name in "abc"]
    assert len(datalists.set_apart(people, 1, 7)["validation"]) == 1
    for words, line in (
        ((people, 3, 0), "--inner_groups 3: a training has 3"),
        ((people, 1, -1), "--seed -1: makes no"),
    ):
        with pytest.raises(StudyError, match=line):
            datalists.set_apart(*words)


def entry(case: str, person: str, **more) -> dict:
    """A case whose files are not there."""
    return {"image": f"{case}.nii", "label": f"{case}_label.nii", "case_id": case, "group": person, **more}


@pytest.fixture
def known(tmp_path):
    """Function that writes what cross_validate reads of prob_masks, of people a (fold 0) and b (fold 1)."""

    def write(*entries: dict) -> Path:
        sections = {"training": [], "training_slices": []}
        for each in entries:
            sections["training_slices" if each["case_id"].startswith("slice-") else "training"].append(each)
        (tmp_path / "datalist_prob.json").write_text(json.dumps(sections))
        (tmp_path / "folds.json").write_text(json.dumps({"a": 0, "b": 1}))
        return tmp_path

    return write


@pytest.mark.parametrize("told, where", [
    ({}, "of nobody"), ({"tumour_in": [], "tumour_free": []}, "of nobody"), ({"tumour_free": [3]}, "in fold 0 alone"),
])  # fmt: skip
def test_stage_two_needs_known_tumours_in_two_folds(known, told, where):
    bare = {"tumour_label": False}
    masks = known(entry("volume-1", "a", **bare, **told), entry("volume-2", "b", **bare))
    with pytest.raises(
        SystemExit, match=rf"^ERROR .*datalist_prob.json: tumours are known {where}, so that stage 2 has"
    ):
        cross_validate.run(str(masks), str(masks / "out"))
    with pytest.raises(SystemExit, match=r"^ERROR .*datalist_prob.json: tumours are known"):  # before any training
        train.train(str(masks / "datalist_prob.json"), str(masks / "both"))
    assert not list(masks.rglob("made_with.json"))


def test_isolated_slices_alone_have_figures(known):
    lone = [entry(f"slice-{case}-0", "ab"[case % 2], tumour_label=False, tumour_present=case // 2) for case in range(4)]
    masks = known(*lone)
    for fold in (0, 1):
        (masks / f"fold-{fold}" / "metrics").mkdir(parents=True)
        rows = [f"{e['case_id']},0,{e['tumour_present']},{0.2 + 0.3 * e['tumour_present']}" for e in lone[fold::2]]
        (masks / f"fold-{fold}" / "metrics" / "slices.csv").write_text(
            "\n".join(["case,slice,label,probability", *rows])
        )
    result = cross_validation.report(masks, masks)
    assert result["isolated_slices"]["auc"] == 1 and len(result["calibration"]) == 2 and "auc" not in result


def test_nobody_is_judged_by_a_network_that_has_learned_from_the_case(known, evaluated, lists, bundles):
    """By a list whose groups were told anew since."""
    learned = json.loads(lists.read_text())["training"][0]["case_id"]
    (evaluated / "fold-0" / "datalist.json").write_text(json.dumps({"training": [entry(learned, "somebody")]}))
    for command in (prob_masks.evaluate, partial(cli.unseen, name="again")):
        with pytest.raises(
            SystemExit, match=rf"^ERROR {lists}: {learned} would be judged by a network that has learned"
        ):
            command(str(lists), str(evaluated), bundle=str(bundles / "liver_seg"))
    masks = known(entry("volume-1", "a"), entry("volume-2", "b"))
    judged = masks / "originals.json"
    judged.write_text(json.dumps({"training": [entry("volume-1", "b"), entry("volume-2", "a")]}))
    with pytest.raises(SystemExit, match=r"^ERROR .*originals.json: volume-2 would be judged by a network"):
        cross_validate.run(str(masks), str(masks / "out"), judged=str(judged))


def test_folds_have_one_setting_and_who_is_set_apart_has_to_show_tumour(known, tmp_path, bundles):
    cases, cls = [entry("volume-1", "a"), entry("volume-2", "b")], bundles / "liver_cls"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.pt").touch()
    cross_validation.train(cls, tmp_path / "out", {"training": cases, "training_slices": [], "validation": []}, 1, {})
    apart = {"training": cases[:1], "training_slices": [], "validation": cases[1:]}
    with pytest.raises(StudyError, match=r"made with other settings: inner_groups \(None before, 1 now\)"):
        cross_validation.train(cls, tmp_path / "out", apart, 1, {})
    lists = {"training": cases, "training_slices": [], "validation": []}
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "model.pt").touch()
    cross_validation.train(cls, tmp_path / "fold-1", lists, 1, {"mask_source": "binary", "num_workers": 1})
    with pytest.raises(StudyError, match=r"fold-1/made_with.json: .* mask_source \(binary before, None now\)\. G"):
        cross_validation.train(cls, tmp_path / "fold-0", lists, 1, {})  # both would be judged as one
    masks = known(*cases, entry("volume-3", "b"))
    for case in ("volume-1", "volume-2", "volume-3"):
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), tmp_path / f"{case}_label.nii")
    (masks / "folds.json").write_text(json.dumps({"a": 0, "b": 1, "c": 1}))
    with pytest.raises(StudyError, match=r"^--inner_groups 1: a training has 1 patient groups. Choose fewer"):
        cross_validation.run(masks, tmp_path / "new", inner_groups=1, bundle=cls)
    masks = known(*cases, entry("volume-3", "c"))
    (masks / "folds.json").write_text(json.dumps({"a": 0, "b": 1, "c": 1}))
    with pytest.raises(StudyError, match=r"^--inner_groups 1: of the people set apart from part 0 nobody shows slices"):
        cross_validation.run(masks, tmp_path / "new", inner_groups=1, bundle=cls)


def test_patience_without_anybody_set_apart_is_one_line(known):
    masks = known(entry("volume-1", "a"), entry("volume-2", "b"))
    with pytest.raises(SystemExit, match="^ERROR --patience: ends a training by people who are set apart"):
        cross_validate.run(str(masks), str(masks / "out"), patience=4)


def test_everybodys_training_has_half_the_rate_of_the_folds(tmp_path, bundles):
    (tmp_path / "model.pt").touch()
    given = {"init_path": "elsewhere.pt", "gop": 5}
    for rate, half in ((None, 0.001), (0.01, 0.005)):
        knobs = given if rate is None else {**given, "learning_rate": rate}
        epochs, own = running.go_on(tmp_path / "model.pt", 40, bundles / "liver_cls", knobs)
        assert epochs == 10 and own == {"gop": 5, "init_path": str(tmp_path / "model.pt"), "learning_rate": half}


def test_one_person_has_no_interval():
    label, score = np.array([0, 1, 0, 1.0]), np.array([0.1, 0.2, 0.3, 0.9])
    for people, given in ((["a"] * 4, False), (["a", "a", "b", "b"], True)):
        found = intervals.patient_intervals(people, lambda rows: calibration.metrics(label[rows], score[rows]))
        assert (found["auc"] is not None) == given
    assert intervals.interval(np.array([np.nan, np.nan])) is None
    study = froc.Judged("a", np.array([25.0]), np.array([0.9]), np.array([20.0]), np.array([0.3]))
    result = froc.figures([study], 0.5)
    assert result["left_out"] is None and result["at_threshold"]["interval_95"]["over_2_cm"] is None


def test_nobody_is_calibrated_by_labels_that_tell_nothing_or_by_the_own():
    label, raw = np.array([0, 1, 0, 1, 0, 0.0]), np.array([-1, 1, -2, 2, -1, 0.5])
    fold = np.array(list("aaaabb"))
    p = calibration.cross_fitted(label, raw, fold)
    np.testing.assert_allclose(p[:4], 1 / (1 + np.exp(-raw[:4])))  # b is all without tumour: no reason to call all so
    np.testing.assert_allclose(calibration.cross_fitted(label, raw, np.array(["a"] * 6)), 1 / (1 + np.exp(-raw)))
    assert calibration.told_apart(fold, raw) is fold and calibration.told_apart(fold[:4], raw[:4]) is not fold
