"""The commands: flags in, one call into the other rooms, exit code out. Only this room prints and exits."""

__all__ = ["cascade", "cross_validate", "demo", "lits", "package", "phantom", "prob_masks", "study"]
