"""For ci/unit_tests of the Model Zoo: runs where models/liver_ct_segmentation is."""

import json
import os
import shutil
import tempfile
import unittest

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow
from utils import check_workflow

BUNDLE_ROOT = "models/liver_ct_segmentation"
SMALL_NETWORK = {"network_def#filters": [16] * 6}
TRAIN = {"epochs": 1, "val_interval": 1, "batch_size": 2, "volume_repeats": 2, "patch": [64, 64]}


class TestLiverCTSegmentation(unittest.TestCase):
    def setUp(self):
        self.dataset_dir = tempfile.mkdtemp()
        self.common = {"bundle_root": BUNDLE_ROOT, "dataset_dir": self.dataset_dir, **SMALL_NETWORK}
        self.common |= {"output_dir": os.path.join(self.dataset_dir, "out"), "threshold": 0.0}  # it knows no liver
        self.cases = [self.write_case(number) for number in range(3)]
        with open(os.path.join(self.dataset_dir, "datalist.json"), "w") as file:
            json.dump({"training": self.cases[:2], "validation": self.cases[2:]}, file)

    def write_case(self, number, shape=(48, 48, 24)):
        """A CT of noise from air to bone, which may be HU, and a random box for a liver."""
        rng = np.random.default_rng(number)
        image = rng.integers(-1000, 400, shape).astype(np.int16)
        label = np.zeros(shape, np.uint8)
        low = rng.integers(4, 12, 3)
        label[tuple(slice(start, start + 12) for start in low)] = rng.integers(1, 3)
        entry = {"image": f"image_{number}.nii.gz", "label": f"label_{number}.nii.gz"}
        for name, values in zip(entry.values(), (image, label)):
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
        self.assertTrue(os.path.isfile(os.path.join(self.common["output_dir"], "metrics.csv")))

    def test_infer_config(self):
        no_weights = {"handlers#0#_disabled_": True, "run#2#_disabled_": True}
        check_workflow(self.workflow("infer", "inference", pattern="image_*", **no_weights), check_properties=True)
        for case in ("image_0", "image_1", "image_2"):
            prob = nib.load(os.path.join(self.common["output_dir"], case, f"{case}_prob.nii.gz")).get_fdata()
            self.assertEqual(prob.shape, (48, 48, 24))
            self.assertTrue(0 < prob.max() <= 1)


if __name__ == "__main__":
    unittest.main()
