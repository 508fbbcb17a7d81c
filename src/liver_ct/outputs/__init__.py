"""What a study's result is, and how it is written: table, picture, report, index and DICOM."""

__all__ = ["dicom", "findings", "folders", "index", "names", "picture", "report", "results", "writing"]
