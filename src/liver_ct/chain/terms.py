"""Terms of the chain that are a closed set."""

from __future__ import annotations

from enum import Enum

from liver_ct.errors import StudyError


class MaskSource(str, Enum):
    """How the classifier uses the Prob-Mask."""

    PROB = "prob"  # as it is
    BINARY = "binary"  # above 0.5
    DILATED = "dilated"  # the binary mask, grown by some millimetres
    NONE = "none"  # not at all

    @classmethod
    def named(cls, name: str) -> MaskSource:
        """The mask source of that name; raises StudyError for an unknown one."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(source.value for source in cls)
            raise StudyError(f"--mask_source {name}: unknown. Use {known}.") from None
