"""scripts/study.py: no arm is judged by people it was trained on, killed runs go on, and the statistics are right.

One small study on phantoms through the script's command, and results with a known answer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import study
import torch
from conftest import bundle_module
from monai.bundle import ConfigParser
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from liver_ct.errors import StudyError
from liver_ct.experiment import analysis as analysing
from liver_ct.experiment import collecting, mask_steps, pages, plots, report_parts, stats, writing
from liver_ct.experiment import config as arms_config
from liver_ct.experiment import masks as mask_figures
from liver_ct.experiment import report as reporting
from liver_ct.files import write_json
from liver_ct.training import claims, end_to_end, intervals

ROOT = Path(__file__).resolve().parents[1]

# ------------------------------------------------------------------------------------- results with a known answer


def made_up() -> dict:
    """A results.json in which prob sees more than binary does; all are tumour patients but one."""
    people, slices = 12, 40
    random = np.random.default_rng(0)
    person = np.repeat([f"person-{i}" for i in range(people)], slices)
    case = np.repeat([f"volume-{i}" for i in range(people)], slices)
    label = (random.random(len(person)) < 0.4).astype(int)
    label[:slices] = 0
    noise = random.normal(size=len(person))
    arms = {"prob": 1.6, "binary": 0.4, "manual": 1.6, "none": 1.6}
    scores = {
        f"{name}-concat-gop3": {str(s): (gain * label + noise + 0.1 * s).round(4).tolist() for s in range(2)}
        for name, gain in arms.items()
    }
    tumour = np.where(label, 100.0, 0.0)
    counts = np.zeros((3, len(mask_figures.CENTRES)), dtype=int)
    counts[0, 20], counts[1, 100], counts[2, 60], counts[2, 90] = 500, 400, 30, 70
    cases = sorted(set(case), key=lambda c: int(c[7:]))
    fold = (np.repeat(np.arange(people), slices) % 3).tolist()
    return {
        "config": {
            "folds": 3, "stage1_epochs": 1, "epochs": 1, "reference": "prob-concat-gop3",
            "contrasts": [["prob-concat-gop3", "binary-concat-gop3"], ["manual-concat-gop3", "prob-concat-gop3"]],
        },
        "arms": {name: {"gop": 3, "combine": "concat"} for name in scores},
        "slices": {
            "case": case.tolist(), "slice": np.tile(np.arange(slices), people).tolist(), "person": person.tolist(),
            "fold": fold, "tumour": tumour.tolist(), "prob": (0.8 * tumour).tolist(), "binary": (0.6 * tumour).tolist(),
        },
        "labels": {"1": label.tolist(), "3": label.tolist()},
        "scores": scores,
        "masks": {"shipped": {c: counts.tolist() for c in cases}},
        "temperatures": {"0": 1.1, "1": 1.2, "2": 1.3},
        "liver": {"shipped": dict.fromkeys(cases, 0.95)},
    }  # fmt: skip


@pytest.fixture(scope="module")
def analysis() -> analysing.Analysis:
    return analysing.Analysis(made_up(), draws=400)


def test_the_figures_are_those_of_scikit_learn_and_by_hand():
    label, score = np.array([0, 0, 1, 1, 0, 1]), np.array([0.1, 0.6, 0.4, 0.9, 0.4, 0.8])
    own = stats.figures(label, score, score)
    assert own["auc"] == roc_auc_score(label, score)
    assert (own["accuracy"], own["tpr"], own["fpr"]) == pytest.approx((4 / 6, 2 / 3, 1 / 3))
    assert own["sensitivity_at_90"] == pytest.approx(2 / 3)  # without a false alarm: 0.9 and 0.8


def test_all_draws_at_once_are_what_scikit_learn_gives_one_by_one():
    random = np.random.default_rng(1)
    label, score = (random.random(300) < 0.3).astype(int), random.normal(size=300).round(1)  # with ties
    weights = random.integers(0, 3, size=(20, 300))
    drawn = stats.drawn_figures(label, score, expit(score), weights)
    for i, w in enumerate(weights):
        rows = np.repeat(np.arange(300), w)
        own = stats.figures(label[rows], score[rows], expit(score[rows]))
        assert {k: v[i] for k, v in drawn.items()} == pytest.approx(own)


def test_a_draw_without_one_of_the_classes_has_no_auc():
    drawn = stats.drawn_figures(np.array([0, 1]), np.array([0.0, 1]), np.array([0.1, 0.9]), np.eye(2))
    assert np.isnan(drawn["auc"]).all() and np.isnan(drawn["sensitivity_at_90"]).all()


def test_people_are_drawn_with_all_their_slices():
    person = np.repeat(["a", "b", "c"], [5, 1, 3])
    weights = intervals.patient_draws(person, 200)
    for p in "abc":
        assert (weights[:, person == p] == weights[:, person == p][:, :1]).all()
    firsts = weights[:, [0, 5, 6]]
    assert (firsts.sum(1) == 3).all() and len(np.unique(firsts, axis=0)) > 5


def test_the_number_of_patients_needed_follows_the_normal_theory():
    drawn = np.random.default_rng(0).normal(0.02, 0.02, size=20000)
    needed = stats.patients_needed(16, 0.02, drawn)
    assert needed["half_the_time"] == pytest.approx(16 * 1.96**2, abs=2)
    assert needed["in_80_of_100"] == pytest.approx(16 * 2.80**2, abs=4)
    assert stats.patients_needed(16, 0.0, drawn) == {"half_the_time": None, "in_80_of_100": None}


def test_disagreements_say_who_is_right():
    label = np.array([1, 1, 0, 0, 1])
    one, other = np.array([0.9, 0.9, 0.1, 0.9, 0.2]), np.array([0.9, 0.2, 0.7, 0.2, 0.1])
    d = stats.disagreement(label, one, other, np.array(["a", "a", "a", "b", "b"]))
    assert d["one_right"] == {"all": 2, "tumour": 1} and d["other_right"] == {"all": 1, "tumour": 0}
    assert (d["both_right"], d["both_wrong"]) == (1, 1)
    assert (d["patients_one_better"], d["patients_other_better"]) == (1, 1)
    assert d["p"] == 1.0


def test_the_rollup_counts_tumour_free_patients():
    label, person = np.array([1, 0, 0, 0]), np.array(["a", "a", "b", "b"])
    assert stats.patient_rollup(label, np.array([0.4, 0.6, 0.1, 0.7]), person) == {
        "patients": 2, "tumour_free": 1, "found": 1, "false_alarms": 1, "auc": 0.0,
    }  # fmt: skip
    everyone = stats.patient_rollup(label[:2], np.array([0.4, 0.6]), person[:2])
    assert everyone["tumour_free"] == 0 and everyone["auc"] is None


def test_a_contrast_is_found_where_there_is_one_and_not_where_there_is_none(analysis):
    there, none = (analysis.contrast(*pair) for pair in analysis.results["config"]["contrasts"])
    assert there["excludes_0"] and there["difference"] > 0.1 and there["within"]["one_better"] == 11
    assert not none["excludes_0"] and none["difference"] == 0 and none["half_the_time"] is None


def test_only_the_seeds_that_both_arms_have_are_compared():
    results = made_up()
    scores = results["scores"]
    scores["manual-concat-gop3"] = {"1": scores["prob-concat-gop3"]["1"]}  # the same weights, under another name
    scores["prob-concat-gop3"]["0"] = scores["none-concat-gop3"]["0"][::-1]
    contrast = analysing.Analysis(results, draws=50).contrast("manual-concat-gop3", "prob-concat-gop3")
    assert (contrast["seeds"], contrast["difference"], contrast["interval"]) == (1, 0, [0, 0])


def test_the_slices_that_one_arm_alone_has_right_are_listed(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(made_up()))
    lists = tmp_path / "lists.csv"
    study.compare("prob-concat-gop3", "binary-concat-gop3", results=str(tmp_path), lists=str(lists))
    counts = json.loads(capsys.readouterr().out)["slices"]
    right = [line.rpartition(",")[2] for line in lists.read_text().splitlines()[1:]]
    assert 0 < right.count("one") == counts["one_right"]["all"]
    assert right.count("other") == counts["other_right"]["all"]


def test_calibration_of_a_fold_never_sees_its_labels(analysis):
    label, raw = analysis.labels[3], analysis.raw("prob-concat-gop3")[0]
    before = analysing.cross_fitted(label, raw, analysis.fold, analysing.calibrate)
    turned = np.where(analysis.fold == 1, 1 - label, label)
    after = analysing.cross_fitted(turned, raw, analysis.fold, analysing.calibrate)
    np.testing.assert_array_equal(before[analysis.fold == 1], after[analysis.fold == 1])
    assert not np.allclose(before[analysis.fold == 0], after[analysis.fold == 0])


def test_temperature_is_found_and_lowers_the_calibration_error():
    random = np.random.default_rng(0)
    true = random.normal(0, 3, size=200_000)
    liver = random.random(len(true)) < expit(true)
    bins = np.clip(np.digitize(2 * true, mask_figures.EDGES) - 1, 0, len(mask_figures.CENTRES) - 1)  # twice too sure
    counts = np.stack(
        [np.bincount(bins[m], minlength=len(mask_figures.CENTRES)) for m in (~liver, liver, ~liver & liver)]
    )
    assert mask_figures.fit_temperature(counts) == pytest.approx(2, abs=0.1)
    hits, total = counts[1:].sum(0), counts.sum(0)
    after = mask_figures.reliability(expit(mask_figures.CENTRES / 2), hits, total)
    assert mask_figures.mask_figures(counts)["reliability"]["ece"] > 0.05 > 0.01 > after["ece"]


def test_a_fold_s_temperature_is_fitted_on_the_other_folds(tmp_path):
    for fold, gain in ((0, 1), (1, 3)):
        truth = (1000 * expit(mask_figures.CENTRES / gain)).astype(int)
        counts = np.stack([1000 - truth, truth, 0 * truth])[:, 32:96]
        counts = np.pad(counts, ((0, 0), (32, 32)))
        write_json(tmp_path / f"fold-{fold}" / "histograms.json", {f"volume-{fold}": counts.tolist()})
    fitted = mask_steps.temperatures(tmp_path)
    assert fitted["0"] == pytest.approx(3, abs=0.1) and fitted["1"] == pytest.approx(1, abs=0.05)


def test_reliability_of_counts_by_hand():
    r = mask_figures.reliability(np.array([0.1, 0.1, 0.9]), np.array([1.0, 0, 8]), np.array([5.0, 5, 10]), bins=2)
    assert r["observed"] == [0.1, 0.8] and r["share"] == [0.5, 0.5] and r["ece"] == pytest.approx(0.05)


def test_the_report_is_made_from_the_file_of_numbers_alone(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(made_up()))
    study.report(str(folder))
    text = (folder / "study.md").read_text()
    assert "prob-concat-gop3 minus binary-concat-gop3: +0.2" in text and "The interval excludes 0" in text
    assert "The interval holds 0" in text and "1 of the 12 patient groups are tumour-free" in text
    assert "60.0 % lies under the binary mask; the Prob-Mask keeps 80.0 %" in text
    for name in plots.PLOTS:
        assert f"]({name}.png)" in text and (folder / f"{name}.png").stat().st_size > 5000


def test_what_is_written_around_the_tables_stays(tmp_path):
    text = tmp_path / "study.md"
    text.write_text(f"# Question\n{reporting.START}\nstale\n{writing.END}\nDiscussion\n")
    reporting.write_report(made_up(), tmp_path / "plots", text, draws=50)
    now = text.read_text()
    assert now.startswith("# Question\n") and now.endswith("\nDiscussion\n") and "stale" not in now
    assert "](plots/roc.png)" in now


def test_the_committed_report_is_that_of_the_committed_results(tmp_path):
    """docs/experiment.md follows docs/experiment/: the same tables come out again."""
    folder = tmp_path / "experiment"
    shutil.copytree(ROOT / "docs" / "experiment", folder, ignore=shutil.ignore_patterns("*.png"))
    text = tmp_path / "experiment.md"
    pages.write_page(folder, text)
    block = lambda s, start: s.split(start)[1].split(writing.END)[0]  # noqa: E731
    committed = (ROOT / "docs" / "experiment.md").read_text()
    made = [reporting.START]
    made += [report_parts.JUDGED] if (folder / "judged" / "results.json").exists() else []
    made += [report_parts.CALIBRATED] if (folder / "calibration.json").exists() else []
    for start in made:
        assert block(text.read_text(), start) == block(committed, start)


# ------------------------------------------------------------------------------------------------------- the config


def test_lists_in_an_arm_are_combined_in_all_ways():
    arms = arms_config.expand({"mask_source": ["prob", "none"], "combine": ["concat", "multiply"], "gop": [1, 3, 5]})
    names = [arms_config.name_of(a) for a in arms]
    assert len(names) == len(set(names)) == 12 and "none-multiply-gop5" in names


def test_the_shipped_config_names_every_contrasted_arm():
    config = json.loads((ROOT / "scripts" / "study.json").read_text())
    arms = {arms_config.name_of(a): a for entry in config["arms"] for a in arms_config.expand(entry)}
    assert {name for pair in config["contrasts"] for name in pair} <= set(arms)
    main = [f"{m}-concat-gop3" for m in ("manual", "prob", "binary", "none")]
    assert all(len(arms[name]["seeds"]) >= 3 for name in main)
    assert {a["mask_source"] for a in arms.values()} == {"manual", "prob", "binary", "none", "temperature", "dilated"}


BASE = {"output": "out", "reference": "prob-concat-gop3", "contrasts": [["prob-concat-gop3", "prob-concat-gop3"]]}
ONE = {"arms": [{}], "folds": 2, "epochs": 1, "stage1_epochs": 1}
TWICE = {"arms": [{"mask_source": ["prob", "none"]}, {"mask_source": "prob", "gop": [1, 3]}]}


@pytest.mark.parametrize(
    "content, cause",
    [
        (None, "Expecting value"),
        ([], "indices"),
        ({}, "output"),
        ({**BASE}, "arms"),
        ({**BASE, **TWICE}, "several arms are called prob-concat-gop3"),
        ({**BASE, "arms": [{"mask_source": "none"}]}, "no arm is called prob-concat-gop3"),
        ({**BASE, "arms": [{}, {"name": "tuned", "from": "gone"}]}, "no arm is called gone"),
        ({**BASE, "arms": [{}, {"name": "tuned", "from": "prob-concat-gop3", "seeds": [1]}]}, "arm tuned has seeds"),
        ({**BASE, "arms": [{}, {"masks": "other"}]}, "which are not among the masks"),
        ({**BASE, "arms": [{}], "contrasts": []}, "no contrasts"),
        ({**BASE, **ONE, "heldout": ["btcv"]}, "the experiment has no heldout; did you mean held_out"),
        ({**BASE, **ONE, "arms": [{"lerning_rate": 1}]}, "has no lerning_rate; did you mean learning_rate"),
        ({**BASE, **ONE, "masks": {"new": {"epoch": 1}}}, "masks new has no epoch; did you mean epochs"),
        ({**BASE, **ONE, "folds": "2"}, "folds is '2', not a number from 2"),
        ({**BASE, **ONE, "arms": [{}, {"mask_source": "porb"}]}, "mask_source is none of prob, binary"),
    ],
)
def test_a_config_that_cannot_be_used_gives_one_line(tmp_path, content, cause):
    (tmp_path / "datalist.json").write_text('{"training": []}')
    config = tmp_path / "study.json"
    config.write_text("" if content is None else json.dumps({"datalist": str(tmp_path / "datalist.json"), **content})
                      if content else json.dumps(content))  # fmt: skip
    with pytest.raises(
        SystemExit, match=rf"^ERROR .*study.json: .*{cause}.* [Gg]ive a JSON file like scripts/study.json\.$"
    ):
        study.run(str(config))


def test_a_datalist_that_is_not_there_is_named(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({**BASE, "datalist": str(tmp_path / "missing.json")}))
    with pytest.raises(SystemExit, match=r"^ERROR .*missing.json: cannot be read as JSON \(.*No such file"):
        study.run(str(tmp_path / "study.json"), output=str(tmp_path / "out"))


def test_results_that_are_not_there_give_one_line(tmp_path):
    for call in (lambda: study.report(str(tmp_path)), lambda: study.compare("a", "b", str(tmp_path))):
        with pytest.raises(SystemExit, match=r"^ERROR .*results.json: .* Give the folder of a finished experiment"):
            call()


def test_a_second_run_of_the_same_study_is_refused(tmp_path):
    with (
        claims.alone_in(tmp_path),
        pytest.raises(StudyError, match="another run is at work there"),
        claims.alone_in(tmp_path),
    ):
        pass
    with claims.alone_in(tmp_path):
        pass


# ------------------------------------------------------------------------------------------- a study on phantoms

# in a few steps an average hardly leaves the random start: keep the last weights, and take enough of them to learn
# and have a network of their own, which whatever makes or reads the masks has to know of
STAGE1 = {"ema_momentum": 0.999, "ema_warmup": 0.999, "volume_repeats": 16, "network_def#filters": [16] * 5 + [24]}
ARMS = [
    {"mask_source": "prob", "seeds": [0]},
    {"mask_source": "temperature"},
    {"name": "early-stop", "mask_source": "dilated", "gop": 1, "inner_groups": 1, "patience": 1, "val_interval": 1},
    {"seen": True, "mask_source": "binary"},
    {"name": "without-leaks", "weights": "prob-concat-gop3", "repair": "leaks"},
    {"name": "end-to-end", "from": "prob-concat-gop3", "epochs": 1, "anchor_weight": 0, "weight_decay": 0},
]


@pytest.fixture(scope="module")
def config(lists, tmp_path_factory) -> Path:
    """A small study's config."""
    folder = tmp_path_factory.mktemp("study")
    everybody = json.loads(lists.read_text())
    for entry in (*everybody["training"], *everybody["training_slices"]):
        entry |= {key: str(lists.parent / entry[key]) for key in ("image", "label")}
    everybody["training_slices"][0] |= {"group": "volume-9", "tumour_present": 1, "tumour_label": False}
    (folder / "datalist.json").write_text(json.dumps({**everybody, "test": []}))
    content = {
        "datalist": str(folder / "datalist.json"), "output": str(folder / "out"), "folds": 2,
        "stage1_epochs": 1, "epochs": 1, "workers": 1, "masks": {"shipped": STAGE1},
        "reference": "prob-concat-gop3", "arms": ARMS,
        "contrasts": [["prob-concat-gop3", "temperature-concat-gop3"], ["end-to-end", "prob-concat-gop3"],
                      ["early-stop", "prob-concat-gop3"]],
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(content))
    return folder / "study.json"


@pytest.fixture(scope="module")
def done(config, bundles) -> Path:
    """The study, whose first arm was run before by itself."""
    words = {"seg_bundle": str(bundles / "liver_seg"), "cls_bundle": str(bundles / "liver_cls")}
    study.run(str(config), arms="prob-concat-gop3", **words)
    out = config.parent / "out"
    first = out / "arms" / "prob-concat-gop3" / "seed-0" / "fold-0" / "model.pt"
    stamp = first.stat().st_mtime_ns
    assert not (out / "results.json").exists()
    second = first.parents[1] / "fold-1"  # as a kill in its last epoch leaves it
    (second / "model.pt").unlink()
    shutil.rmtree(second / "metrics")
    study.run(str(config), **words)
    assert first.stat().st_mtime_ns == stamp  # what was done is left
    assert (second / "metrics" / "slices.csv").exists()
    return out


def groups(path: Path, section: str = "training") -> set[str]:
    return {entry["group"] for entry in json.loads(path.read_text())[section]}


def shipped_mask(done: Path, entry: dict) -> str:
    listed = json.loads((done / "masks" / "shipped" / "datalist_prob.json").read_text())
    everybody = listed["training"] + listed["training_slices"]
    return next(e["prob"] for e in everybody if e["case_id"] == entry["case_id"])


@pytest.mark.slow
class TestStudy:
    def test_no_arm_is_judged_by_people_it_has_seen(self, done):
        fold_of = json.loads((done / "masks" / "shipped" / "folds.json").read_text())
        for arm in (done / "arms").iterdir():
            for fold in (0, 1):
                work = arm / "seed-0" / f"fold-{fold}"
                held = {group for group, own in fold_of.items() if own == fold}
                assert groups(work / "metrics" / "held_out.json", "validation") == held
                if arm.name == "without-leaks":
                    continue
                seen = groups(work / "datalist.json")
                assert seen and not seen & held
                if arm.name == "early-stop":  # its validation comes from the training fold
                    inner = groups(work / "datalist.json", "validation")
                    assert len(inner) == 1 and not inner & (seen | held)

    def test_results_hold_every_slice_with_its_label(self, done, lists):
        results = json.loads((done / "results.json").read_text())
        own = {"prob-concat-gop3", "temperature-concat-gop3", "early-stop", "without-leaks", "end-to-end"}
        own.add("seen-binary-concat-gop3")
        assert set(results["scores"]) == own
        case, index = results["slices"]["case"], results["slices"]["slice"]
        for entry in json.loads(lists.read_text())["training"]:
            tumour = (np.asanyarray(nib.load(lists.parent / entry["label"]).dataobj) == 2).any((0, 1))
            own = [i for i, c in enumerate(case) if c == entry["case_id"]]
            assert own and [results["labels"]["1"][i] for i in own] == [int(tumour[index[i]]) for i in own]
        under = results["slices"]["binary"]
        assert all(0 <= u <= t + 0.1 for u, t in zip(under, results["slices"]["tumour"]))

    def test_an_isolated_slice_of_somebody_without_a_volume_is_a_part_of_its_own(self, done):
        slices = json.loads((done / "results.json").read_text())["slices"]
        lone = [i for i, part in enumerate(slices["set"]) if part == collecting.SETS[1]]
        assert [slices["person"][i] for i in lone] == ["volume-9"]
        assert set(slices["set"]) == set(collecting.SETS[:2])
        assert "## Slices of people outside the volumes" in (done / "study.md").read_text()

    def test_an_arm_may_learn_from_masks_of_people_stage_1_has_seen(self, done):
        for fold in (0, 1):
            work = done / "arms" / "seen-binary-concat-gop3" / "seed-0" / f"fold-{fold}"
            learned = json.loads((work / "datalist.json").read_text())["training"]
            assert learned and all(f"masks/shipped/seen/fold-{fold}/" in e["prob"] for e in learned)
            judged = json.loads((work / "metrics" / "held_out.json").read_text())["validation"]
            assert judged and all("masks/shipped/prob/" in e["prob"] for e in judged)

    def test_the_temperature_masks_are_the_masks_tempered(self, done):
        results = json.loads((done / "results.json").read_text())
        fold_of = json.loads((done / "masks" / "shipped" / "folds.json").read_text())
        entry = json.loads((done / "masks" / "temperature" / "datalist_prob.json").read_text())["training"][0]
        temperature = results["temperatures"][str(fold_of[entry["group"]])]
        hot = nib.load(entry["prob"]).get_fdata()
        plain = nib.load(entry["prob"].replace("temperature", "shipped")).get_fdata()
        assert 0.3 < temperature < 8 and temperature != 1  # found, not cut off by the search's bounds
        assert not np.array_equal(hot, plain)
        assert np.corrcoef(hot.ravel(), plain.ravel())[0, 1] > 0.99
        work = done / "arms" / "temperature-concat-gop3" / "seed-0" / "fold-0"
        listed = json.loads((work / "datalist.json").read_text())["training"]
        assert all("masks/temperature/" in e["prob"] for e in listed)

    def test_another_mask_is_judged_with_the_weights_of_the_arm_it_names(self, done):
        work = done / "arms" / "without-leaks" / "seed-0" / "fold-0"
        first = done / "arms" / "prob-concat-gop3" / "seed-0" / "fold-0" / "model.pt"
        assert (work / "model.pt").read_bytes() == first.read_bytes()
        for entry in json.loads((work / "metrics" / "held_out.json").read_text())["validation"]:
            prob, plain = (nib.load(p).get_fdata() for p in (entry["prob"], shipped_mask(done, entry)))
            liver = np.asanyarray(nib.load(entry["label"]).dataobj) > 0
            assert not prob[~liver].any() and plain[~liver].any()
            np.testing.assert_allclose(prob[liver], plain[liver], atol=1e-6)

    def test_the_tumour_loss_reaches_the_segmenter(self, done):
        for fold in (0, 1):
            work = done / "arms" / "end-to-end" / "seed-0" / f"fold-{fold}"
            before = torch.load(done / "masks" / "shipped" / f"fold-{fold}" / "model.pt", weights_only=True)
            after = torch.load(work / "seg.pt", weights_only=True)
            assert before.keys() == after.keys()
            assert any(not torch.equal(before[k], after[k]) for k in before if k.endswith("conv.weight"))
            assert all(torch.equal(before[k], after[k]) for k in before if "running" in k)  # batch norm as trained
            assert list((work / "prob").rglob("*_prob.nii.gz")) and (work / "liver" / "val_mean_dice_raw.csv").exists()

    def test_the_report_names_every_arm(self, done):
        text = (done / "study.md").read_text()
        assert all(f"| {arm} |" in text for arm in ("prob-concat-gop3", "early-stop", "end-to-end"))
        assert "nan" not in text.split("## End to end")[1]

    def test_a_folder_of_other_knobs_is_never_taken_for_an_arms_own(self, done, config, bundles, tmp_path, capsys):
        changed = json.loads(config.read_text())
        changed["arms"][0]["pos_weight"] = 7
        other = tmp_path / "study.json"
        other.write_text(json.dumps(changed))
        with pytest.raises(SystemExit, match="train_arm: parts failed"):
            study.run(str(other), arms="prob-concat-gop3", seg_bundle=str(bundles / "liver_seg"),
                      cls_bundle=str(bundles / "liver_cls"))  # fmt: skip
        assert "made with other settings" in capsys.readouterr().err

    def test_two_arms_are_compared_in_numbers_and_on_a_sheet(self, done, config, tmp_path, capsys):
        results = json.loads((done / "results.json").read_text())
        scores = [float(label) for label in results["labels"]["3"]]  # one sees all, one misses some: they do disagree
        results["scores"]["prob-concat-gop3"]["0"] = scores
        results["scores"]["temperature-concat-gop3"]["0"] = [s if i % 3 else 0.0 for i, s in enumerate(scores)]
        (tmp_path / "results.json").write_text(json.dumps(results))
        arms = ("prob-concat-gop3", "temperature-concat-gop3")
        study.compare(*arms, results=str(tmp_path), sheet=str(tmp_path / "s.png"), config=str(config))
        printed = json.loads(capsys.readouterr().out)
        slices = printed["slices"]
        kinds = (slices["one_right"]["all"], slices["other_right"]["all"], slices["both_right"], slices["both_wrong"])
        volumes = results["slices"]["set"].count(collecting.SETS[0])  # isolated slices are judged apart
        assert sum(kinds) == volumes and printed["interval"][0] <= printed["difference"] <= printed["interval"][1]
        assert (tmp_path / "s.png").stat().st_size > 20_000
        with pytest.raises(SystemExit, match="no such arm. Choose of prob-concat-gop3"):
            study.compare("prob", "binary", results=str(tmp_path))


def test_both_stages_go_on_with_the_settings_and_weights_that_they_began_with_alone(bundles, lists, tmp_path):
    def settings(**knobs) -> dict:
        parser = ConfigParser()
        parser.read_config([bundles / "liver_cls" / "configs" / "train.json", end_to_end.OVERLAY])
        for name in ("seg.pt", "cls.pt"):
            (tmp_path / name).touch()
        places = {"seg_ckpt": str(tmp_path / "seg.pt"), "ckpt_path": str(tmp_path / "cls.pt")}
        parser.update({"bundle_root": str(bundles / "liver_cls"), "datalist_file": str(lists), **places, **knobs})
        return parser.get_parsed_content("resume#settings").values

    bundle_module("cls", "resuming")
    (tmp_path / "other.pt").write_bytes(b"1")
    begun = settings()
    for knob, value in (("seg_learning_rate", 0), ("anchor_weight", 2.0), ("seg_ckpt", str(tmp_path / "other.pt"))):
        assert {key for key, now in settings(**{knob: value}).items() if now != begun[key]} == {knob}
    (tmp_path / "cls.pt").unlink()
    assert settings(ckpt_path=str(tmp_path / "other.pt"))["init_path"] != begun["init_path"]


def test_the_anchor_keeps_the_mask_a_mask():
    lesions, tumour = torch.zeros(2, 1, 4, 4, requires_grad=True), torch.zeros(2, 1, 4, 4)
    prob = torch.full((1, 4, 4, 2), 0.5, requires_grad=True)
    loss = end_to_end.AnchoredLoss(lambda p, t: (p - t).pow(2).mean(), anchor_weight=2.0)
    value = loss({"lesions": lesions, "tumour": tumour, "prob": prob, "liver": torch.ones(1, 4, 4, 2)})
    value.backward()
    assert value.item() == pytest.approx(2 * math.log(2)) and (prob.grad < 0).all()
