# A copy of tracking.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Where a training's curves go."""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec


class Tracker(str, Enum):
    """Values of the knob ``tracker``."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    NONE = "none"


def require_tracker(tracker: str, uri: str) -> None:
    """Raise SystemExit with one line for an unknown tracker, or MLflow where it is not installed or has no place.

    Args:
        tracker: one of `Tracker`.
        uri: MLflow's tracking URI.
    """
    problem = None
    known = [one.value for one in Tracker]
    if tracker not in known:
        problem = f"--tracker {tracker}: unknown. Use {', '.join(known)}."
    elif tracker == Tracker.MLFLOW and not find_spec("mlflow"):
        problem = "--tracker mlflow: MLflow is not installed. Run pip install mlflow, or use --tracker tensorboard."
    elif tracker == Tracker.MLFLOW and "://" not in uri:
        problem = f"--tracking_uri {uri}: is no URI. Use sqlite:////full/path/mlruns.db or a server's http://host:port."
    if problem:
        raise SystemExit(f"ERROR {problem}")
