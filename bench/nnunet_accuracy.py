"""nnU-Net v2 trained on our folds for the CPU time that our stage 1 takes: Dice at equal cost.

python bench/nnunet_accuracy.py prepare --datalist DATA/datalist.json --folds MASKS/folds.json --work WORK
python bench/nnunet_accuracy.py train --work WORK --fold 0 --seconds 720
python bench/nnunet_accuracy.py report --work WORK --ours MASKS/results.json

MASKS is the output of scripts/prob_masks.py. Needs bench/requirements.txt in an environment of its own.
"""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
import torch

DATASET = "Dataset001_Liver"
Entry = dict[str, Any]


def paths(work: str | Path) -> tuple[Path, Path]:
    """nnU-Net's raw and preprocessed folders; it takes them from the environment when it is imported."""
    work = Path(work).resolve()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(work / name)
    return work / "raw" / DATASET, work / "preprocessed" / DATASET


def prepare(datalist: str, folds: str, work: str) -> None:
    """Volumes and isolated slices in nnU-Net's layout, liver with tumour as label 1; its own plan; our folds."""
    raw, preprocessed = paths(work)
    lists, fold_of = json.loads(Path(datalist).read_text()), json.loads(Path(folds).read_text())
    cases = {}
    for section in ("training", "training_slices"):
        for entry in lists[section]:
            name = f"case{len(cases):04d}"
            cases[name] = {**entry, "fold": fold_of[entry["group"]], "volume": section == "training"}
            image, label = (nib.load(Path(datalist).parent / entry[key]) for key in ("image", "label"))
            save(raw / "imagesTr" / f"{name}_0000.nii.gz", np.asarray(image.dataobj, np.float32), image.affine)
            save(raw / "labelsTr" / f"{name}.nii.gz", (np.asarray(label.dataobj) > 0).astype(np.uint8), image.affine)
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**described, "numTraining": len(cases)}))
    (raw / "cases.json").write_text(json.dumps(cases, indent=1))

    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([1], num_processes=2, check_dataset_integrity=False)
    plan_experiments([1], gpu_memory_target_in_gb=1)
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(small_plan(plans), indent=1))
    preprocess([1], configurations=["2d", "small"], num_processes=[2, 2])
    split = [
        {
            "train": [n for n, c in cases.items() if c["fold"] != k],
            "val": [n for n, c in cases.items() if c["fold"] == k],
        }
        for k in range(max(fold_of.values()) + 1)
    ]
    (preprocessed / "splits_final.json").write_text(json.dumps(split))


def save(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume as NIfTI; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)


def small_plan(plans: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's 2D plan at our stage 1's cost per pixel: 2 mm, 128 x 128, 16 to 256 features, one pooling less."""
    plans = copy.deepcopy(plans)
    small = copy.deepcopy(plans["configurations"]["2d"])
    small.update(data_identifier="nnUNetPlans_small", batch_size=16, patch_size=[128, 128], spacing=[2.0, 2.0])
    network = small["architecture"]["arch_kwargs"]
    features = [16, 32, 64, 128, 192, 256]
    for key, value in {
        "n_stages": 6,
        "features_per_stage": features,
        "kernel_sizes": [[3, 3]] * 6,
        "strides": [[1, 1]] + [[2, 2]] * 5,
        "n_conv_per_stage": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
    }.items():
        network[key] = value
    plans["configurations"]["small"] = small
    return plans


def train(work: str, fold: int, seconds: float, plan: str = "2d", bf16: bool = True) -> None:
    """Train one fold for ``seconds`` of CPU time, the learning rate falling over it, and segment the held-out volumes.

    Args:
        work: as for ``prepare``.
        fold: held out.
        seconds: CPU time of this process, augmentation included; preprocessing is given for nothing.
        plan: 2d (nnU-Net's own for a small memory) or small.
        bf16: compute in bfloat16, which nnU-Net does on GPUs only; ours does so too.
    """
    raw, preprocessed = paths(work)
    os.environ.update(nnUNet_n_proc_DA="0")  # augmentation in the process whose CPU time counts
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Budget(nnUNetTrainer):
        """Stock, but for when it ends."""

        def run_training(self) -> None:
            self.initialize()
            self.set_deep_supervision_enabled(self.enable_deep_supervision)
            batches, _ = self.get_dataloaders()
            self.network.train()
            start, self.steps = time.process_time(), 0
            while (spent := time.process_time() - start) < seconds:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - spent / seconds) ** 0.9
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = self.train_step(next(batches))["loss"]
                self.steps += 1
                if self.steps % 50 == 0:
                    print(f"step {self.steps}, {spent:.0f} s, loss {loss:.3f}", flush=True)

    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = Budget({**plans, "continue_training": False}, plan, fold, dataset, device=torch.device("cpu"))
    trainer.run_training()
    trainer.set_deep_supervision_enabled(False)
    held_out = [
        (n, c) for n, c in json.loads((raw / "cases.json").read_text()).items() if c["fold"] == fold and c["volume"]
    ]
    dice = {Path(c["image"]).name: segment(trainer, raw, name, bf16) for name, c in held_out}
    out = Path(work) / f"{plan}-{'bf16' if bf16 else 'float32'}-{fold}.json"
    out.write_text(json.dumps({"seconds": seconds, "steps": trainer.steps, "dice": dice}, indent=1))
    print(out.read_text())


def segment(trainer: Any, raw: Path, name: str, bf16: bool) -> float:
    """Case Dice of one volume on its own grid, by nnU-Net's inference (overlap 0.5, no mirroring, as ours has none)."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, [trainer.network.state_dict()],
        trainer.dataset_json, "Budget", trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    image, properties = SimpleITKIO().read_images([str(raw / "imagesTr" / f"{name}_0000.nii.gz")])
    label, _ = SimpleITKIO().read_seg(str(raw / "labelsTr" / f"{name}.nii.gz"))
    trainer.network.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        mask = predictor.predict_single_npy_array(image, properties) > 0
    truth = label[0] > 0
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def report(work: str, ours: str) -> None:
    """Mean case Dice of every plan beside ours, on the cases both have."""
    mine = json.loads(Path(ours).read_text())["dice_per_case"]
    for kind in sorted({path.stem.rsplit("-", 1)[0] for path in Path(work).glob("*-*-[0-9].json")}):
        runs = [json.loads(path.read_text()) for path in sorted(Path(work).glob(f"{kind}-[0-9].json"))]
        theirs = {case: value for run in runs for case, value in run["dice"].items()}
        means = [np.mean([table[case] for case in theirs]) for table in (theirs, mine)]
        better = sum(mine[case] > theirs[case] for case in theirs)
        steps = np.mean([run["steps"] for run in runs])
        print(f"{kind}: {len(theirs)} cases, {runs[0]['seconds']:.0f} s, {steps:.0f} steps")
        print(f"  nnU-Net {means[0]:.3f}, lowest {min(theirs.values()):.3f}; ours {means[1]:.3f}, better in {better}")


if __name__ == "__main__":
    fire.Fire({"prepare": prepare, "train": train, "report": report})
