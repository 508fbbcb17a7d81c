"""The chain: both bundles loaded once, and one study taken through them in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from liver_ct.chain.stages import Stage, model_card
from liver_ct.chain.studies import Study, fingerprint
from liver_ct.files import write_json
from liver_ct.outputs.names import DICOM_REPORT, LIVER_MASK, PICTURE, PROB_MASK, REPORT, RESULT, TABLE
from liver_ct.outputs.results import Item, SliceRow, headline, slice_rows, summary, write_rows

DRAWING = threading.Lock()  # matplotlib is not made for threads


class Chain:
    """Both bundles, loaded once for any number of studies, which it takes one at a time."""

    def __init__(
        self, seg: Path, cls: Path, device: torch.device, mask_source: str | None, work: Path, series: str | None = None
    ) -> None:
        self.seg = Stage(seg, device, output_dir=str(work), series=series)
        self.cls = Stage(cls, device, **({"mask_source": mask_source} if mask_source else {}))
        self.threshold = float(self.cls["threshold"])
        self.settings = {
            "mask_source": self.cls["mask_source"],
            "bundles": {"liver_seg": self.seg.identity, "liver_cls": self.cls.identity},
            "series": series,
        }

    @torch.inference_mode()
    def run(self, study: Study, work: Path, extras: Collection[str] = ()) -> Item:
        """Process one study and leave its outputs and the ``extras`` in ``work``; returns what result.json holds."""
        if DICOM_REPORT in extras:
            from liver_ct.outputs.dicom import check_series, write_dicom  # highdicom takes half a second to import

            check_series(study.path)
        seconds: dict[str, float] = {}
        result = {"case": study.case, **self.record(study)}
        with timed(seconds, "read"):
            ct = self.seg["load"]({"image": str(study.path)})["image"]
        with timed(seconds, "resample"):
            item = self.seg["transform"]({"image": ct})
        with timed(seconds, "segment"):
            item = self.seg.infer(item)
        with timed(seconds, "restore"):
            masks = self.seg["restore"](item)
        with timed(seconds, "classify"):
            tumour = self.cls["score"](self.cls.infer(self.cls["transform"]({"image": ct, "prob": masks["prob"]})))
        with timed(seconds, "save"):
            self._save_masks(masks, study.case, work)
            rows = slice_rows(masks["pred"][0].numpy(), ct.affine.numpy(), tumour)
            write_rows(rows, work / TABLE)
        result |= summary(rows, masks["pred"], float(tumour["study_probability"]), self.threshold)
        if PICTURE in extras:
            with timed(seconds, "picture"), DRAWING:
                self._draw(work / PICTURE, ct, masks["prob"], rows, result)
        if DICOM_REPORT in extras:
            with timed(seconds, "dicom"):
                write_dicom(work, ct, masks, rows, result)
        if REPORT in extras:
            with timed(seconds, "regions"):
                regions = self.cls["regions"](tumour)["regions"] if "regions" in self.cls else None
            with timed(seconds, "report"):
                self._report(work / REPORT, ct, masks["prob"], rows, regions, result, seconds)
        result["seconds"] = {**seconds, "total": round(sum(seconds.values()), 3)}
        write_json(work / RESULT, result, indent=2)
        return result

    def record(self, study: Study) -> Item:
        """What a study's result depends on; a finished study with the same record need not be done again."""
        return {"input": study.path.name, "input_fingerprint": fingerprint(study.path), **self.settings}

    def _save_masks(self, masks: Item, case: str, work: Path) -> None:
        """The segmenter names files after its input; here they are named by what they hold."""
        for key in ("prob", "pred"):
            masks[key].meta["filename_or_obj"] = case
        self.seg["save"](masks)
        for name, postfix in ((PROB_MASK, "prob"), (LIVER_MASK, "seg")):
            (work / f"{case}_{postfix}.nii.gz").rename(work / name)

    def _draw(self, file: Path, ct: torch.Tensor, prob: torch.Tensor, rows: Sequence[SliceRow], result: Item) -> None:
        from liver_ct.outputs.picture import (
            draw_overview,  # matplotlib takes a second to import, and not every run draws
        )

        title = f"{result['case']}    {headline(result)}"
        draw_overview(file, title, ct[0].numpy(), prob[0].numpy(), ct.affine.numpy(), rows, self.threshold)

    def _report(
        self,
        file: Path,
        ct: torch.Tensor,
        prob: torch.Tensor,
        rows: Sequence[SliceRow],
        regions: torch.Tensor | None,
        result: Item,
        seconds: dict[str, float],
    ) -> None:
        from liver_ct.outputs.report import write_report

        result["seconds"] = {**seconds, "total": round(sum(seconds.values()), 3)}
        place = None if regions is None else (regions[0].numpy(), regions.affine.numpy())
        cards = [model_card(stage) for stage in (self.seg, self.cls)]
        write_report(file, result, rows, ct[0].numpy(), prob[0].numpy(), ct.affine.numpy(), place, cards)


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note in ``seconds[step]`` how long the block took."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)
