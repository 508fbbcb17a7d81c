"""Knobs that take one word of a few: the words as enums, which the configs and the command line write as plain text."""

from __future__ import annotations

from enum import Enum
from typing import NoReturn


class MaskSource(str, Enum):
    """Knob ``mask_source``: what the CT is judged through."""

    PROB = "prob"  # the Prob-Mask as it is
    BINARY = "binary"  # Prob-Mask > 0.5
    DILATED = "dilated"  # within dilate_mm of binary
    MANUAL = "manual"  # label > 0
    NONE = "none"  # ones

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        known = ", ".join(one.value for one in cls)
        raise ValueError(f"mask_source is {value!r}. Choose one of {known}.")


class Combine(str, Enum):
    """Knob ``combine``: how CT and mask become the network's input."""

    MULTIPLY = "multiply"  # CT times mask
    CONCAT = "concat"  # as channels, the CT first

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"combine is {value!r}. Choose multiply or concat.")


class Normalise(str, Enum):
    """Knob ``normalise``: the HU that become 0."""

    LIVER = "liver"  # the study's own median under the mask
    FIXED = "fixed"  # one level for all

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"normalise is {value!r}. Choose liver or fixed.")


def require_terms(mask_source: str, combine: str, normalise: str) -> None:
    """Raise SystemExit with one line for a word that its knob does not know, before any CT is read."""
    for term, word in ((MaskSource, mask_source), (Combine, combine), (Normalise, normalise)):
        try:
            term(word)
        except ValueError as e:
            raise SystemExit(f"ERROR --{e}") from None
