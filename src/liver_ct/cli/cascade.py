"""CT to liver Prob-Mask to tumour probability: the two bundles one after the other, in memory, study by study."""

from __future__ import annotations

from pathlib import Path

from liver_ct.cli.imports import import_chain
from liver_ct.cli.printing import ProgressBar, hush_readers
from liver_ct.cli.program import Program
from liver_ct.errors import describe
from liver_ct.files import shipped

BUNDLES = shipped("bundles")


def cascade(
    input: str,
    output: str,
    mask_source: str | None = None,
    device: str | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    seg_bundle: str = str(BUNDLES / "liver_seg"),
    cls_bundle: str = str(BUNDLES / "liver_cls"),
    picture: bool = True,
    report: bool = True,
    dicom_output: bool = False,
    series: str | None = None,
) -> None:
    """Find the liver in CTs, in which slices of it a tumour is likely, and which lesions there are.

    For each study, OUTPUT/<case>/ gets prob_mask.nii.gz, liver_mask.nii.gz, lesion_prob.nii.gz, slices.csv,
    lesions.csv, result.json, overview.png and report.html, all or none; OUTPUT/index.html and summary.csv list all
    studies there. A study that cannot be processed gives one line on stderr, and the exit status is 1 at the end. Under
    torchrun the processes share the studies.

    Args:
        input: a NIfTI, MHA or NRRD file, a DICOM series folder or a zip of one, or a folder of studies.
        output: folder for the results.
        mask_source: how the classifier uses the Prob-Mask: prob, binary, dilated or none; default as its bundle is set.
        device: cpu, cuda, cuda:1 (the second GPU) or mps (Apple's); default cuda if there is a GPU of NVIDIA's.
        jobs: studies at a time; default 2 where there are two CPU cores, 1 under torchrun.
        overwrite: true does finished studies again; false leaves out those of the same input, bundles and mask_source.
        seg_bundle: folder of the segmentation bundle.
        cls_bundle: folder of the classification bundle.
        picture: false leaves out overview.png, which takes half a second per study.
        report: false leaves out report.html, and makes neither index.html nor summary.csv where there is no index.html.
        dicom_output: true also writes masks as DICOM SEG, probabilities as Parametric Maps, and a Structured Report.
        series: SeriesNumber or SeriesInstanceUID of the CT, for DICOM folders that hold several.
    """
    hush_readers()
    import liver_ct.chain.memory  # noqa: F401  # before torch
    from liver_ct.chain.folder import ChainOptions, work_off
    from liver_ct.outputs.names import Output

    try:
        options = ChainOptions(
            seg_bundle=Path(seg_bundle),
            cls_bundle=Path(cls_bundle),
            mask_source=mask_source,
            device=device,
            jobs=jobs,
            overwrite=overwrite,
            outputs=Output.chosen(picture=picture, report=report, dicom=dicom_output),
            series=series,
        )
        failed = work_off(Path(input), Path(output), options, ProgressBar())
    except Exception as e:
        raise SystemExit(f"ERROR {describe(e, Path(input))}") from None
    if failed:
        raise SystemExit(1)


PROGRAM = Program("cascade", __doc__, cascade, begin=import_chain)
main = PROGRAM.run
