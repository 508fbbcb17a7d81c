"""The chain: both bundles loaded once, and one study after another taken through them in memory."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from liver_ct.chain.arrays import name_of, write_image, write_volume
from liver_ct.chain.devices import pick_device
from liver_ct.chain.notes import about_mask, all_notes
from liver_ct.chain.record import begin, inputs, precision_of
from liver_ct.chain.stages import (
    SMALLEST_ML,
    Stage,
    mask_saver,
    model_card,
    read_bundle,
    save_map,
    save_masks,
    study_errors,
)
from liver_ct.chain.studies import files_of, fingerprint, name_cases
from liver_ct.chain.terms import MaskSource
from liver_ct.chain.zips import unpack
from liver_ct.errors import StudyError, printable
from liver_ct.files import Checksums, TemporaryFolder, is_zip, shipped, spelled_out
from liver_ct.outputs.lesions import Lesions, find_lesions, name_for
from liver_ct.outputs.results import Item, Regions, StudyResult, slice_rows, summarise, timed

BUNDLES = shipped("bundles")


class LiverCT:
    """Both bundles, loaded once for any number of studies, which it takes one at a time.

    Args:
        device: cpu, cuda, cuda:1 or mps; None takes a GPU of NVIDIA's if there is one.
        seg_bundle: folder of the segmentation bundle; None takes the shipped one.
        cls_bundle: folder of the classification bundle; None takes the shipped one.
        mask_source: how the classifier uses the Prob-Mask; None as its bundle is set.
        series: SeriesNumber or SeriesInstanceUID of the CT, for DICOM folders that hold several.

    Raises:
        StudyError: a bundle, weights, device or mask source that cannot be used.

    Examples:
        >>> from liver_ct import LiverCT
        >>> from liver_ct.phantom import make_phantom
        >>> array, labels, affine = make_phantom(size=(96, 96, 50), spacing=(4, 4, 5))
        >>> chain = LiverCT(device="cpu")
        >>> study = chain.run(array, affine, case="phantom")
        >>> study.prob_mask.shape, study.liver_mask.dtype, len(study.rows)
        ((96, 96, 50), dtype('uint8'), 50)
        >>> overlap = (study.liver_mask & (labels > 0)).sum()
        >>> bool(2 * overlap / (study.liver_mask.sum() + (labels > 0).sum()) > 0.9)
        True
        >>> sorted(study.result)[-3:]
        ['settings', 'study_tumour_probability', 'versions']
        >>> chain.run(array + 1024, affine, case="MR")
        Traceback (most recent call last):
            ...
        liver_ct.errors.StudyError: MR: values are not the HU of a CT (an MR, or rescale not applied). Give a CT in HU.
    """

    def __init__(
        self,
        device: str | torch.device | None = None,
        seg_bundle: str | Path | None = None,
        cls_bundle: str | Path | None = None,
        mask_source: MaskSource | str | None = None,
        series: str | int | None = None,
    ) -> None:
        place = pick_device(device)
        knobs = {} if mask_source is None else {"mask_source": MaskSource.named(mask_source).value}
        series = None if series is None else str(series)
        self.seg = Stage(seg_bundle or BUNDLES / "liver_seg", place, series=series, smallest_ml=SMALLEST_ML)
        self.cls = Stage(cls_bundle or BUNDLES / "liver_cls", place, **knobs)
        self.notes = about_mask(self.cls["mask_source"], read_bundle(self.cls.root).get_parsed_content("mask_source"))
        self.checksums = Checksums()
        self.model_cards = (model_card(self.seg), model_card(self.cls))
        self.settings = {
            "mask_source": self.cls["mask_source"],
            "bundles": {"liver_seg": self.seg.identity, "liver_cls": self.cls.identity},
            "series": series,
        }

    def __call__(
        self,
        ct: str | os.PathLike[str] | nib.spatialimages.SpatialImage,
        case: str | None = None,
        regions: bool = True,
        record: Item | None = None,
    ) -> StudyResult:
        """Take one study through both stages.

        Args:
            ct: a NIfTI, MHA or NRRD file, a DICOM series folder or a zip of one, or an image of nibabel; in HU.
            case: name of the study; None takes that of the file or folder.
            regions: also look for what drove the tumour probabilities, which the report shows.
            record: what `record` gave for this file or folder, if it was asked before.

        Returns:
            What was found.

        Raises:
            StudyError: a CT that cannot be used: ``<file>: <cause>. <fix>``.
            TypeError: ``ct`` is neither path nor image.
        """
        if isinstance(ct, nib.spatialimages.SpatialImage):
            case = name_of(ct) if case is None else str(case)
            return self._find_written(partial(write_image, ct, name=case), case, regions)
        path = spelled_out(ct)
        if not path.exists():
            raise StudyError(f"{path}: no such file or folder. Check the path.")
        case = name_cases([path], path.parent)[0].case if case is None else str(case)
        record = record or self.record(path)
        if is_zip(path):
            return self._find_zipped(path, case, record, regions)
        with study_errors():
            return self._find(path, case, record, regions)

    def run(self, array: NDArray[Any], affine: NDArray[Any], case: str = "ct", regions: bool = True) -> StudyResult:
        """Take one study that is in memory through both stages; it is checked as a file would be.

        Args:
            array: CT ``[X, Y, Z]`` in HU, integers or floats, in any orientation.
            affine: 4 x 4, voxel to world mm (RAS, as nibabel's); kept to float32, as NIfTI does.
            case: name of the study.
            regions: also look for what drove the tumour probabilities, which the report shows.

        Returns:
            What was found; ``input`` and ``input_fingerprint`` of its result are None.

        Raises:
            StudyError: a CT that cannot be used: ``<case>: <cause>. <fix>``.
        """
        case = str(case)  # a number, too
        return self._find_written(partial(write_volume, array, affine, name=case), case, regions)

    def _find_written(self, write: Callable[..., None], case: str, regions: bool) -> StudyResult:
        """Both stages on what ``write`` writes to a ``file``, which is read and checked as any file."""
        with TemporaryDirectory(prefix="liver-ct-") as folder:
            file = Path(folder, "ct.nii")
            write(file=file)
            record = {"input": None, "input_fingerprint": None, **self.settings}
            with study_errors(file, case):
                return self._find(file, case, record, regions, source=case, hashed=())

    def record(self, path: Path) -> Item:
        """What a study's result depends on, and where it came from.

        A finished study need not be done again where content, settings and bundles are the same.
        """
        where = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
        self.checksums = Checksums()  # of this study's files, which are hashed again for the record
        known = {"input": printable(path.name), "input_path_sha256": where}
        return {**known, "input_fingerprint": fingerprint(path, self.checksums), **self.settings}

    @property
    def how(self) -> Item:
        """Where and in what the networks compute: elsewhere figures differ by a little."""
        return {"device_type": self.seg.device.type, "precision": precision_of(self.seg, self.cls)}

    def _find_zipped(self, path: Path, case: str, record: Item, regions: bool) -> StudyResult:
        """Both stages on a zipped DICOM series, whose slices stay unpacked as long as the result is held."""
        holder = TemporaryFolder()
        try:
            unpack(path, holder.path)
            with study_errors(holder.path, str(path)):
                study = self._find(holder.path, case, record, regions, source=str(path), hashed=(path,))
                return replace(study, holder=holder)
        except BaseException:
            holder.remove()
            raise

    @torch.inference_mode()
    def _find(
        self,
        path: Path,
        case: str,
        record: Item,
        regions: bool,
        source: str | None = None,
        hashed: Sequence[Path] | None = None,
    ) -> StudyResult:
        """Both stages, step by step; the record has the checksum of ``hashed``, None being the files that are read."""
        seconds: dict[str, float] = {}
        made = begin(self.seg, self.cls)
        with timed(seconds, "read"):
            ct = self.seg["load"]({"image": str(path)})["image"]
            files = tuple(ct.meta.get("files", ()))
            made |= inputs(map(Path, files or files_of(path)) if hashed is None else hashed, self.checksums)
        with timed(seconds, "resample"):
            item = self.seg["transform"]({"image": ct})
        with timed(seconds, "segment"):
            item = self.seg.infer(item)
        with timed(seconds, "restore"):
            masks = self.seg["restore"](item)
        with timed(seconds, "classify"):
            tumour = self.cls["score"](self.cls.infer(self.cls["transform"]({"image": ct, "prob": masks["prob"]})))
        found = None
        if regions and "regions" in self.cls:
            with timed(seconds, "regions"):
                found = self._regions(tumour)
        affine, liver, prob = ct.affine.numpy(), masks["pred"][0].numpy(), masks["prob"][0].numpy()
        with timed(seconds, "lesions"):
            lesions = self._lesions(tumour, ct[0].numpy(), liver, affine)
        with timed(seconds, "notes"):
            notes = all_notes(self.seg, ct, item, masks) + self.notes
        rows = slice_rows(liver, affine, tumour)
        probability, threshold = float(tumour["study_probability"]), float(self.cls["threshold"])
        return StudyResult(
            case=case,
            ct=ct[0].numpy(),
            affine=affine,
            prob_mask=prob,
            liver_mask=liver,
            rows=tuple(rows),
            summary=summarise(rows, liver, affine, probability, threshold),
            record=copy.deepcopy(record),  # a study's own
            regions=found,
            seconds=seconds,
            model_cards=self.model_cards,
            source=source or str(path),
            files=files,
            mask_writer=partial(save_masks, bundle=self.seg.root),
            notes=notes,
            made=made | self.how,
            lesions=lesions,
            map_writer=partial(save_map, bundle=self.cls.root) if lesions else None,
        )

    def load_savers(self, output: Path) -> None:
        """Make now what writes masks and the lesion map to a folder, since threads must not."""
        mask_saver(self.seg.root, output)
        if "restore" in self.cls:
            mask_saver(self.cls.root, output, "save_map")

    def _lesions(self, tumour: Item, ct: NDArray[Any], liver: NDArray[Any], affine: NDArray[Any]) -> Lesions | None:
        """The lesion map on the CT's grid and the lesions in it; None where the bundle or its network draws none."""
        restored = self.cls["restore"](tumour).get("lesion_prob") if "restore" in self.cls else None
        if restored is None:
            return None
        prob = restored[0].numpy()
        if self.cls["mask_source"] == MaskSource.NONE:  # the map then shows the whole body, not the liver alone
            prob = np.where(liver > 0, prob, 0)
        return find_lesions(
            prob,
            ct,
            liver,
            affine,
            threshold=float(self.cls["lesion_threshold"]),
            outline=float(self.cls["lesion_outline"]),
            smallest_ml=float(self.cls["lesion_smallest_ml"]),
            shown_as=name_for(self.cls["_meta_"].get("eval_metrics", {})),
        )

    def _regions(self, tumour: dict[str, Any]) -> Regions:
        """Where the classifier's scores come from."""
        with warnings.catch_warnings():  # the gradient is asked for within the network, not at its input
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            regions = self.cls["regions"](tumour)["regions"]
        return Regions(regions[0].numpy(), regions.affine.numpy())
