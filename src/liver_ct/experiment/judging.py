"""Weights of stage 2 that exist already, judged through one mask after another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from liver_ct.chain.stages import load_weights, read_bundle
from liver_ct.errors import StudyError, describe
from liver_ct.experiment.collecting import read_results, set_of
from liver_ct.experiment.config import MASKS
from liver_ct.files import read_json, sha256, write_json
from liver_ct.training.claims import claim, is_claimed, recipe_of
from liver_ct.training.cross_validation import SECTIONS, known_tumour
from liver_ct.training.datalists import Entry, read_lists

FROM_PROB = ("prob", "binary", "dilated")
JUDGE_TEST = "To judge those, list them under validation instead."
COLUMNS = ("case", "slice", "person", "fold", "source", "set")  # of each slice
Rows = dict[str, list[Any]]


class Judge:
    """Stage 2 with some weights, which looks at each CT through several masks, reading it once.

    ``evaluate.json`` would read each CT again for each mask, which takes longer than all the rest.

    Args:
        bundle: a classification bundle with the ids of bundles/liver_cls.
        arms: by name, the value of its knob ``mask_source`` that is looked through, and the weights.
        knobs: further knobs of its train.json.

    Raises:
        StudyError: weights that cannot be used.
    """

    def __init__(self, bundle: Path, arms: Mapping[str, tuple[str, Path]], knobs: Mapping[str, Any]) -> None:
        read_bundle(bundle)  # so that its own transforms can be imported
        configs = {name: self._config(bundle, mask, knobs) for name, (mask, _) in arms.items()}
        config = configs[next((name for name, (mask, _) in arms.items() if mask in FROM_PROB), next(iter(arms)))]
        self.load = Compose(split(config)[0])
        self.finish = {
            name: Compose([*split(own)[1], own.get_parsed_content("combine_mask")]) for name, own in configs.items()
        }
        cpu = torch.device("cpu")
        self.networks = {
            name: load_weights(own.get_parsed_content("network"), arms[name][1], cpu).eval()
            for name, own in configs.items()
        }
        self.inferer = config.get_parsed_content("validate#inferer")
        self.score = Compose(config.get_parsed_content("validate#postprocessing").transforms[:-1])  # the sigmoid

    @staticmethod
    def _config(bundle: Path, mask: str, knobs: Mapping[str, Any]) -> ConfigParser:
        config = ConfigParser()
        config.read_config(str(bundle / "configs" / "train.json"))
        fixed = {"bundle_root": str(bundle), "device": "$torch.device('cpu')", "calibration": [1.0, 0.0]}
        config.update({**fixed, **knobs, "mask_source": mask})
        return config

    def rows(self, entry: Entry) -> Rows:
        """Slices of a case: ``slice`` (index), ``label`` (0, 1, or -1, unknown) and a logit for each arm."""
        loaded = self.load(dict(entry))
        rows: Rows = {}
        for name, finish in self.finish.items():
            item = finish(dict(loaded))
            with torch.inference_mode():
                item["pred"] = self.inferer(item["image"][None], self.networks[name])[0]
                logits = torch.as_tensor(self.score(item)["pred"]).flatten().tolist()
            rows["slice"] = np.asarray(item["slices"]).flatten().astype(int).tolist()
            rows["label"] = np.asarray(item["label"]).flatten().astype(int).tolist()
            rows[name] = [round(v, 4) for v in logits]
        return rows


def split(config: ConfigParser) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
    """The bundle's transforms before the mask is chosen, and those from there on; raises StudyError."""
    transforms = config.get_parsed_content("deterministic_transforms")
    names = [type(transform).__name__ for transform in transforms]
    if "SelectMaskd" not in names:
        raise StudyError(f"{config.get('bundle_root')}: its deterministic_transforms choose no mask (SelectMaskd).")
    at = names.index("SelectMaskd")
    return transforms[:at], transforms[at:]


def judge(
    bundle: Path,
    weights: Sequence[Path],
    datalist: Path,
    output: Path,
    masks: Sequence[str] = MASKS,
    volumes: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
    names: Sequence[str] | None = None,
    note: Callable[[str], None] = lambda _: None,
    **knobs: Any,
) -> dict[str, Any]:
    """Judge weights on people they have not seen, through each mask; write and return ``output/results.json``.

    It is what ``collecting.collect`` writes of an experiment with an arm of each name. Each case is kept in
    ``output/cases``, so that a killed run goes on at the next one.

    Args:
        bundle: a classification bundle.
        weights: of stage 2, one for all masks or one for each; who they have learned from is not known here.
        datalist: whose cases with known tumours are judged, all sections but ``test``; with a ``prob`` each.
        output: folder for the above.
        masks: values of ``mask_source``.
        volumes: a datalist that names everybody who has a whole volume; default ``datalist``.
        report: is told of each case that cannot be used, in one line; it stops no other, and is not in the results.
        names: of the arms, one for each mask, which may then be there twice; default the masks. The first is the
            reference.
        note: is told, in one line, of cases in ``test``, which are not judged.
        knobs: further knobs of the bundle's train.json.

    Raises:
        StudyError: no case is left, ``output`` holds another judgement, or neither one nor as many weights as masks.
    """
    if "mask_source" in knobs:
        raise StudyError(f"--mask_source {knobs['mask_source']}: a judge looks through --masks. Name it there.")
    arms = named(weights, masks, names or masks)
    cases = judged_cases(datalist, masks)
    if test := known_tumour(datalist, "test"):
        note(f"{datalist}: {len(test)} cases in its section test are not judged. {JUDGE_TEST}")
    lists = read_lists((volumes or datalist).resolve())
    whole = {e["group"] for e in lists["training"] + lists["test"]}
    hashes = [sha256(file) for _, file in arms.values()]
    made_with = hashes[0] if len(set(hashes)) == 1 else hashes
    looked_through = {name: mask for name, (mask, _) in arms.items()}
    recipe = recipe_of(bundle, cases, weights=made_with, masks=looked_through, **knobs)
    ready = None if is_claimed(output, recipe) else Judge(bundle, arms, knobs)  # fails before anything is claimed
    claim(output, recipe)
    table: Rows = {name: [] for name in (*COLUMNS, "label", *arms)}
    for entry, rows in judged_rows(cases, lambda: ready or Judge(bundle, arms, knobs), output / "cases", report):
        add_rows(table, entry, rows, list(arms), whole)
    if not table["case"]:
        raise StudyError(f"{datalist}: no case could be judged. Check its images, labels and Prob-Masks.")
    gop = int(knobs.get("gop", read_json(bundle / "configs" / "train.json")["gop"]))
    results = as_results(table, looked_through, gop, made_with)
    write_json(output / "results.json", results, indent=None)
    return results


def named(weights: Sequence[Path], masks: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, Path]]:
    """Mask and weights of each arm by its name; raises StudyError where their numbers do not fit."""
    unknown = sorted({*masks} - {*MASKS})
    if unknown:
        raise StudyError(f"--masks {','.join(masks)}: {unknown[0]!r} is unknown. Choose of {', '.join(MASKS)}.")
    if len(weights) not in (1, len(masks)):
        raise StudyError(f"--weights: {len(weights)} for {len(masks)} masks. Give one for all, or one for each.")
    if len(names) != len(masks):
        raise StudyError(f"--names: {len(names)} for {len(masks)} masks. Give one for each.")
    taken = set(names) & {*COLUMNS, "label"}
    if taken:
        raise StudyError(f"--names {','.join(names)}: {taken.pop()} is no name for an arm. Choose another.")
    if len(set(names)) != len(names):
        option = "masks" if list(names) == list(masks) else "names"
        raise StudyError(f"--{option} {','.join(names)}: one is there twice. Name each once.")
    return dict(zip(names, zip(masks, itertools.cycle(weights))))


def pool(folders: Sequence[Path], output: Path, together: bool = False, arms: Sequence[str] = ()) -> dict[str, Any]:
    """Bring judgements of different people, as of two folds, into one; write and return ``output/results.json``.

    Judgements of the very same slices are seeds: networks that differ in their luck alone; figures are means over them.

    Args:
        folders: outputs of ``judge`` with arms of the same names, each with the weights of its fold, or its seed.
        output: folder of the pooled results.
        together: seeds also make an arm ARM-together, the mean of their logits: what several networks give at once.
        arms: of each, these alone; default all.

    Raises:
        StudyError: fewer than two, no such arm, other arms, or a person who is in two of them, but not all slices;
            seeds of the same weights.
    """
    if len(folders) < 2:
        raise StudyError(f"--results {','.join(map(str, folders))}: one judgement is no pool. Name two or more.")
    read = [read_results(folder) for folder in folders]
    read = [of_arms(folder, results, arms) if arms else results for folder, results in zip(folders, read)]
    check_same_arms(folders, read)
    alike = all(r["slices"] == read[0]["slices"] and r["labels"] == read[0]["labels"] for r in read)
    if together and not alike:
        cause = "these are judgements of different people, each by one network"
        raise StudyError(f"--together: {cause}. Pool the folds of each seed first, then the seeds.")
    results = as_seeds(folders, read) if alike else as_folds(folders, read)
    if together:
        add_together(results)
    write_json(output / "results.json", results, indent=None)
    return results


def of_arms(folder: Path, results: dict[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    """A judgement with some of its arms alone; raises StudyError where it lacks one."""
    for arm in arms:
        if arm not in results["scores"]:
            raise StudyError(f"{folder}: has no arm {arm}. Choose of {', '.join(results['scores'])}.")
    contrasts = [pair for pair in results["config"]["contrasts"] if set(pair) <= set(arms)]
    config = {**results["config"], "reference": arms[0], "contrasts": contrasts}
    kept = {part: {arm: results[part][arm] for arm in arms} for part in ("arms", "scores")}
    return {**results, **kept, "config": config}


def check_same_arms(folders: Sequence[Path], read: Sequence[dict[str, Any]]) -> None:
    """Raise StudyError unless all are judgements with the same arms."""
    first = read[0]
    for folder, results in zip(folders, read):
        if "weights" not in results:
            raise StudyError(f"{folder}: holds no judgement. Give folders that study.py judge wrote.")
        if results["arms"] != first["arms"] or results["config"] != first["config"]:
            raise StudyError(f"{folder}: other arms than {folders[0]}. Give judgements with the same masks and names.")
        if any(len(seeds) > 1 for seeds in results["scores"].values()):
            raise StudyError(
                f"{folder}: holds several seeds already. Pool the folds of each seed first, then the seeds."
            )


def as_seeds(folders: Sequence[Path], read: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Judgements of the same slices as seeds of each arm; raises StudyError where two are of the same weights."""
    weights = [json.dumps(r["weights"]) for r in read]
    if len(set(weights)) < len(weights):
        named = ",".join(map(str, folders))
        raise StudyError(f"--results {named}: two are of the same weights and slices. Name each judgement once.")
    scores = {arm: [r["scores"][arm]["0"] for r in read] for arm in read[0]["arms"]}
    seeds = {arm: {str(seed): logits for seed, logits in enumerate(each)} for arm, each in scores.items()}
    return {**read[0], "weights": [r["weights"] for r in read], "scores": seeds}


def add_together(results: dict[str, Any]) -> None:
    """To each arm one of its networks together: the mean of their logits, the same with every seed, against them."""
    first, *others = results["arms"]
    contrasts = [[f"{arm}-together", arm] for arm in (first, *others)]
    contrasts += [[f"{first}-together", f"{other}-together"] for other in others]
    for arm in (first, *others):
        seeds = results["scores"][arm]
        mean = np.mean(list(seeds.values()), axis=0).round(4).tolist()
        results["arms"][f"{arm}-together"] = results["arms"][arm]
        results["scores"][f"{arm}-together"] = dict.fromkeys(seeds, mean)
    results["config"] = {**results["config"], "contrasts": results["config"]["contrasts"] + contrasts}


def as_folds(folders: Sequence[Path], read: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Judgements of different people, each a fold; raises StudyError for a person who is in two of them."""
    first, seen = read[0], dict[str, Path]()
    for folder, results in zip(folders, read):
        people = set(results["slices"]["person"])
        both = sorted(people & seen.keys())
        if both:
            raise StudyError(f"{folder}: {both[0]} is in {seen[both[0]]}, too. Give judgements of other people.")
        seen |= dict.fromkeys(people, folder)
    slices = {name: joined([r["slices"][name] for r in read]) for name in COLUMNS}
    slices["fold"] = joined([[str(k)] * len(r["slices"]["case"]) for k, r in enumerate(read)])
    return {
        "weights": [r["weights"] for r in read],
        "config": {**first["config"], "folds": len(read)},
        "arms": first["arms"],
        "slices": slices,
        "labels": {gop: joined([r["labels"][gop] for r in read]) for gop in first["labels"]},
        "scores": {arm: {"0": joined([r["scores"][arm]["0"] for r in read])} for arm in first["arms"]},
    }


def joined(columns: Sequence[list[Any]]) -> list[Any]:
    """One list after the other."""
    return list(itertools.chain.from_iterable(columns))


def judged_cases(datalist: Path, masks: Sequence[str]) -> list[Entry]:
    """The cases of a datalist whose tumours are known; raises StudyError where there is none, or no Prob-Mask."""
    cases = known_tumour(datalist, *SECTIONS)
    if not cases:
        cause = "lists nobody outside its section test whose tumours are known"
        raise StudyError(f"{datalist}: {cause}. Give a datalist of lits or prob_masks. {JUDGE_TEST}")
    lacking = [entry["case_id"] for entry in cases if "prob" not in entry]
    if lacking and set(masks) & set(FROM_PROB):
        raise StudyError(
            f"{datalist}: {lacking[0]} has no prob. Give the list that prob_masks wrote, or --masks manual,none."
        )
    return cases


def judged_rows(
    cases: Sequence[Entry], make: Callable[[], Judge], folder: Path, report: Callable[[str], None]
) -> Iterator[tuple[Entry, Rows]]:
    """Each case with its rows, from ``folder`` where they are there."""
    ready: Judge | None = None
    for entry in cases:
        file = folder / f"{entry['case_id']}.json"
        if not file.exists():
            ready = ready or make()
            try:
                write_json(file, ready.rows(entry), indent=None)
            except Exception as e:
                report(describe(e, Path(entry["image"])))
                continue
        yield entry, read_json(file)


def add_rows(table: Rows, entry: Entry, rows: Rows, arms: Sequence[str], whole: set[str]) -> None:
    """Add the slices of a case of which it is known whether they show tumour."""
    isolated = "tumour_present" in entry
    for i, label in enumerate(rows["label"]):
        if label < 0:
            continue
        table["case"].append(entry["case_id"])
        table["slice"].append(rows["slice"][i])
        table["person"].append(entry["group"])
        table["fold"].append("0")  # nobody is judged by two networks of one arm
        table["source"].append(entry.get("source", ""))
        table["set"].append(set_of(isolated, entry["group"] in whole))
        table["label"].append(label)
        for arm in arms:
            table[arm].append(rows[arm][i])


def as_results(table: Rows, masks: Mapping[str, str], gop: int, weights: str | list[str]) -> dict[str, Any]:
    """The table as an experiment's results: an arm for each name, and every other arm against the first."""
    first, *others = masks
    return {
        "weights": weights,
        "config": {"folds": 1, "reference": first, "contrasts": [[first, other] for other in others]},
        "arms": {name: {"mask_source": mask, "gop": gop} for name, mask in masks.items()},
        "slices": {name: table[name] for name in COLUMNS},
        "labels": {str(gop): table["label"]},
        "scores": {name: {"0": table[name]} for name in masks},
    }
