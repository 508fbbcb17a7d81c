"""What the files of a result are called."""

ALWAYS = ("prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv", "result.json")
PROB_MASK, LIVER_MASK, TABLE, RESULT = ALWAYS
PICTURE, REPORT = "overview.png", "report.html"
INDEX = "index.html"  # of all studies, beside their folders
DICOM_OUTPUTS = ("liver_mask.dcm", "prob_mask.dcm", "report.dcm")
DICOM_LIVER, DICOM_PROB, DICOM_REPORT = DICOM_OUTPUTS
OUTPUTS = (*ALWAYS, PICTURE, REPORT, *DICOM_OUTPUTS)
