"""Cross-validation of stage 2 by patient group, on out-of-fold Prob-Masks, and the training of its final weights.

python scripts/cross_validate.py run --masks data/prob --output data/cls
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.cross_validate import lesions, main, report, run  # noqa: F401

if __name__ == "__main__":
    main()
