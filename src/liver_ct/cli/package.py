"""The Model Zoo's archives of both bundles, if they pass what the zoo's CI checks."""

from __future__ import annotations

from pathlib import Path

from liver_ct.cli.printing import errors_in_one_line
from liver_ct.cli.program import AGAIN, Program
from liver_ct.files import shipped

BUNDLES = shipped("bundles")


def package(output: str, bundles: str = str(BUNDLES), source: str = "", hub: str = "") -> None:
    """Check both bundles as the Model Zoo's CI does and write an archive of each; nothing if one of them fails.

    OUTPUT gets <zoo name>_v<version>.zip, the same bytes wherever and whenever it is made, SHA256SUMS, and
    model_info.json in the zoo's form. The bundles are left as they are.

    Args:
        output: folder for the archives.
        bundles: folder that holds liver_seg and liver_cls.
        source: URL of the folder where the archives will lie, for model_info.json.
        hub: folder that also gets one for each bundle, with a model card, as a model hub takes it.
    """
    from liver_ct.zoo import archives

    with errors_in_one_line():
        try:
            written = archives.package(Path(output), Path(bundles), source, Path(hub) if hub else None)
        except archives.Refused as e:
            raise SystemExit("\n".join(f"ERROR {problem}" for problem in e.problems)) from None
    for line in written:
        print(line)


PROGRAM = Program("package", __doc__, package, stopped=AGAIN)
main = PROGRAM.run
