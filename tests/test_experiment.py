"""scripts/study.py beyond its arms: parts of the data, weights judged through several masks, calibration, and what an
experiment is made of (packed data, sources left out, the original's recipe, masks of people stage 1 has seen)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import study
from scipy.special import expit

from liver_ct.experiment import analysis, calibrating, mask_steps, stats
from liver_ct.experiment import config as configs
from liver_ct.experiment import masks as mask_figures
from liver_ct.experiment.collecting import SETS, set_of
from liver_ct.experiment.masks import CENTRES
from liver_ct.files import sha256, write_json

ROOT = Path(__file__).resolve().parents[1]
SEG = ROOT / "bundles" / "liver_seg"
VOLUMES, OUTSIDE, INSIDE = SETS

# ------------------------------------------------------------------------------------ numbers with a known answer


def numbers(people: int = 12, slices: int = 30) -> dict:
    """Results of a judge: prob tells volumes apart better than binary does, and isolated slices by chance."""
    random = np.random.default_rng(0)
    person = np.repeat([f"person-{i}" for i in range(people)], slices)
    part = np.repeat([VOLUMES, OUTSIDE], people // 2 * slices)
    label = (random.random(len(person)) < 0.4).astype(int)
    noise = random.normal(size=len(person))
    gain = {"prob": np.where(part == VOLUMES, 3.0, 0.0), "binary": np.where(part == VOLUMES, 0.5, 0.0)}
    return {
        "weights": "0",
        "config": {"folds": 1, "reference": "prob", "contrasts": [["prob", "binary"]]},
        "arms": {name: {"mask_source": name, "gop": 3} for name in gain},
        "slices": {
            "case": [f"case-{p}" for p in person], "slice": np.tile(np.arange(slices), people).tolist(),
            "person": person.tolist(), "fold": ["0"] * len(person), "set": part.tolist(),
            "source": ["one" if int(p.split("-")[1]) % 2 else "two" for p in person],
        },
        "labels": {"3": label.tolist()},
        "scores": {name: {"0": (g * label + noise).tolist()} for name, g in gain.items()},
    }  # fmt: skip


def counts(gain: float, tumour: tuple[int, int] = (0, 0)) -> list[list[int]]:
    """Histograms of logits ``gain`` times too sure; so many tumour voxels below and above 0.5."""
    total = np.where(abs(CENTRES) < 6, 1000, 0)
    liver = (total * expit(CENTRES / gain)).astype(int)
    lesion = np.zeros_like(total)
    lesion[[63, 100]] = tumour  # logits of -0.125 and 9.125
    return [(total - liver).tolist(), liver.tolist(), lesion.tolist()]


@pytest.fixture
def masks(tmp_path, monkeypatch) -> Path:
    """What calibration reads of a stage 1: two folds of two people each, the second of another source and too sure."""

    def histograms(bundle, weights, entries, knobs):
        return {e["case_id"]: counts({"one": 1.0, "two": 2.0}[e["source"]], (30, 70)) for e in entries}

    monkeypatch.setattr(mask_figures, "logit_histograms", histograms)
    folder = tmp_path / "masks"
    entries = []
    for fold, source in enumerate(("one", "two")):
        people = [f"{source}-{i}" for i in range(2)]
        entries += [
            {"image": f"{p}.nii", "label": "x.nii", "prob": "x.nii", "case_id": p, "group": p, "source": source}
            for p in people
        ]
        (folder / f"fold-{fold}").mkdir(parents=True)
        (folder / f"fold-{fold}" / "model.pt").touch()
    write_json(folder / "folds.json", {e["group"]: int(e["source"] == "two") for e in entries})
    write_json(folder / "datalist_prob.json", {"training": entries})
    return folder


# ------------------------------------------------------------------------------------------------- parts of the data


def test_the_main_table_is_of_the_volumes_and_each_part_has_its_own():
    results = numbers()
    found = analysis.parts(results)
    assert list(found) == [VOLUMES, OUTSIDE, "volumes of one", "volumes of two"]
    main = analysis.Analysis(results, draws=200)
    assert main.patients == 6 and len(main.person) == found[VOLUMES].sum()
    there, none = (analysis.Analysis(results, 200, part).contrast("prob", "binary") for part in (VOLUMES, OUTSIDE))
    assert there["excludes_0"] and there["difference"] > 0.2
    assert not none["excludes_0"] and none["difference"] == 0


def test_results_of_earlier_versions_are_volumes_alone():
    results = numbers()
    for name in ("set", "source"):
        del results["slices"][name]
    assert list(analysis.parts(results)) == [VOLUMES]
    assert analysis.restricted(results, analysis.parts(results)[VOLUMES]) is results


def test_a_slice_of_a_person_with_a_volume_is_no_test_of_other_people():
    assert (set_of(False, True), set_of(True, False), set_of(True, True)) == SETS


def test_half_the_width_takes_four_times_the_people():
    drawn = np.linspace(-0.03, 0.03, 2001) / 0.95  # an interval of -0.03 to 0.03
    assert stats.people_for_width(10, drawn, width=0.06) == 10
    assert stats.people_for_width(10, drawn, width=0.03) == 40


def test_the_report_of_a_judge_has_every_part(tmp_path):
    write_json(tmp_path / "results.json", numbers())
    study.report(str(tmp_path))
    text = (tmp_path / "study.md").read_text()
    for part in (VOLUMES, OUTSIDE, "volumes of one"):
        assert f"## {part[0].upper()}{part[1:]}\n" in text
    assert "6 cases of 6 people, 180 slices" in text and "| prob - binary | +0." in text


def test_one_person_proves_nothing(tmp_path, capsys):
    results = numbers()
    alone = analysis.restricted(results, np.array(results["slices"]["person"]) == "person-0")
    contrast = analysis.Analysis(alone, 200).contrast("prob", "binary")
    assert contrast["difference"] > 0.2 and contrast["interval"] is None and not contrast["excludes_0"]
    assert contrast["for_width"] is contrast["half_the_time"] is None
    write_json(tmp_path / "results.json", alone)
    study.compare("prob", "binary", results=str(tmp_path))
    assert json.loads(capsys.readouterr().out)["interval"] is None


def test_two_masks_of_a_judge_are_compared(tmp_path, capsys):
    write_json(tmp_path / "results.json", numbers())
    study.compare("prob", "binary", results=str(tmp_path))
    assert json.loads(capsys.readouterr().out)["excludes_0"]


def test_an_arm_of_another_judgement_is_compared_on_the_cases_that_both_judged(tmp_path, capsys):
    results = numbers()
    write_json(tmp_path / "a" / "results.json", results)
    order = np.random.default_rng(0).permutation(len(results["slices"]["case"]))
    few = analysis.restricted(results, np.array(results["slices"]["person"]) != "person-0")
    few["scores"] = {"binary": {"1": few["scores"]["binary"]["0"], "2": few["scores"]["prob"]["0"]}}
    write_json(tmp_path / "b" / "results.json", few)
    shuffled = {**results, "slices": {k: [v[i] for i in order] for k, v in results["slices"].items()}}
    shuffled["labels"] = {k: [v[i] for i in order] for k, v in results["labels"].items()}
    shuffled["scores"] = {k: {"0": [v["0"][i] for i in order]} for k, v in results["scores"].items()}
    write_json(tmp_path / "c" / "results.json", shuffled)

    def compared(one: str, other: str, against: str) -> dict:
        study.compare(one, other, results=str(tmp_path / "a"), against=str(tmp_path / against))
        return json.loads(capsys.readouterr().out)

    alone = analysis.Analysis(results).contrast("prob", "binary")
    whole = compared("prob", "binary", "c")
    assert whole[VOLUMES]["difference"] == alone["difference"] and whole[VOLUMES]["interval"] == alone["interval"]
    assert set(whole) == set(analysis.parts(results))
    seeds = compared("prob", "binary", "b")[VOLUMES]
    assert (seeds["seeds"], seeds["people"]) == (2, whole[VOLUMES]["people"] - 1)
    lone = analysis.Analysis(analysis.restricted(results, np.array(results["slices"]["person"]) != "person-0"))
    expected = lone.contrast("prob", "binary")["difference"] / 2  # one of the two seeds is the same network
    assert seeds["difference"] == pytest.approx(expected)


def test_judgements_that_cannot_be_compared_are_one_line(tmp_path):
    results = numbers()
    write_json(tmp_path / "a" / "results.json", results)
    turned = {**results, "labels": {"3": [1 - label for label in results["labels"]["3"]]}}
    write_json(tmp_path / "labels" / "results.json", turned)
    others = {**results, "slices": {**results["slices"], "case": [f"x{c}" for c in results["slices"]["case"]]}}
    write_json(tmp_path / "others" / "results.json", others)

    def line(against: str, **options) -> str:
        with pytest.raises(SystemExit) as stop:
            study.compare("prob", "binary", results=str(tmp_path / "a"), against=str(tmp_path / against), **options)
        return str(stop.value)

    assert line("labels").endswith("Give two that were judged on the same files.")
    for folder, count in (("two", 2), ("three", 3)):
        seeds = {arm: dict.fromkeys("012"[:count], each["0"]) for arm, each in results["scores"].items()}
        write_json(tmp_path / folder / "results.json", {**results, "scores": seeds})
    with pytest.raises(SystemExit, match=r"three: 3 seeds of binary, 2 of prob\. Give as many, or one\.$"):
        study.compare("prob", "binary", results=str(tmp_path / "two"), against=str(tmp_path / "three"))
    assert line("others").endswith("Give results of the same people.")
    assert "--against: takes neither" in line("a", sheet="sheet.png")


def test_judgements_of_the_same_slices_are_pooled_as_seeds(tmp_path, capsys):
    for seed in range(3):
        judged = numbers() | {"weights": [f"prob {seed}", f"binary {seed}"]}
        luck = np.random.default_rng(seed).normal(size=len(judged["labels"]["3"]))
        judged["scores"] = {arm: {"0": (each["0"] + luck).tolist()} for arm, each in judged["scores"].items()}
        write_json(tmp_path / str(seed) / "results.json", judged)
    folders = [str(tmp_path / str(seed)) for seed in range(3)]
    study.pool(folders, str(tmp_path / "out"))
    pooled = json.loads((tmp_path / "out" / "results.json").read_text())
    assert all([*seeds] == ["0", "1", "2"] for seeds in pooled["scores"].values()) and len(pooled["scores"]) == 2
    assert len(pooled["slices"]["case"]) == len(pooled["scores"]["prob"]["2"]) == 360
    assert "| prob | 3 | " in (tmp_path / "out" / "study.md").read_text()
    study.pool(folders, str(tmp_path / "together"), together=True)
    rows = [line.split(" | ") for line in (tmp_path / "together" / "study.md").read_text().splitlines()]
    auc = {row[0][2:]: float(row[2][:5]) for row in rows if row[0] in ("| prob", "| prob-together")}
    assert auc["prob-together"] > auc["prob"] + 0.02  # the luck of three has a third of the variance
    assert any(row[0] == "| prob-together - prob" and row[3] == "yes" for row in rows)
    with pytest.raises(SystemExit, match="two are of the same weights and slices"):
        study.pool([folders[0], folders[0]], str(tmp_path / "twice"))
    with pytest.raises(SystemExit, match="holds several seeds already"):
        study.pool([folders[0], str(tmp_path / "out")], str(tmp_path / "twice"))


def test_judgements_of_other_people_are_pooled_as_folds(tmp_path, capsys):
    """Scores of networks that share no scale: within each fold prob tells all apart."""
    for k in (0, 1):
        part = numbers()
        part["slices"]["person"] = [f"{k}-{person}" for person in part["slices"]["person"]]
        part["scores"]["prob"]["0"] = [label + 10.0 * k for label in part["labels"]["3"]]
        write_json(tmp_path / str(k) / "results.json", part)
    both = f"{tmp_path / '0'},{tmp_path / '1'}"
    study.pool(both, str(tmp_path / "out"))
    pooled = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(pooled["slices"]["case"]) == 720 and pooled["slices"]["fold"] == ["0"] * 360 + ["1"] * 360
    text = (tmp_path / "out" / "study.md").read_text()
    assert "of 12 people, 360 slices" in text
    row = next(line for line in text.splitlines() if line.startswith("| prob |"))
    assert row.startswith("| prob | 1 | 0.75") and row.endswith("| 1.000 |")
    with pytest.raises(SystemExit, match=r"^ERROR .*0-person-0 is in .*0, too"):
        study.pool(f"{both},{tmp_path / '0'}", str(tmp_path / "out"))
    with pytest.raises(SystemExit, match=r"^ERROR --together: .*of different people"):
        study.pool(both, str(tmp_path / "out"), together=True)
    with pytest.raises(SystemExit, match=r"^ERROR .*one judgement is no pool"):
        study.pool(str(tmp_path / "0"), str(tmp_path / "out"))
    part["arms"]["other"] = {"mask_source": "prob", "gop": 3}
    write_json(tmp_path / "1" / "results.json", part)
    with pytest.raises(SystemExit, match=r"^ERROR .*other arms than"):
        study.pool(both, str(tmp_path / "out"))
    study.pool(both, str(tmp_path / "out"), arms="prob")
    lone = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [*lone["scores"]] == ["prob"] and lone["scores"]["prob"] == pooled["scores"]["prob"]
    with pytest.raises(SystemExit, match=r"^ERROR .*has no arm none\. Choose of prob, binary\.$"):
        study.pool(both, str(tmp_path / "out"), arms="prob,none")


# -------------------------------------------------------------------------------------------------------- calibration


def test_calibration_is_told_by_source_before_and_after_temperature(masks, tmp_path):
    write_json(tmp_path / "judged" / "results.json", numbers())
    out = tmp_path / "out"
    study.calibration(str(out), masks=str(masks), judged=str(tmp_path / "judged"))
    content = json.loads((out / "calibration.json").read_text())
    rows = {(r["what"], r["part"], r["scaled"]): r for r in calibrating.rows_of(content, 200)}
    sure = rows["Prob-Mask", "two", "as it is"]
    assert sure["people"] == 2 and sure["ece"] > 0.05 and sure["interval"][0] <= sure["ece"] <= sure["interval"][1]
    assert rows["Prob-Mask", "one", "as it is"]["ece"] < 0.01
    assert rows["Prob-Mask", "one", "temperature"]["ece"] > 0.05  # the other fold's, which does not fit this one
    for part in (VOLUMES, OUTSIDE):
        own = [rows["tumour probability", part, way] for way in ("as it is", "scale and bias")]
        assert own[0]["people"] == 6 and own[1]["ece"] < own[0]["ece"]
    text = (out / "study.md").read_text()
    assert "| Prob-Mask | two | 2 | temperature |" in text and "](calibration.png)" in text
    assert (out / "calibration.png").stat().st_size > 5000


def test_a_person_s_scale_and_bias_never_see_that_person():
    table = calibrating.slices(numbers(), None)
    person = np.array(table["person"])
    turned = {**table, "label": np.where(person == "person-0", 1 - np.array(table["label"]), table["label"]).tolist()}
    p = [
        calibrating.cross_fitted(np.array(t["label"]), np.array(t["logit"]), person, calibrating.WAYS["scale and bias"])
        for t in (table, turned)
    ]
    np.testing.assert_array_equal(p[0][person == "person-0"], p[1][person == "person-0"])
    assert not np.allclose(p[0][person == "person-1"], p[1][person == "person-1"])


def test_a_person_is_calibrated_by_people_of_the_same_network():
    """Logits of the second network lie 8 higher, which says nothing of how well either is calibrated."""
    table = calibrating.slices(numbers(), None)
    second = np.array([int(person.split("-")[1]) % 2 for person in table["person"]])
    shifted = {**table, "logit": (np.array(table["logit"]) + 8 * second).tolist()}
    folds = {"fold": second.tolist()}
    errors = [
        next(row for row in calibrating.slice_rows(each, 50) if row["scaled"] == "scale and bias")["ece"]
        for each in ({**table, **folds}, {**shifted, **folds}, shifted)
    ]
    assert errors[0] == pytest.approx(errors[1], abs=1e-3) != pytest.approx(errors[2], abs=1e-2)


def test_the_error_of_binned_sums_by_hand():
    sums = calibrating.binned(np.array([0.1, 0.1, 0.9]), np.array([1.0, 0, 8]), np.array([5.0, 5, 10]), bins=2)
    assert sums.tolist() == [[10, 10], [1, 8], [1, 9]]
    assert calibrating.ece(sums) == pytest.approx(0.05)


def test_what_the_binary_mask_cuts_away_and_the_prob_mask_keeps_is_told_by_person(masks):
    content = calibrating.measure(masks.parent, SEG, masks, None, None, None)
    row = calibrating.tumour_under_masks(content)[0]
    assert (row["voxels"], row["cut"]) == (100, 0.3)
    low, high = expit(CENTRES[[63, 100]])
    assert row["kept"] == pytest.approx(0.3 * low + 0.7 * high) and row["kept_of_cut"] == pytest.approx(low)


def test_each_fold_is_measured_with_the_knobs_that_it_was_trained_with(masks, tmp_path, monkeypatch):
    used = {}

    def histograms(bundle, weights, entries, knobs):
        used[weights.parent.name] = dict(knobs)
        return {e["case_id"]: counts(1.0) for e in entries}

    monkeypatch.setattr(mask_figures, "logit_histograms", histograms)
    trained = {"bundle": "1", "cases": "2", "epochs": 9, "init_path": "3", "hu_window": [-100, 300]}
    write_json(masks / "fold-1" / "made_with.json", trained)
    study.calibration(str(tmp_path / "out"), masks=str(masks))
    assert used == {"fold-0": {}, "fold-1": {"hu_window": [-100, 300]}}


def test_one_fold_has_no_temperature_of_others(masks, tmp_path):
    shutil.rmtree(masks / "fold-1")
    study.calibration(str(tmp_path / "out"), masks=str(masks))
    content = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert content["temperatures"] == {} and {r["scaled"] for r in calibrating.rows_of(content, 50)} == {"as it is"}


# ----------------------------------------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    "knobs, cause",
    [({}, "--masks, --judged: neither was given"), ({"judged": "here", "arm": "gone"}, "--arm gone: no such arm")],
)
def test_a_calibration_of_nothing_gives_one_line(tmp_path, knobs, cause):
    write_json(tmp_path / "results.json", numbers())
    knobs = {key: str(tmp_path) if value == "here" else value for key, value in knobs.items()}
    with pytest.raises(SystemExit, match=rf"^ERROR {cause}"):
        study.calibration(str(tmp_path / "out"), **knobs)


def test_a_list_without_prob_masks_is_not_judged_through_them(lists, tmp_path):
    with pytest.raises(SystemExit, match=r"^ERROR .*datalist.json: volume-0 has no prob"):
        study.judge("weights.pt", str(lists), str(tmp_path))


def test_the_test_section_is_not_judged_and_said_so(sites, lists, tmp_path, capsys):
    content = json.loads(sites[0].read_text()) | {"test": json.loads(lists.read_text())["test"]}
    write_json(tmp_path / "list.json", content)
    (tmp_path / "weights.pt").write_bytes(b"1")
    with pytest.raises(SystemExit, match="damaged"):
        study.judge(str(tmp_path / "weights.pt"), str(tmp_path / "list.json"), str(tmp_path / "out"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"NOTE {tmp_path / 'list.json'}: 1 cases in its section test are not judged.")
    write_json(tmp_path / "list.json", {"test": content["test"]})
    with pytest.raises(SystemExit, match=r"^ERROR .*list.json: lists nobody outside its section test"):
        study.judge(str(tmp_path / "weights.pt"), str(tmp_path / "list.json"), str(tmp_path / "out"))


def test_weights_are_one_for_all_masks_or_one_for_each(sites, tmp_path):
    with pytest.raises(SystemExit, match=r"^ERROR --weights: 2 for 3 masks. Give one for all, or one for each."):
        study.judge("a.pt,b.pt", str(sites[0]), str(tmp_path / "out"), masks="prob,binary,manual")
    with pytest.raises(SystemExit, match=r"^ERROR --masks prob,prob: one is there twice. Name each once."):
        study.judge("a.pt,b.pt", str(sites[0]), str(tmp_path / "out"), masks="prob,prob")
    with pytest.raises(SystemExit, match=r"^ERROR --names: 1 for 2 masks"):
        study.judge("a.pt,b.pt", str(sites[0]), str(tmp_path / "out"), masks="prob,prob", names="one")
    with pytest.raises(SystemExit, match=r"^ERROR --names case,other: case is no name for an arm"):
        study.judge("a.pt,b.pt", str(sites[0]), str(tmp_path / "out"), masks="prob,prob", names="case,other")


def test_another_judgement_in_the_folder_is_refused(sites, tmp_path):
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for i, file in enumerate(files):
        file.write_bytes(b"%d" % i)
    one, other = (sha256(file) for file in files)
    made = {"weights": [one, other, one], "masks": {name: name for name in ("prob", "binary", "manual")}}
    write_json(tmp_path / "out" / "made_with.json", made)
    words = f"{files[0]},{files[1]},{files[1]}"
    with pytest.raises(SystemExit, match=r"^ERROR .*made_with.json: made with other settings: .*weights\. Choose"):
        study.judge(words, str(sites[0]), str(tmp_path / "out"), masks="prob,binary,manual")


def test_a_judgement_that_cannot_begin_claims_nothing(sites, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"1")
    with pytest.raises(SystemExit, match=r"^ERROR .*weights.pt: damaged, or not this bundle's weights"):
        study.judge(str(tmp_path / "weights.pt"), str(sites[0]), str(tmp_path / "out"))
    with pytest.raises(SystemExit, match=r"^ERROR --mask_source binary: a judge looks through --masks"):
        study.judge(str(tmp_path / "weights.pt"), str(sites[0]), str(tmp_path / "out"), mask_source="binary")
    with pytest.raises(SystemExit, match=r"^ERROR --masks porb: 'porb' is unknown. Choose of prob, binary"):
        study.judge(str(tmp_path / "weights.pt"), str(sites[0]), str(tmp_path / "out"), masks="porb")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------- what an experiment is made of


@pytest.fixture
def made(lists, bundles, tmp_path):
    """Function that makes an experiment of the phantoms: made(arms, **changes)."""

    def make(arms: list[dict], **changes) -> configs.Experiment:
        names = [configs.name_of(arm) for entry in arms for arm in configs.expand(entry)]
        content = {"datalist": str(lists), "output": str(tmp_path / "out"), "folds": 2, "stage1_epochs": 1, "epochs": 1,
                   "reference": names[0], "contrasts": [[names[0], names[0]]], "arms": arms, **changes}  # fmt: skip
        write_json(tmp_path / "study.json", content)
        return configs.Experiment(tmp_path / "study.json", bundles / "liver_seg", bundles / "liver_cls")

    return make


def test_packed_data_are_unpacked_and_learned_from(made, lists, tmp_path):
    from liver_ct.lits.packing import pack

    packed = tmp_path / "packed.zip"
    pack(lists, packed)
    experiment = made([{}], datalist=str(packed))
    assert {Path(e["image"]).parent for e in experiment.lists["training"]} == {experiment.output / "data"}
    assert all(Path(e["image"]).exists() for e in experiment.lists["training"])


def test_a_source_that_is_left_out_is_a_fold_of_its_own(made, lists, tmp_path):
    content = json.loads(lists.read_text())
    for section in ("training", "training_slices"):
        for entry in content[section]:
            entry |= {key: str(lists.parent / entry[key]) for key in ("image", "label")}
            entry["source"] = "elsewhere" if entry["group"] == "volume-4" else "here"
    write_json(tmp_path / "datalist.json", content)
    experiment = made([{}], datalist=str(tmp_path / "datalist.json"), held_out=["elsewhere"])
    mask_steps.same_folds(experiment)
    assert experiment.folds() == experiment.tumour_folds() == ["0", "1", "2"]
    assert [group for group, fold in experiment.fold_of().items() if fold == "2"] == ["volume-4"]
    assert ("shipped", "2") in experiment.trainings()


def test_the_original_s_recipe_is_a_copy_of_each_bundle(made, bundles):
    original = {"masks": "original", "overlay": "original.json", "mask_source": ["prob", "none"], "combine": "multiply"}
    experiment = made([original], masks={"original": {"overlay": "original.json", "epochs": 15}})
    mask_steps.make_bundles(experiment)
    arm = experiment.arms["original-prob-multiply-gop3"]
    copy = experiment.stage2(arm) / "configs" / "train.json"
    was = copy.read_bytes()
    copy.write_text("{}")  # as of an overlay that has changed since
    mask_steps.make_bundles(experiment)
    assert copy.read_bytes() == was
    for bundle, name in ((experiment.stage1("original"), "liver_seg"), (experiment.stage2(arm), "liver_cls")):
        assert bundle.name == name and bundle.is_relative_to(experiment.output)
        config = json.loads((bundle / "configs" / "train.json").read_text())
        assert config["hu_window"] == [-200, 250] and "sgd" in config
    assert experiment.stage1("shipped") == experiment.seg and experiment.stage1_epochs("original") == 15
    assert experiment.stage1_knobs("original") == {} and "overlay" not in experiment.knobs(arm, 0)


def test_an_overlay_that_is_not_there_gives_one_line(made):
    experiment = made([{"overlay": "gone.json"}])
    with pytest.raises(ValueError, match="gone.json: no such overlay"):
        mask_steps.make_bundles(experiment)


def test_masks_of_people_whom_stage_1_has_seen_are_for_learning_alone(made, monkeypatch):
    """What is judged has a mask of a stage 1 that has not seen that person, in every arm."""
    experiment = made([{}, {"seen": True}])
    assert list(experiment.arms) == ["prob-concat-gop3", "seen-prob-concat-gop3"]
    mask_steps.same_folds(experiment)

    def infer(bundle, weights, entries, output, **_):
        for entry in entries:
            path = mask_steps.prob_masks.prob_path(entry, output)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{weights}")
        return 0

    monkeypatch.setattr(mask_steps.prob_masks, "infer", infer)
    for fold in experiment.folds():
        work = experiment.masks() / f"fold-{fold}"
        work.mkdir()
        (work / "model.pt").write_text(fold)
        own = [e for e in experiment.lists["training"] if experiment.fold_of()[e["group"]] == fold]
        infer(None, work / "model.pt", own, experiment.masks() / "prob")
    mask_steps.make_seen_masks(experiment, "shipped", "0")
    folder = experiment.masks_of(experiment.arms["seen-prob-concat-gop3"], "0")
    listed = json.loads((folder / "datalist_prob.json").read_text())
    assert {e["group"] for e in listed["training"]} == set(experiment.fold_of())
    for entry in listed["training"]:  # all masks of the fold's own stage 1, which has learned from all but the fold
        assert Path(entry["prob"]).read_text().endswith("fold-0/model.pt")
    assert experiment.judged("0", folder)


def test_masks_at_the_fitted_temperature_are_otherwise_made_as_the_shipped_ones(made, monkeypatch):
    knobs = {"hu_window": [-100, 300], "temperature": 9.0, "learning_rate": 0.1}
    experiment = made([{"mask_source": "temperature"}], masks={"shipped": knobs})
    mask_steps.same_folds(experiment)
    write_json(experiment.masks() / "datalist_prob.json", {"training": [], "training_slices": []})
    for fold in experiment.folds():
        write_json(experiment.masks() / f"fold-{fold}" / "histograms.json", {f"case-{fold}": counts(2.0)})
        (experiment.masks() / f"fold-{fold}" / "model.pt").touch()
    used = []
    monkeypatch.setattr(mask_steps.prob_masks, "infer", lambda *_, **knobs: used.append(knobs) or 0)
    mask_steps.make_temperature_masks(experiment)
    assert used == [{"hu_window": [-100, 300], "temperature": pytest.approx(2, abs=0.2)}] * 2


@pytest.mark.parametrize("arm", [{"mask_source": "temperature"}, {"weights": "prob-concat-gop3"}])
def test_seen_masks_of_an_arm_that_trains_on_none_give_one_line(made, arm):
    with pytest.raises(ValueError, match="neither temperature nor weights go with it"):
        made([{}, {"name": "odd", "seen": True, **arm}])


@pytest.mark.parametrize("arm, cause", [
    ({"from": "START", "mask_source": "temperature"}, "has from, which learns through the Prob-Mask alone"),
    ({"from": "temperature-concat-gop3"}, "has from an arm at a fitted temperature"),
    ({"from": "START", "seen": True}, "has both from and seen"),
    ({"from": "START", "weights": "START"}, "has both from and weights"),
    ({"from": "START", "masks": "other"}, "has other masks than the arm in its from"),
    ({"from": "START", "inner_groups": 1}, "has inner_groups, but is not trained from nothing"),
    ({"weights": "ended"}, "starts from an arm that starts from another one itself"),
    ({"weights": "START", "combine": "multiply"}, "has another combine or gop than the arm it starts from"),
    ({"weights": "START", "repair": "leak"}, "has a repair that is none of leaks, gaps"),
    ({"weights": "START", "repair": "gaps", "mask_source": "manual"}, "has repair, but looks through no Prob-Mask"),
    ({"repair": "gaps"}, "has repair without weights"),
    ({"seeds": [0, 0]}, r"seeds are \[0, 0\], not different whole numbers"),
])  # fmt: skip
def test_what_an_arm_asks_for_and_would_not_get_is_one_line(made, arm, cause):
    start = "prob-concat-gop3"
    named = {key: value.replace("START", start) if isinstance(value, str) else value for key, value in arm.items()}
    others = [{}, {"mask_source": "temperature"}, {"name": "ended", "from": start}]
    with pytest.raises(ValueError, match=f"study.json: arm odd:? {cause}"):
        made([*others, {"name": "odd", **named}], masks={"other": {}})


@pytest.mark.parametrize("changes, cause", [
    ({"masks": {"dice": {"folds": [3]}}}, "masks dice has fold 3, of folds 0 to 1"),
    ({"workers": -1}, "workers is -1, not a number from 0"), ({"held_out": "ours"}, "held_out is 'ours', not a list"),
])  # fmt: skip
def test_an_experiment_that_would_do_something_else_is_one_line(made, changes, cause):
    with pytest.raises(ValueError, match=cause):
        made([{}], **changes)


def test_the_experiment_of_seen_masks_is_as_its_page_says(made):
    text = (ROOT / "docs" / "experiment.md").read_text().split("## Masks of people stage 1 has seen")[1]
    changes = json.loads(text.split("```json")[1].split("```")[0])
    experiment = made(changes.pop("arms"), **changes | {"held_out": []})
    assert {"seen-prob-concat-gop3", "binary-concat-gop3"} < {*experiment.arms} and len(experiment.trainings()) == 2


def test_the_shipped_config_asks_for_the_original_s_recipe_and_for_seen_masks():
    content = json.loads((ROOT / "scripts" / "study.json").read_text())
    arms = {configs.name_of(a): a for entry in content["arms"] for a in configs.expand(entry)}
    for mask in ("prob", "binary", "manual", "none"):
        assert arms[f"original-{mask}-multiply-gop3"]["overlay"] == "original.json"
    assert {"seen-prob-concat-gop3", "seen-binary-concat-gop3", "seen-original-prob-multiply-gop3"} <= set(arms)
    asked = {arm["overlay"] for arm in arms.values() if "overlay" in arm}
    asked |= {masks["overlay"] for masks in content["masks"].values() if "overlay" in masks}
    assert all((ROOT / "bundles" / b / "configs" / name).exists() for b in ("liver_seg", "liver_cls") for name in asked)


# -------------------------------------------------------------------------------------------- one network, many masks


@pytest.mark.slow
def test_weights_are_judged_through_each_mask_as_evaluate_json_does(sites, bundles, tmp_path, capsys):
    import torch
    from monai.bundle import ConfigParser

    from liver_ct.chain.stages import read_bundle
    from liver_ct.training import cross_validation

    cls = bundles / "liver_cls"
    read_bundle(cls)
    config = ConfigParser()
    config.read_config(str(cls / "configs" / "train.json"))
    config.update({"bundle_root": str(cls)})
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(config.get_parsed_content("network").state_dict(), weights)
    out = tmp_path / "out"
    content = json.loads(sites[0].read_text())
    broken = {**content["validation"][0], "image": str(tmp_path / "gone.nii.gz"), "case_id": "volume-99"}
    write_json(tmp_path / "list.json", {"validation": [*content["validation"], broken]})
    words = {"masks": "prob,manual,none", "bundle": str(cls)}
    with pytest.raises(SystemExit, match="cases left out for the reasons above: 1"):
        study.judge(str(weights), str(tmp_path / "list.json"), str(out), **words)
    assert "gone.nii.gz" in capsys.readouterr().err  # it stops no other
    results = json.loads((out / "results.json").read_text())
    work = tmp_path / "fold-0"
    work.mkdir()
    shutil.copy(weights, work / "model.pt")
    for mask in ("prob", "none"):
        cross_validation.evaluate(cls, work, content["validation"], {"mask_source": mask})
        stock = cross_validation.held_out(tmp_path / "list.json", tmp_path)
        keys = list(zip(results["slices"]["case"], map(str, results["slices"]["slice"])))
        assert len(keys) == len(stock) > 3
        assert [stock[key][0] for key in keys] == results["labels"]["3"]
        np.testing.assert_allclose([stock[key][1] for key in keys], results["scores"][mask]["0"], atol=0.01)
    before = (out / "cases").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        study.judge(str(weights), str(tmp_path / "list.json"), str(out), **words)  # what is done is left
    assert (out / "cases").stat().st_mtime_ns == before

    other = tmp_path / "other.pt"  # weights of its own for each mask
    torch.save({k: v + 0.1 for k, v in torch.load(weights).items()}, other)
    study.judge(f"{weights},{other}", str(sites[0]), str(tmp_path / "two"), masks="manual,none", bundle=str(cls))
    own = {e["case_id"] for e in content["validation"]}
    both = json.loads((tmp_path / "two" / "results.json").read_text())
    rows = [i for i, case in enumerate(both["slices"]["case"]) if case in own]
    assert [both["scores"]["manual"]["0"][i] for i in rows] == results["scores"]["manual"]["0"]
    assert [both["scores"]["none"]["0"][i] for i in rows] != results["scores"]["none"]["0"]
    assert len(both["weights"]) == 2
    words = {"masks": "manual,manual", "names": "one,other", "bundle": str(cls), "smooth_mm": 0.0}
    write_json(tmp_path / "list.json", {"validation": content["validation"]})
    study.judge(f"{weights},{other}", str(tmp_path / "list.json"), str(tmp_path / "three"), **words)
    with pytest.raises(SystemExit, match=r"^ERROR .*made with other settings: smooth_mm \(0.0 before, None now\)"):
        study.judge(f"{weights},{other}", str(tmp_path / "list.json"), str(tmp_path / "three"),
                    **{k: v for k, v in words.items() if k != "smooth_mm"})  # fmt: skip
    named = json.loads((tmp_path / "three" / "results.json").read_text())
    assert named["config"]["contrasts"] == [["one", "other"]] and named["arms"]["other"]["mask_source"] == "manual"
    assert named["scores"]["one"] != named["scores"]["other"]
    assert named["scores"]["one"]["0"] != results["scores"]["manual"]["0"]  # a knob of the bundle
