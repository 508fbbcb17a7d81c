"""The chain on a phantom CT made here, or on a CT of the user's.

python scripts/demo.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.demo import demo, main  # noqa: F401

if __name__ == "__main__":
    main()
