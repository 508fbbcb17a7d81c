"""CT to liver Prob-Mask to tumour probability: the two bundles one after the other, in memory, study by study.

python scripts/cascade.py --input CT_OR_FOLDER --output DIR
torchrun --standalone --nproc_per_node=2 scripts/cascade.py --input FOLDER --output DIR
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.cascade import cascade, main  # noqa: F401

if __name__ == "__main__":
    main()
