"""For ci/unit_tests of the Model Zoo: runs where models/liver_tumor_ct_classification is."""

import json
import os
import shutil
import tempfile
import unittest

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow
from utils import check_workflow

BUNDLE_ROOT = "models/liver_tumor_ct_classification"
SMALL_NETWORK = {"dynunet#filters": [16] * 5, "lite_unet#decoder": [16] * 4, "roi": [32, 32]}
TRAIN = {"epochs": 1, "val_interval": 1, "groups_per_study": 4}


class TestLiverTumorCTClassification(unittest.TestCase):
    def setUp(self):
        self.dataset_dir = tempfile.mkdtemp()
        self.common = {"bundle_root": BUNDLE_ROOT, "dataset_dir": self.dataset_dir, **SMALL_NETWORK}
        self.common |= {"output_dir": os.path.join(self.dataset_dir, "out")}
        self.cases = [self.write_case(number) for number in range(3)]
        with open(os.path.join(self.dataset_dir, "datalist_prob.json"), "w") as file:
            json.dump({"training": self.cases[:2], "validation": self.cases[2:]}, file)

    def write_case(self, number, shape=(48, 48, 24)):
        """Noise from air to bone, which may be HU, a box of soft tissue for a liver, a tumour in it and a Prob-Mask."""
        rng = np.random.default_rng(number)
        image = rng.integers(-1000, 400, shape).astype(np.int16)
        label = np.zeros(shape, np.uint8)
        x, y, z = rng.integers(4, 12, 3)
        label[x : x + 24, y : y + 24, z : z + 12] = 1
        label[x + 8 : x + 16, y + 8 : y + 16, z + 4 : z + 8] = 2
        image[label > 0] = rng.integers(0, 200, np.count_nonzero(label))
        prob = np.where(label > 0, rng.uniform(0.6, 1, shape), rng.uniform(0, 0.4, shape)).astype(np.float32)
        case = f"image_{number}"
        entry = {
            "image": f"{case}.nii.gz",
            "label": f"label_{number}.nii.gz",
            "prob": f"prob/{case}/{case}_prob.nii.gz",
        }
        os.makedirs(os.path.join(self.dataset_dir, "prob", case))
        for name, values in zip(entry.values(), (image, label, prob)):
            nib.save(nib.Nifti1Image(values, np.diag([2, 2, 4, 1])), os.path.join(self.dataset_dir, name))
        return entry

    def tearDown(self):
        shutil.rmtree(self.dataset_dir)

    def workflow(self, kind, *configs, **override):
        return ConfigWorkflow(
            workflow_type=kind,
            config_file=[os.path.join(BUNDLE_ROOT, "configs", f"{name}.json") for name in configs],
            logging_file=os.path.join(BUNDLE_ROOT, "configs/logging.conf"),
            meta_file=os.path.join(BUNDLE_ROOT, "configs/metadata.json"),
            **self.common,
            **override,
        )

    def test_train_eval_config(self):
        runs = os.path.join(self.dataset_dir, "runs")
        override = {"ckpt_dir": runs, **TRAIN}
        check_workflow(self.workflow("train", "train", **override), check_properties=True)
        override["ckpt_path"] = os.path.join(runs, "model.pt")
        check_workflow(self.workflow("train", "train", "evaluate", **override), check_properties=True)
        self.assertTrue(os.path.isfile(os.path.join(self.common["output_dir"], "slices.csv")))

    def test_infer_config(self):
        override = {"pattern": "image_*", "prob_dir": os.path.join(self.dataset_dir, "prob")}
        override |= {"handlers#0#_disabled_": True, "run#1#_disabled_": True}  # no weights
        check_workflow(self.workflow("infer", "inference", **override), check_properties=True)
        for case in ("image_0", "image_1", "image_2"):
            with open(os.path.join(self.common["output_dir"], case, f"{case}_tumour.json")) as file:
                self.assertTrue(0 <= json.load(file)["tumour_probability"] <= 1)


if __name__ == "__main__":
    unittest.main()
