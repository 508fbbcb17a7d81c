"""A worker for a PACS: each new CT series that fits taken through the chain, and its results stored there."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from liver_ct.chain.progress import Progress
from liver_ct.cli.imports import import_chain
from liver_ct.cli.printing import errors_in_one_line, hush_readers, print_json
from liver_ct.cli.program import Program, fail
from liver_ct.errors import StudyError, printable
from liver_ct.files import shipped

BUNDLES = shipped("bundles")
NEEDED = ("highdicom", "requests")


class Lines(Progress):
    """A line for each series as soon as it is done: on stdout, or on stderr where it is an error."""

    def done(self, line: str) -> None:
        """Print the line at once, also to a pipe."""
        print(printable(line), flush=True)

    def failed(self, line: str) -> None:
        """Print the line on stderr."""
        fail(line)


def watch(
    server: str,
    state: str,
    rules: str | None = None,
    output: str | None = None,
    dicomweb: bool = False,
    once: bool = False,
    poll: float = 5.0,
    settle: float = 60.0,
    days: int = 0,
    new_only: bool = False,
    retry: bool = False,
    credentials: str | None = None,
    allow_http: bool = False,
    device: str | None = None,
    mask_source: str | None = None,
    seg_bundle: str = str(BUNDLES / "liver_seg"),
    cls_bundle: str = str(BUNDLES / "liver_cls"),
) -> None:
    """Follow a server, take each CT series that fits through the chain, and store its DICOM results there.

    Any number of workers may share STATE: each series is done by one of them, once. A series that cannot be used gives
    one line on stderr and is remembered with its reason. A server that goes away is waited for.

    Args:
        server: https address of an Orthanc, or of the root of a DICOMweb server; http on this machine.
        state: folder in which workers for the server remember what is done; made if missing.
        rules: JSON file that says which series fit; default every CT.
        output: folder that keeps all results, report and index too; default none is kept once it is stored.
        dicomweb: true where the server is no Orthanc but any that has QIDO-RS, WADO-RS and STOW-RS.
        once: true ends when nothing is left to do; exit status 1 where a series was refused.
        poll: seconds between two looks at the server.
        settle: seconds without a new slice after which a series is taken for whole.
        days: only studies of the last so many days; 0 all.
        new_only: true leaves out what is on the server when a worker starts for the first time.
        retry: true tries those again that were refused.
        credentials: file with user:password or a token, for its owner's eyes only; default environment, ~/.netrc.
        allow_http: true lets patient data cross a network unencrypted.
        device: cpu, cuda, cuda:1 or mps; default a GPU of NVIDIA's if there is one.
        mask_source: how the classifier uses the Prob-Mask: prob, binary, dilated or none; default as its bundle is set.
        seg_bundle: folder of the segmentation bundle.
        cls_bundle: folder of the classification bundle.
    """
    with errors_in_one_line():
        require_packages()
        hush_readers()
        from liver_ct.pacs.connection import Connection, authorisation, check_address
        from liver_ct.pacs.dicomweb import DicomWeb
        from liver_ct.pacs.orthanc import Orthanc
        from liver_ct.pacs.rules import read_rules
        from liver_ct.pacs.steps import Options, Steps
        from liver_ct.pacs.worker import RESULTS, Worker, open_state

        wanted = read_rules(Path(rules) if rules else None, days)
        check_seconds("poll", poll, 0.01)
        check_seconds("settle", settle, 0)
        address = check_address(server, allow_http)
        connection = Connection(address, authorisation(address, Path(credentials) if credentials else None))
        pacs = DicomWeb(connection, days) if dicomweb else Orthanc(connection, settle)
        folder = Path(state).resolve()
        known = open_state(folder, f"{'DICOMweb' if dicomweb else 'Orthanc'} {address}")
        import_chain({} if (seg_bundle, cls_bundle) == DEFAULTS else {"seg_bundle": seg_bundle})
        from liver_ct.chain.folder import ChainOptions
        from liver_ct.outputs.names import Output
        from liver_ct.pacs.running import load_worker_chain

        chain_options = ChainOptions(
            seg_bundle=Path(seg_bundle),
            cls_bundle=Path(cls_bundle),
            mask_source=mask_source,
            device=device,
            outputs=Output.chosen(picture=bool(output), report=bool(output), dicom=True),
        )
        chain = load_worker_chain(chain_options, Path(output).resolve() if output else folder / RESULTS)
        options = Options(once, poll, settle, keep=bool(output), new_only=new_only, retry=retry)
        refused = Worker(Steps(pacs, known, wanted, chain, options, Lines())).run()
    if refused:
        raise SystemExit(1)


def require_packages() -> None:
    """Raise StudyError unless what the extra ``pacs`` installs is there."""
    for package in NEEDED:
        if find_spec(package) is None:
            raise StudyError(f"{package}: not installed. pip install 'liver-ct[pacs]'")


def check_seconds(name: str, seconds: float, least: float) -> None:
    """Raise StudyError for a time to wait that is too short, or longer than a day."""
    if not least <= seconds <= 86400:
        raise StudyError(f"--{name} {seconds}: not between {least} and 86400 seconds. Choose such a number.")


def stop_when_told(_values: Mapping[str, str]) -> None:
    """Have what systemd stops a program with do what Ctrl-C does, so that no patient data stay behind."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))


def status(state: str) -> None:
    """Say how many series ended how, and why those were not taken that were not.

    Args:
        state: folder of the workers.
    """
    from liver_ct.pacs.state import State
    from liver_ct.pacs.worker import DATABASE

    with errors_in_one_line():
        file = Path(state, DATABASE)
        if not file.is_file():
            raise StudyError(f"{state}: no worker was ever started with this folder. Check --state.")
        known = State(file)
        reasons = [dict(zip(("series", "outcome", "reason"), row)) for row in known.reasons()]
        print_json({**known.counts(), "reasons": reasons})


DEFAULTS = (str(BUNDLES / "liver_seg"), str(BUNDLES / "liver_cls"))
PROGRAM = Program("pacs", __doc__, {"watch": watch, "status": status}, begin=stop_when_told)
main = PROGRAM.run
