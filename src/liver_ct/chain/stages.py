"""One stage of the chain: a bundle reached through the ids of its inference config, with its weights loaded."""

from __future__ import annotations

import filecmp
import functools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from liver_ct.chain.devices import check_answer
from liver_ct.errors import StudyError, find_study_error, is_memory_error
from liver_ct.files import sha256
from liver_ct.outputs.names import LESION_PROB, LIVER_MASK, PROB_MASK
from liver_ct.outputs.results import Item

CONFIG = Path("configs", "inference.json")
SMALLEST_ML = 100  # of liver, where the scan does not end in it; less is something else
# Python fails ("AST constructor recursion depth mismatch") where a collection of garbage amid the parsing of an
# expression lets another thread parse one; MONAI parses a config's expressions when they are first asked for.
PARSING = threading.RLock()


class Stage:
    """One stage, reached through the ids of its ``configs/inference.json`` only, with its weights loaded.

    Args:
        root: the bundle's folder.
        device: where its network runs.
        knobs: values that replace those of the config.

    Raises:
        StudyError: a config, knobs or weights that cannot be used.
    """

    def __init__(self, root: str | Path, device: torch.device, **knobs: Any) -> None:
        self.root, self.device = Path(root).resolve(), device
        self.parser = read_bundle(self.root, device=device, **knobs)
        self._check_knobs()
        weights = Path(self["ckpt_path"])
        self.network = load_weights(self["network"], weights, device)
        if device.type == "mps":  # not tried by us
            check_answer(self.network, device)
        if device.type == "cpu" and "folded" in self:
            self.network = self["folded"]
        self.identity = {
            "version": self["_meta_"]["version"],
            "weights_sha256": sha256(weights),
            "config_sha256": sha256(self.root / CONFIG),
        }

    def __getitem__(self, config_id: str) -> Any:
        with PARSING:
            return self.parser.get_parsed_content(config_id)

    def __contains__(self, config_id: str) -> bool:
        return config_id in self.parser

    def _check_knobs(self) -> None:
        """Raise StudyError where the config has checks of its knobs, and they refuse one."""
        for check in ("checks#knobs", "checks#terms"):
            try:
                if check in self:
                    self[check]
            except SystemExit as e:  # as they end the bundle's own command
                cause = str(e).removeprefix("ERROR --")
                raise StudyError(f"{self.root / CONFIG}: {cause}") from None

    def infer(self, item: Item) -> Item:
        """Add the network's logits for ``item["image"]`` as ``item["pred"]``, both without the batch dimension."""
        inferer = self["map_inferer"] if "map_inferer" in self else self["inferer"]
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():  # as the bundles' evaluators do
            logits = inferer(item["image"][None].to(self.device), self.network)
        return {**item, "pred": logits[0].float().cpu()}

    def mirrored(self, item: Item) -> float:
        """How much surer the network is of what it finds in the image with left and right exchanged.

        Args:
            item: of `infer`, ``image`` and ``pred`` ``[1, X, Y, Z]``, X from left to right.

        Returns:
            The difference of the mean probabilities of what is above 0.5; NaN where nothing is.
        """
        other = self.infer({"image": item["image"].as_tensor().flip(1)})
        found, mirrored = (float(p[p > 0.5].mean()) for p in (item["pred"].sigmoid(), other["pred"].sigmoid()))
        return mirrored - found


def read_bundle(root: Path, **knobs: Any) -> ConfigParser:
    """A bundle's inference config with its metadata; its own transforms can be imported from then on.

    Args:
        root: the bundle's folder.
        knobs: values that replace those of the config.

    Raises:
        StudyError: there is no bundle, or this process has one whose scripts would run in its place.
    """
    if not (root / CONFIG).is_file():
        raise StudyError(f"{root}: no bundle here ({CONFIG} is missing). Check the bundle's folder.")
    refuse_other_scripts(root)
    if str(root) not in sys.path:
        sys.path.insert(1, str(root))
    parser = ConfigParser()
    try:
        parser.read_config(str(root / CONFIG))
        parser.read_meta(str(root / "configs" / "metadata.json"))
    except (OSError, ValueError) as e:
        cause = str(e).splitlines()[0]
        raise StudyError(
            f"{root / CONFIG.parent}: its configs cannot be read ({cause}). Fetch the bundle again."
        ) from e
    parser.update({"bundle_root": str(root), **knobs})
    return parser


def refuse_other_scripts(root: Path) -> None:
    """Raise StudyError where Python may already look for modules of the bundle's names in a folder of another content.

    It has one module of a name, so that one version of a bundle would run the code of another.
    """
    files = [*(root / "scripts").glob("*.py")]
    for folder in map(Path, sys.path):
        for file in files:
            other = folder / "scripts" / file.name
            if other.is_file() and not filecmp.cmp(file, other):
                cause = f"its {file.name} is not that of {folder.resolve()}, which this process has, too"
                raise StudyError(f"{root}: {cause}. Run each bundle in a process of its own.")


def save_masks(masks: Item, folder: Path, bundle: Path) -> None:
    """Write masks as a segmentation bundle does, named by what they hold and not by the CT.

    Args:
        masks: ``prob`` and ``pred``, MetaTensors ``[1, X, Y, Z]``.
        folder: gets prob_mask.nii.gz and liver_mask.nii.gz; made if missing.
        bundle: folder of the segmentation bundle, whose ``save`` writes them.

    Raises:
        StudyError: they cannot be written.
    """
    part = part_folder(folder, "masks")
    for key in ("prob", "pred"):
        masks[key].meta["filename_or_obj"] = part.name
    _save(masks, folder, part, mask_saver(bundle, part.parent), {"prob": PROB_MASK, "seg": LIVER_MASK})


def save_map(lesion_prob: Item, folder: Path, bundle: Path) -> None:
    """Write the lesion map as a classification bundle does, named by what it holds and not by the CT.

    Args:
        lesion_prob: ``lesion_prob``, a MetaTensor ``[1, X, Y, Z]``, uint8.
        folder: gets lesion_prob.nii.gz; made if missing.
        bundle: folder of the classification bundle, whose ``save_map`` writes it.

    Raises:
        StudyError: it cannot be written.
    """
    part = part_folder(folder, "map")
    saver = mask_saver(bundle, part.parent, "save_map")
    _save({**lesion_prob, "case": part.name}, folder, part, saver, {"lesion_prob": LESION_PROB})


def part_folder(folder: Path, kind: str) -> Path:
    """Where a bundle writes to, beside ``folder``: it makes a folder of the case's name."""
    folder = folder.resolve()
    return folder.with_name(f".part-{folder.name}-{kind}")


def _save(item: Item, folder: Path, part: Path, saver: Callable[[Item], Item], names: Mapping[str, str]) -> None:
    """Let a bundle write to ``part``, and move what it wrote, known by its endings, to ``folder`` under ``names``."""
    with study_errors():
        try:
            saver(item)
            folder.mkdir(parents=True, exist_ok=True)
            for postfix, name in names.items():
                os.replace(part / f"{part.name}_{postfix}.nii.gz", folder / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@functools.lru_cache(maxsize=16)
def mask_saver(bundle: Path, output_dir: Path, config_id: str = "save") -> Callable[[Item], Item]:
    """The bundle's ``save`` to a folder; kept, since reading its config takes as long as writing a small study."""
    with PARSING:
        save: Callable[[Item], Item] = read_bundle(bundle, output_dir=str(output_dir)).get_parsed_content(config_id)
    return save


@contextmanager
def study_errors(path: Path | None = None, name: str = "") -> Iterator[None]:
    """What a bundle cannot process becomes the package's StudyError; ``name`` stands for the file ``path`` in it."""
    try:
        yield
    except Exception as e:
        found = find_study_error(e)
        if found is None:
            raise
        raise StudyError(str(found).replace(str(path), name) if path else str(found)) from e


def model_card(stage: Stage) -> Item:
    """What a bundle says of itself: the metadata's part for readers, checksums and the training data's terms."""
    meta, terms = stage["_meta_"], stage.root / "docs" / "data_license.txt"
    texts = {key: meta.get(key, "") for key in ("name", "task", "description", "data_source", "intended_use")}
    return {
        **texts,
        **stage.identity,
        "figures": meta.get("eval_metrics", {}),
        "references": meta.get("references", []),
        "terms": terms.read_text(encoding="utf-8") if terms.is_file() else "",
    }


def load_weights(network: torch.nn.Module, weights: Path, device: torch.device) -> torch.nn.Module:
    """Load a state dict, plain or under "model", or a checkpoint's averaged one, and set the network to evaluate.

    Raises:
        StudyError: weights that are missing, damaged or of another network.
    """
    try:
        state = torch.load(weights, map_location=device, weights_only=True)
        network.load_state_dict(state.get("averaged", state.get("model", state)))
    except FileNotFoundError as e:
        raise StudyError(f"{weights}: no such weights. Train the bundle or fetch its models folder.") from e
    except Exception as e:
        if is_memory_error(e):
            raise
        raise StudyError(f"{weights}: damaged, or not this bundle's weights. Fetch or train them again.") from e
    return network.eval()
