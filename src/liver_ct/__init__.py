"""Liver CT in two stages: from a CT to the liver's Prob-Mask, and to the tumour probability of each of its slices."""

__version__ = "0.4.0"
