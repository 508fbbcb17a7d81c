"""Ours beside nnU-Net v2, TotalSegmentator's fast network shape and stock MONAI pipelines: one CT, one machine.

python bench/side_by_side.py run --work WORK

All networks but ours have random weights, as time does not depend on them. Every contender is a process of its own, so
that its memory and CPU time are its own; "seconds" leaves out starting up and loading weights. Needs
bench/requirements.txt in an environment of its own. Writes docs/side_by_side.json and the table of docs/performance.md.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bundles" / "liver_seg")]
BUNDLES = ROOT / "bundles"
DOCS = ROOT / "docs"
START, END = "<!-- side by side -->", "<!-- end of side by side -->"
CPU = torch.device("cpu")
Work = Callable[[Path, Path], dict[str, Any] | None]  # from a CT to files in a folder; may return figures of its own


# ----------------------------------------------------------------------------------------------------------- ours


def ours() -> Work:
    """Both stages, all outputs but the picture."""
    from liver_ct import LiverCT
    from liver_ct.outputs.folders import fresh_folder
    from liver_ct.outputs.writing import write_study

    chain = LiverCT(device="cpu")

    def work(ct: Path, out: Path) -> None:
        write_study(chain(ct, regions=False), fresh_folder(out / "study"))

    return work


def ours_stage_1() -> Work:
    """Stage 1 alone: Prob-Mask and liver mask."""
    from liver_ct.chain.stages import Stage, save_masks

    stage = Stage(BUNDLES / "liver_seg", CPU)

    @torch.inference_mode()
    def work(ct: Path, out: Path) -> None:
        item = stage["transform"](stage["load"]({"image": str(ct)}))
        save_masks(stage["restore"](stage.infer(item)), out / "study", stage.root)

    return work


# ----------------------------------------------------------------------------------------------------- stock MONAI


def monai_pipeline(network: torch.nn.Module, roi: tuple[int, ...], pixdim: tuple[float, ...], window: tuple) -> Work:
    """The stock inference.json of a Zoo bundle: LoadImaged, Spacingd, SlidingWindowInferer, Invertd, SaveImaged."""
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (  # fmt: skip
        Activationsd,
        Compose,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
    )

    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("image", pixdim),
            ScaleIntensityRanged("image", *window, 0, 1, clip=True),
        ]
    )
    inferer = SlidingWindowInferer(roi_size=roi, sw_batch_size=4, overlap=0.5)

    @torch.inference_mode()
    def work(ct: Path, out: Path) -> None:
        item = before({"image": str(ct)})
        item["pred"] = inferer(item["image"][None], network)[0]
        after = Compose(
            [
                Activationsd("pred", sigmoid=True),
                Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
                SaveImaged("pred", output_dir=str(out), output_dtype=np.float32, resample=False, print_log=False),
            ]
        )
        after(item)

    return work


def monai_same_network() -> Work:
    """Our stage 1's network and spacing, through the stock pipeline."""
    from liver_ct.chain.stages import Stage

    stage = Stage(BUNDLES / "liver_seg", CPU)

    reach = max(stage["offsets"])
    seen = torch.tensor(stage["offsets"]) + reach

    class Slabs(torch.nn.Module):
        """Every slab gives its middle slice, repeated: the least a stock 3D window can do with 2.5D."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return stage.network(x[:, 0].permute(0, 3, 1, 2)[:, seen])[..., None].expand(x.shape).contiguous()

    window = (160, 160, 2 * reach + 1)
    return monai_pipeline(Slabs().eval(), window, tuple(stage["pixdim"]), tuple(stage["hu_window"]))


def monai_3d_unet() -> Work:
    """The network, window and spacing of the Zoo's spleen_ct_segmentation."""
    from monai.networks.nets import UNet

    network = UNet(3, 1, 2, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2, norm="batch")
    return monai_pipeline(network.eval(), (96, 96, 96), (1.5, 1.5, 2.0), (-57, 164))


# --------------------------------------------------------------------------------------------------------- nnU-Net


def plans(spacing: list[float], patch: list[int], strides: list[list[int]]) -> dict[str, Any]:
    """A 3d_fullres plan as nnU-Net's planner writes it."""
    stages = len(strides)
    network = {
        "n_stages": stages, "features_per_stage": [32, 64, 128, 256, 320, 320][:stages], "strides": strides,
        "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[3, 3, 3]] * stages, "conv_bias": True,
        "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1),
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    kind = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    imports = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": patch,
        "median_image_size_in_voxels": patch, "spacing": spacing, "batch_dice": False,
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resample, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resample, "order": 1},
        "architecture": {"network_class_name": kind, "arch_kwargs": network, "_kw_requires_import": imports},
    }  # fmt: skip
    liver = {"max": 1000, "mean": 100, "median": 100, "min": -200, "std": 40}
    liver |= {"percentile_00_5": -17, "percentile_99_5": 200}
    return {
        "dataset_name": "x", "plans_name": "nnUNetPlans", "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": patch, "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager", "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {"0": liver},
    }  # fmt: skip


def predictor(plan: dict[str, Any], classes: int, mirroring: bool, step: float, tiles: int | None = None) -> Any:
    """nnU-Net's predictor with random weights; ``tiles`` stops it after so many, and notes how many there were."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    class Some(nnUNetPredictor):
        tiles_there = tiles_done = 0

        def _internal_get_sliding_window_slicers(self, image_size: Any) -> list:
            slicers = super()._internal_get_sliding_window_slicers(image_size)
            self.tiles_there, self.tiles_done = len(slicers), len(slicers[:tiles])
            return slicers[:tiles]

    labels = {"background": 0, **{f"organ {i}": i for i in range(1, classes)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1}
    manager = PlansManager(plan)
    configuration = manager.get_configuration("3d_fullres")
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 1, classes, False).eval()
    made = Some(
        tile_step_size=step, use_mirroring=mirroring, device=CPU, perform_everything_on_device=False, allow_tqdm=False
    )
    made.manual_initialization(network, manager, configuration, [network.state_dict()], dataset, "x", (0, 1, 2))
    return made


LITS = ([1.0, 0.767578, 0.767578], [128, 128, 128], [[1, 1, 1]] + [[2, 2, 2]] * 5)
TOTAL_FAST = ([3.0, 3.0, 3.0], [112, 112, 128], [[1, 1, 1]] + [[2, 2, 2]] * 4)


def nnunet_fastest() -> Work:
    """The LiTS-like 3d_fullres plan without mirroring and without overlap."""
    made = predictor(plans(*LITS), 3, mirroring=False, step=1.0)

    def work(ct: Path, out: Path) -> None:
        made.predict_from_files_sequential([[str(ct)]], [str(out / "liver.nii.gz")], False, True, None)

    return work


def nnunet_default() -> Work:
    """The LiTS-like 3d_fullres plan as nnU-Net runs it (mirroring, overlap 0.5), stopped after one tile of many."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    made = predictor(plans(*LITS), 3, mirroring=True, step=0.5, tiles=1)

    def work(ct: Path, _: Path) -> dict[str, Any]:
        image, properties = SimpleITKIO().read_images([str(ct)])
        preprocessor = made.configuration_manager.preprocessor_class(verbose=False)
        data, _, _ = preprocessor.run_case_npy(
            image, None, properties, made.plans_manager, made.configuration_manager, made.dataset_json
        )
        made.network.eval()
        start, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            shape = made._internal_get_sliding_window_slicers(np.maximum(data.shape[1:], LITS[1]))
            made._internal_maybe_mirror_and_predict(torch.zeros(1, 1, *LITS[1]))
        share = made.tiles_there / len(shape)
        return {
            "tiles": made.tiles_there,
            "extrapolated_seconds": (time.perf_counter() - start) * share,
            "extrapolated_cpu": (time.process_time() - cpu) * share,
        }

    return work


def totalsegmentator_fast() -> Work:
    """The 3 mm network's shape (118 classes, overlap 0.5, no mirroring), resampled as TotalSegmentator does."""
    from scipy import ndimage

    made = predictor(plans(*TOTAL_FAST), 118, mirroring=False, step=0.5)

    def work(ct: Path, out: Path) -> None:
        image = nib.load(ct)
        voxels = np.asarray(image.dataobj, np.float32)
        zoom = np.array(image.header.get_zooms()) / 3
        small = ndimage.zoom(voxels, zoom, order=3).transpose(2, 1, 0)[None]
        mask = made.predict_single_npy_array(small, {"spacing": [3.0, 3.0, 3.0]}).transpose(2, 1, 0)
        full = ndimage.zoom(mask.astype(np.uint8), np.array(voxels.shape) / mask.shape, order=0)
        nib.save(nib.Nifti1Image(full, image.affine), out / "organs.nii.gz")

    return work


CONTENDERS: dict[str, tuple[str, Callable[[], Work]]] = {
    "ours": ("**this chain**, both stages, 5 outputs without the picture", ours),
    "ours-stage-1": ("**this stage 1** alone, Prob-Mask and mask", ours_stage_1),
    "monai-same-network": ("our stage 1's network through MONAI's stock pipeline, float32", monai_same_network),
    "monai-3d-unet": ("spleen_ct_segmentation's 3D U-Net, stock pipeline, float32", monai_3d_unet),
    "totalsegmentator-fast": ("TotalSegmentator's 3 mm network shape through nnU-Net", totalsegmentator_fast),
    "nnunet-fastest": ("nnU-Net 3d_fullres, LiTS-like plan, no mirroring, no overlap", nnunet_fastest),
    "nnunet-default": ("nnU-Net 3d_fullres, LiTS-like plan, default settings", nnunet_default),
}


# ------------------------------------------------------------------------------------------------------ measuring


def one(name: str, ct: str, out: str, warm: bool = True) -> None:
    """Print what one contender takes for one CT."""
    for folder in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{folder}", str(Path(out) / folder))
    from chain import peak_mb

    work = CONTENDERS[name][1]()
    target = Path(out) / name
    target.mkdir(parents=True, exist_ok=True)
    if warm:
        work(Path(ct), target)
    start, cpu = time.perf_counter(), cpu_seconds()
    more = work(Path(ct), target) or {}
    figures = {"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - cpu, **more}
    figures["peak_mb"] = peak_mb()
    print(json.dumps(figures))


def cpu_seconds() -> float:
    """Of this process and of those it started and waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def run(work: str = "runs/bench", docs: str = str(DOCS), depth: int = 130) -> None:
    """Time all contenders on one phantom, write ``side_by_side.json`` and the table of ``performance.md`` in DOCS."""
    from chain import machine, phantom

    ct, out, figures = phantom(Path(work).resolve(), depth), Path(work).resolve() / "out", {}
    for name in CONTENDERS:
        long = name.startswith(("nnunet", "total"))  # a warm-up would not show in minutes
        words = [sys.executable, __file__, "one", "--name", name, "--ct", str(ct), "--out", str(out)]
        done = subprocess.run([*words, "--warm", str(not long)], stdout=subprocess.PIPE, text=True, check=True)
        figures[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, figures[name], flush=True)
    default, fastest = figures["nnunet-default"], figures["nnunet-fastest"]
    default["seconds"], default["cpu"] = default["extrapolated_seconds"], default["extrapolated_cpu"]
    default["peak_mb"] = max(default["peak_mb"], fastest["peak_mb"])
    content = {"machine": machine(), "depth": depth, "contenders": figures}
    (Path(docs) / "side_by_side.json").write_text(json.dumps(content, indent=1) + "\n")
    report(docs)


def report(docs: str = str(DOCS)) -> None:
    """The table from ``side_by_side.json``."""
    from chain import put, table

    content = json.loads((Path(docs) / "side_by_side.json").read_text())
    figures, base = content["contenders"], content["contenders"]["ours"]
    rows = [
        [CONTENDERS[name][0]]
        + [f"{f[key]:.{digits}f}" for key, digits in (("seconds", 1), ("cpu", 1), ("peak_mb", 0))]
        + [" / ".join(f"{f[key] / base[key]:.1f}" for key in ("seconds", "cpu", "peak_mb"))]
        for name, f in figures.items()
    ]
    ct = f"512 x 512 x {content['depth']}, {content['machine']}"
    head = [ct, "wall s", "CPU s", "peak MB", "times ours: wall / CPU / memory"]
    put(Path(docs) / "performance.md", START, END, [table(head, rows)])


if __name__ == "__main__":
    fire.Fire({"run": run, "report": report, "one": one})
