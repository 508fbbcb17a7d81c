"""Synthetic abdominal CT with liver and tumour labels, for the demo and the tests."""

from liver_ct.phantom.volume import make_phantom
from liver_ct.phantom.writing import write_case, write_cases, write_dicom_series, write_msd

__all__ = ["make_phantom", "write_case", "write_cases", "write_dicom_series", "write_msd"]
