"""What an experiment consists of: its arms, the masks they work with, and where each part lies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_ct.errors import StudyError
from liver_ct.files import read_json
from liver_ct.training.datalists import Entry, read_lists

DEFAULT_GOP = 3
DEFAULTS = {"mask_source": "prob", "combine": "concat", "gop": DEFAULT_GOP}
SHIPPED = "shipped"  # the Prob-Masks of stage 1 as its bundle is set
OWN = ("name", "seeds", "masks", "inner_groups", "from", "weights", "repair")  # of an arm, not knobs of the bundle
Arm = dict[str, Any]


class Experiment:
    """An experiment's config, and where its parts lie under ``output``.

    ``masks/<name>/`` (of prob_masks.py), ``masks/temperature/`` and ``arms/<name>/seed-<s>/fold-<k>/``.

    Args:
        config: a JSON file like ``study.json``; relative paths in it are from the working directory.
        seg: stage 1's bundle.
        cls: stage 2's bundle.

    Raises:
        StudyError: a config that cannot be used.
    """

    def __init__(self, config: str | Path, seg: str | Path, cls: str | Path) -> None:
        self.file, self.seg, self.cls = Path(config), Path(seg).resolve(), Path(cls).resolve()
        try:
            self.config = read_json(self.file)
            self.output = Path(self.config["output"]).resolve()
            self.lists = read_lists(Path(self.config["datalist"]).resolve())
            arms = [arm for entry in self.config["arms"] for arm in expand(entry)]
            self.arms = {name_of(arm): arm for arm in arms}
            check(self.config, arms)
        except FileNotFoundError as e:
            fix = "Prepare the data (scripts/lits.py), or give a JSON file like scripts/study.json."
            raise StudyError(f"{config}: {e.filename} is not there. {fix}") from e
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise StudyError(f"{config}: {e}. Give a JSON file like scripts/study.json.") from e

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

    def masks_of(self, arm: Arm) -> Path:
        """The Prob-Masks an arm works with."""
        return self.masks("temperature" if arm["mask_source"] == "temperature" else arm["masks"])

    def stage1_knobs(self, name: str) -> dict[str, Any]:
        """What masks of that name set in stage 1's bundle."""
        return {k: v for k, v in self.config.get("masks", {}).get(name, {}).items() if k not in ("folds", "epochs")}

    def folder(self, name: str, seed: int | str) -> Path:
        """Where one seed of an arm lies."""
        return self.output / "arms" / name / f"seed-{seed}"

    def knobs(self, arm: Arm, seed: int) -> dict[str, Any]:
        """What an arm sets in stage 2's bundle."""
        knobs = {k: v for k, v in arm.items() if k not in OWN}
        return {**knobs, "mask_source": knobs["mask_source"].replace("temperature", "prob"), "seed": seed}

    def stage1_epochs(self, name: str) -> int:
        """Epochs of the stage 1 behind masks of that name."""
        return int(self.config.get("masks", {}).get(name, {}).get("epochs", self.config["stage1_epochs"]))

    def folds(self) -> list[str]:
        """Names of the folds."""
        return [str(k) for k in range(self.config["folds"])]

    def cases(self) -> list[Entry]:
        """The cases with their Prob-Masks."""
        return read_lists(self.masks() / "datalist_prob.json")["training"]

    def held_out(self, fold: str, masks: Path | None = None) -> list[Entry]:
        """Those of one fold, with the shipped Prob-Masks or others."""
        fold_of = self.fold_of()
        cases = read_lists((masks or self.masks()) / "datalist_prob.json")["training"]
        return [e for e in cases if fold_of[e["group"]] == fold]


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


def check_names(config: Mapping[str, Any], arms: Sequence[Arm]) -> None:
    """Raise ValueError unless each arm has a name of its own and every name that is referred to is one of an arm."""
    names = [name_of(arm) for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"several arms are called {twice[0]}; give one a name of its own")
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
    """``prob-concat-gop3``, with the masks' name before it unless they are the shipped ones; or the name given."""
    name = "{mask_source}-{combine}-gop{gop}".format(**arm)
    return arm.get("name") or (name if arm["masks"] == SHIPPED else f"{arm['masks']}-{name}")
