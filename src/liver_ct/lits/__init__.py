"""LiTS and MSD Task03_Liver made ready for training: pairs checked, split by patient, and listed."""

from liver_ct.lits.cases import BrokenPair
from liver_ct.lits.packing import pack, unpack
from liver_ct.lits.preparing import Prepared, prepare
from liver_ct.lits.slices import add_slices

__all__ = ["BrokenPair", "Prepared", "add_slices", "pack", "prepare", "unpack"]
