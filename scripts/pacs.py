"""A worker for a PACS: each new CT series that fits taken through the chain, and its results stored there.

python scripts/pacs.py watch --server http://127.0.0.1:8042 --state DIR
python scripts/pacs.py status --state DIR
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.pacs import main, status, watch  # noqa: F401

if __name__ == "__main__":
    main()
