"""Both stages trained and judged by patient: out-of-fold Prob-Masks, cross-validation, and both stages as one."""

__all__ = ["calibration", "cross_validation", "datalists", "end_to_end", "intervals", "prob_masks", "running"]
