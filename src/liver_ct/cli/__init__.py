"""The commands: flags in, one call into the other rooms, exit code out. Only this room prints and exits."""

from liver_ct.cli.programs import main

__all__ = ["cascade", "cross_validate", "demo", "lits", "main", "package", "phantom", "prob_masks", "study", "train"]
