"""``python -m liver_ct``: the command ``liver-ct``."""

from liver_ct.cli import main

main()
