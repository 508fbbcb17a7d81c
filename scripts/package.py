"""The Model Zoo's archives of both bundles, if they pass what the zoo's CI checks.

python scripts/package.py --output dist
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.package import main, package  # noqa: F401

if __name__ == "__main__":
    main()
