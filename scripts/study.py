"""The experiment: does the Prob-Mask help, how much, and can the gap to the manual mask be closed?

python scripts/study.py run --config scripts/study.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.study import bundle, calibration, compare, judge, main, pool, report, run  # noqa: F401

if __name__ == "__main__":
    main()
