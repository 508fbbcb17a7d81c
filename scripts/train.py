"""Both stages trained and judged, from prepared data to both model.pt, by one command.

python scripts/train.py --data packed.zip --output data/train --held_out SOURCE
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.train import main, train  # noqa: F401

if __name__ == "__main__":
    main()
