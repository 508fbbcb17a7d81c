"""One stage of the chain: a bundle reached through the ids of its inference config, with its weights loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from liver_ct.errors import StudyError
from liver_ct.files import sha256
from liver_ct.outputs.results import Item


class Stage:
    """One stage, reached through the ids of its ``configs/inference.json`` only, with its weights loaded.

    Args:
        root: the bundle's folder.
        device: where its network runs.
        knobs: values that replace those of the config.

    Raises:
        StudyError: a config or weights that cannot be used.
    """

    def __init__(self, root: str | Path, device: torch.device, **knobs: Any) -> None:
        root = Path(root).resolve()
        config = root / "configs" / "inference.json"
        if not config.is_file():
            raise StudyError(f"{root}: no bundle here (configs/inference.json is missing). Check the bundle's folder.")
        if str(root) not in sys.path:
            sys.path.insert(1, str(root))
        self.parser, self.device = ConfigParser(), device
        self.parser.read_config(str(config))
        self.parser.read_meta(str(root / "configs" / "metadata.json"))
        self.parser.update({"bundle_root": str(root), "device": device, **knobs})
        weights = Path(self["ckpt_path"])
        self.network = load_weights(self["network"], weights, device)
        self.identity = {
            "version": self["_meta_"]["version"],
            "weights_sha256": sha256(weights),
            "config_sha256": sha256(config),
        }

    def __getitem__(self, config_id: str) -> Any:
        return self.parser.get_parsed_content(config_id)

    def __contains__(self, config_id: str) -> bool:
        return config_id in self.parser

    def infer(self, item: Item) -> Item:
        """Add the network's logits for ``item["image"]`` as ``item["pred"]``, both without the batch dimension."""
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):  # as the bundles' evaluators do
            logits = self["inferer"](item["image"][None].to(self.device), self.network)
        return {**item, "pred": logits[0].float().cpu()}


def model_card(stage: Stage) -> Item:
    """What a bundle says of itself: the metadata's part for readers, checksums and the training data's terms."""
    meta, terms = stage["_meta_"], Path(stage["bundle_root"], "docs", "data_license.txt")
    texts = {key: meta.get(key, "") for key in ("name", "task", "description", "data_source", "intended_use")}
    return {
        **texts,
        **stage.identity,
        "figures": meta.get("eval_metrics", {}),
        "references": meta.get("references", []),
        "terms": terms.read_text(encoding="utf-8") if terms.is_file() else "",
    }


def load_weights(network: torch.nn.Module, weights: Path, device: torch.device) -> torch.nn.Module:
    """Load a state dict, plain or under "model", and set the network to evaluate.

    Raises:
        StudyError: weights that are missing, damaged or of another network.
    """
    try:
        state = torch.load(weights, map_location=device, weights_only=True)
        network.load_state_dict(state.get("model", state))
    except FileNotFoundError as e:
        raise StudyError(f"{weights}: no such weights. Train the bundle or fetch its models folder.") from e
    except Exception as e:
        raise StudyError(f"{weights}: damaged, or not this bundle's weights. Fetch or train them again.") from e
    return network.eval()


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or a GPU if there is one; raises StudyError for one that is not there."""
    if name not in (None, "cpu", "cuda"):
        raise StudyError(f"--device {name}: unknown. Use cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise StudyError("--device cuda: no GPU that PyTorch can use. Use --device cpu.")
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":  # the processes that torchrun starts take one each
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return device
