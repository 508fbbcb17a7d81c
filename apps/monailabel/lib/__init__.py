"""The app's parts. They use the package liver_ct: the repository's own where the app lies in it, else the installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "src"))  # a folder that is not there does no harm
