"""Phantom CTs: synthetic portal-venous abdomens with liver and tumour labels.

python scripts/phantom.py make --output data/phantom --cases 1 --size 256,256,80 --spacing 1.5,1.5,3
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.phantom import main, make  # noqa: F401

if __name__ == "__main__":
    main()
