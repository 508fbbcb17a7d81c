"""Out-of-fold Prob-Masks: every case's mask comes from a stage 1 that has not seen that person.

python scripts/prob_masks.py make --datalist data/lits/datalist.json --output data/prob
python scripts/prob_masks.py evaluate --datalist data/lits/datalist.json --output data/prob
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.prob_masks import evaluate, main, make  # noqa: F401

if __name__ == "__main__":
    main()
