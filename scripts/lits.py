"""LiTS or MSD Task03_Liver made ready for training: each CT and its segmentation checked, split by patient, listed.

python scripts/lits.py prepare --source DOWNLOADS --output data/lits
python scripts/lits.py slices --npz slices.npz --datalist data/lits/datalist.json --output data/lits/slices
python scripts/lits.py pack --datalist data/lits/datalist.json --output train.zip
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that a bare checkout works, too
from liver_ct.cli.lits import main, pack, prepare, slices  # noqa: F401

if __name__ == "__main__":
    main()
