"""What an experiment consists of: its arms, the masks they work with, and where each part lies."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from liver_ct.errors import StudyError
from liver_ct.files import read_json
from liver_ct.training.claims import configs_of
from liver_ct.training.cross_validation import SECTIONS, known_tumour, require_judges, tumour_folds
from liver_ct.training.datalists import Entry, open_data, read_lists
from liver_ct.training.end_to_end import OVERLAY
from liver_ct.training.overlays import with_overlay

DEFAULT_GOP = 3
DEFAULTS = {"mask_source": "prob", "combine": "concat", "gop": DEFAULT_GOP}
SHIPPED = "shipped"  # the Prob-Masks of stage 1 as its bundle is set
SEEN = "seen"  # the Prob-Masks of people whom their stage 1 has learned from
# keys of an arm, and of masks, that are no knobs of the bundle
ARM_OWN = ("name", "seeds", "masks", "inner_groups", "from", "weights", "repair", "overlay", SEEN)
MASKS_OWN = ("folds", "epochs", "overlay")
TOP = (
    "datalist", "output", "folds", "held_out", "stage1_epochs", "epochs", "workers",
    "reference", "masks", "arms", "contrasts",
)  # fmt: skip
MASKS = ("prob", "binary", "dilated", "none", "manual")  # values of stage 2's mask_source
REPAIRS = ("leaks", "gaps")
TEMPERED = "temperature"  # prob at a fitted temperature
Arm = dict[str, Any]


class Experiment:
    """An experiment's config, and where its parts lie under ``output``.

    ``masks/<name>/`` (of prob_masks.py), ``masks/<name>/seen/fold-<k>/``, ``masks/temperature/``,
    ``arms/<name>/seed-<s>/fold-<k>/``, ``bundles/<overlay>/`` and, of packed data, ``data/``.

    Args:
        config: a JSON file like ``study.json``; relative paths in it are from the working directory.
        seg: stage 1's bundle.
        cls: stage 2's bundle.
        changes: entries that replace those of the config, such as ``datalist``; None leaves one.

    Raises:
        StudyError: a config that cannot be used.
    """

    def __init__(self, config: str | Path, seg: str | Path, cls: str | Path, **changes: Any) -> None:
        self.file, self.seg, self.cls = Path(config), Path(seg).resolve(), Path(cls).resolve()
        try:
            self.config = read_json(self.file)
            self.output = Path(changes.get("output") or self.config["output"]).resolve()
            self.config.update({key: value for key, value in changes.items() if value is not None})
            self.lists = open_data(Path(self.config["datalist"]), self.output / "data")
            arms = [arm for entry in self.config["arms"] for arm in expand(entry)]
            self.arms = {name_of(arm): arm for arm in arms}
            check(self.config, arms)
            check_keys(self.config, arms, self.seg, self.cls)
        except StudyError:
            raise
        except FileNotFoundError as e:
            fix = "Prepare the data (scripts/lits.py), or give a JSON file like scripts/study.json."
            raise StudyError(f"{config}: {e.filename} is not there. {fix}") from e
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            cause = f"it has no {e}" if isinstance(e, KeyError) else e
            raise StudyError(f"{config}: {cause}. Give a JSON file like scripts/study.json.") from e

    def masks(self, name: str = SHIPPED) -> Path:
        """Where Prob-Masks of that name lie."""
        return self.output / "masks" / name

    def trainings(self) -> list[tuple[str, str]]:
        """Every stage 1 to train: name of its masks, fold."""
        names = {SHIPPED: {}, **self.config.get("masks", {})}
        return [(name, str(fold)) for name, knobs in names.items() for fold in knobs.get("folds", self.folds())]

    def fold_of(self) -> dict[str, str]:
        """Patient group to fold."""
        return {group: str(k) for group, k in read_json(self.masks() / "folds.json").items()}

    def masks_of(self, arm: Arm, fold: str) -> Path:
        """The Prob-Masks an arm works with in one fold."""
        if arm.get(SEEN):
            return self.masks(arm["masks"]) / SEEN / f"fold-{fold}"
        return self.masks(TEMPERED if arm["mask_source"] == TEMPERED else arm["masks"])

    def stage1_knobs(self, name: str) -> dict[str, Any]:
        """What masks of that name set in stage 1's bundle."""
        return {k: v for k, v in self.config.get("masks", {}).get(name, {}).items() if k not in MASKS_OWN}

    def stage1(self, name: str) -> Path:
        """The bundle behind masks of that name."""
        return self.bundle(self.seg, self.config.get("masks", {}).get(name, {}).get("overlay"))

    def stage2(self, arm: Arm) -> Path:
        """The bundle of an arm."""
        return self.bundle(self.cls, arm.get("overlay"))

    def bundle(self, bundle: Path, overlay: str | None) -> Path:
        """A bundle, or its copy with an overlay of its configs, as ``make_bundles`` writes it."""
        return self.output / "bundles" / overlay.removesuffix(".json") / bundle.name if overlay else bundle

    def make_bundles(self) -> None:
        """Write the copies of the bundles with an overlay, as both are now; raises StudyError for unknown overlays."""
        asked = {(self.seg, masks.get("overlay")) for masks in self.config.get("masks", {}).values()}
        asked |= {(self.cls, arm.get("overlay")) for arm in self.arms.values()}
        for bundle, overlay in asked:
            target = self.bundle(bundle, overlay)
            if overlay:  # what is made with it says when it is another than before
                shutil.rmtree(target, ignore_errors=True)
                with_overlay(bundle, overlay, target)

    def folder(self, name: str, seed: int | str) -> Path:
        """Where one seed of an arm lies."""
        return self.output / "arms" / name / f"seed-{seed}"

    def knobs(self, arm: Arm, seed: int) -> dict[str, Any]:
        """What an arm sets in stage 2's bundle."""
        knobs = {k: v for k, v in arm.items() if k not in ARM_OWN}
        return {**knobs, "mask_source": knobs["mask_source"].replace(TEMPERED, "prob"), "seed": seed}

    def stage1_epochs(self, name: str) -> int:
        """Epochs of the stage 1 behind masks of that name."""
        return int(self.config.get("masks", {}).get(name, {}).get("epochs", self.config["stage1_epochs"]))

    def sources_held_out(self) -> list[str]:
        """Sources that are left out as a whole, each a fold after those by person."""
        return list(self.config.get("held_out", []))

    def folds(self) -> list[str]:
        """Names of the folds."""
        return [str(k) for k in range(self.config["folds"] + len(self.sources_held_out()))]

    def tumour_folds(self) -> list[str]:
        """Those that hold somebody by whom stage 2 can be judged; raises StudyError where there is none but one."""
        folds = tumour_folds(self.lists, self.fold_of())
        require_judges(Path(self.config["datalist"]), folds)
        return folds

    def cases(self) -> list[Entry]:
        """The volumes with their Prob-Masks."""
        return read_lists(self.masks() / "datalist_prob.json")["training"]

    def outlined(self) -> list[Entry]:
        """The volumes whose tumours are outlined."""
        return [e for e in self.cases() if e.get("tumour_label", True)]

    def slices(self) -> list[Entry]:
        """The isolated slices with their Prob-Masks, of which it is known whether they show tumour."""
        return read_lists(self.masks() / "datalist_prob.json")["training_slices"]

    def held_out(self, fold: str) -> list[Entry]:
        """The volumes of one fold."""
        fold_of = self.fold_of()
        return [e for e in self.cases() if fold_of.get(e["group"]) == fold]

    def judged(self, fold: str, masks: Path) -> list[Entry]:
        """Volumes and isolated slices of one fold by which stage 2 is judged, with the Prob-Masks of that folder."""
        fold_of = self.fold_of()
        told = known_tumour(masks / "datalist_prob.json", *SECTIONS)
        return [e for e in told if fold_of.get(e["group"]) == fold]


def check(config: Mapping[str, Any], arms: Sequence[Arm]) -> None:
    """Raise ValueError for arms of one name, and for names that no arm or mask bears."""
    check_names(config, arms)
    seeds = {name_of(arm): set(arm["seeds"]) for arm in arms}
    for arm in arms:
        name = name_of(arm)
        if not seeds[name] <= seeds[arm.get("from") or arm.get("weights") or name]:
            raise ValueError(f"arm {name} has seeds that the arm it starts from lacks")
        if arm["masks"] not in {SHIPPED, *config.get("masks", {})}:
            raise ValueError(f"arm {name} has masks {arm['masks']}, which are not among the masks")
        others = {name_of(other): other for other in arms}
        if cause := misuse(arm, others.get(arm.get("from") or arm.get("weights") or "")):
            raise ValueError(f"arm {name} {cause}")


def misuse(arm: Arm, start: Arm | None) -> str:
    """What an arm asks for that would not be done, with the arm that it starts from; "" where all of it is."""
    both_stages, begun = "from" in arm, start or {}  # both stages are trained on, from the other arm
    rules = (
        (both_stages and "weights" in arm, "has both from and weights"),
        (both_stages and arm.get(SEEN), "has both from and seen"),
        ("from" in begun or "weights" in begun, "starts from an arm that starts from another one itself"),
        (
            any(arm[key] != begun.get(key, arm[key]) for key in ("combine", "gop")),
            "has another combine or gop than the arm it starts from",
        ),
        (both_stages and arm["mask_source"] != "prob", "has from, which learns through the Prob-Mask alone"),
        (
            both_stages and begun.get("mask_source") == TEMPERED,
            "has from an arm at a fitted temperature, which training both stages on makes another",
        ),
        (
            both_stages and arm["masks"] not in (SHIPPED, begun.get("masks")),
            "has other masks than the arm in its from, whose stage 1 it takes",
        ),
        (begun and arm.get("inner_groups"), "has inner_groups, but is not trained from nothing"),
        ("repair" in arm and "weights" not in arm, "has repair without weights, to judge which it is"),
        ("repair" in arm and arm["repair"] not in REPAIRS, f"has a repair that is none of {', '.join(REPAIRS)}"),
        ("repair" in arm and arm["mask_source"] in ("manual", "none"), "has repair, but looks through no Prob-Mask"),
    )
    return next((cause for wrong, cause in rules if wrong), "")


def check_keys(config: Mapping[str, Any], arms: Sequence[Arm], seg: Path, cls: Path) -> None:
    """Raise ValueError for a key that nothing reads, and for numbers and masks that cannot be."""
    require_known("the experiment", config, TOP)
    for name, knobs in config.get("masks", {}).items():
        require_known(f"masks {name}", knobs, {*MASKS_OWN, *knobs_of(seg, knobs.get("overlay"))})
    for arm in arms:
        more = read_json(OVERLAY) if "from" in arm else {}
        require_known(f"arm {name_of(arm)}", arm, {*ARM_OWN, *more, *knobs_of(cls, arm.get("overlay"))})
        if arm["mask_source"] not in (*MASKS, TEMPERED):
            raise ValueError(f"arm {name_of(arm)}: mask_source is none of {', '.join((*MASKS, TEMPERED))}")
        seeds = arm["seeds"]
        if not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds) or len({*seeds}) < len(seeds):
            raise ValueError(f"arm {name_of(arm)}: seeds are {seeds}, not different whole numbers")
    numbers = {"workers": 0, **config}
    for key, least in {"folds": 2, "stage1_epochs": 1, "epochs": 1, "workers": 0}.items():
        if not isinstance(numbers[key], int) or numbers[key] < least:
            raise ValueError(f"{key} is {numbers[key]!r}, not a number from {least}")
    if not isinstance(config.get("held_out", []), list):
        raise ValueError(f"held_out is {config['held_out']!r}, not a list of sources")
    folds = range(config["folds"] + len(config.get("held_out", [])))
    for name, knobs in config.get("masks", {}).items():
        if lost := [fold for fold in knobs.get("folds", []) if fold not in folds]:
            raise ValueError(f"masks {name} has fold {lost[0]}, of folds 0 to {folds[-1]}")


def require_known(place: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ValueError for the first key that is not known, with the closest that is."""
    own = sorted(known)
    for key in given:
        name = key.split("#")[0]
        if name not in own:
            close = get_close_matches(name, own, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{place} has no {key}{hint}")


def knobs_of(bundle: Path, overlay: str | None) -> set[str]:
    """The ids of a bundle's train.json, and of an overlay; raises StudyError where there is no bundle."""
    train, *_ = configs_of(bundle)
    files = [train, *([train.with_name(overlay)] if overlay else [])]
    return {key for file in files if file.is_file() for key in read_json(file)}


def check_names(config: Mapping[str, Any], arms: Sequence[Arm]) -> None:
    """Raise ValueError unless each arm has a name of its own and every name that is referred to is one of an arm."""
    names = [name_of(arm) for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"several arms are called {twice[0]}; give one a name of its own")
    if any(arm.get(SEEN) and (arm["mask_source"] == TEMPERED or "weights" in arm) for arm in arms):
        raise ValueError(f"an arm with {SEEN} trains on masks of its own: neither temperature nor weights go with it")
    asked = {config["reference"], *itertools.chain(*config["contrasts"])}
    for arm in arms:
        asked |= {arm[key] for key in ("from", "weights") if key in arm}
    unknown = sorted(asked - set(names))
    if unknown:
        raise ValueError(f"no arm is called {unknown[0]}")
    if not config["contrasts"]:
        raise ValueError("there are no contrasts")


def expand(entry: Arm) -> list[Arm]:
    """An entry of the config whose lists are to be combined in all ways, as single arms."""
    entry = {**DEFAULTS, "seeds": [0], "masks": SHIPPED, **entry}
    axes = {k: entry[k] if isinstance(entry[k], list) else [entry[k]] for k in DEFAULTS}
    return [{**entry, **dict(zip(axes, values))} for values in itertools.product(*axes.values())]


def name_of(arm: Arm) -> str:
    """``prob-concat-gop3``, with the masks' name before it unless they are the shipped ones, and before that ``seen``
    where they are of people whom stage 1 has learned from; or the name given."""
    words = [SEEN] if arm.get(SEEN) else []
    words += [] if arm["masks"] == SHIPPED else [arm["masks"]]
    return arm.get("name") or "-".join([*words, "{mask_source}-{combine}-gop{gop}".format(**arm)])
