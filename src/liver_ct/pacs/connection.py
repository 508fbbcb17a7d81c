"""HTTP to a server that holds patient data: encrypted or on this machine, credentials in no command line and no log."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import get_netrc_auth

from liver_ct.errors import StudyError
from liver_ct.pacs.servers import AwayError, GoneError

USER, PASSWORD, TOKEN = (f"LIVER_CT_PACS_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
SECONDS = (10, 120)  # to connect, and between two parts of an answer
CREDENTIALS, WHOLLY = (401, 403), (401, 403, 429, 502, 503, 504, 507)


def check_address(server: str, allow_http: bool) -> str:
    """The address of a server without a slash at its end; raises StudyError for one that is not to be used."""
    try:
        url = urlsplit(server)
        host, port = url.hostname, url.port  # noqa: F841  # the port is read to be checked
    except ValueError:
        url, host = urlsplit(""), None
    if url.username or url.password:
        fix = f"Give them by {USER} and {PASSWORD}, ~/.netrc or --credentials"
        raise StudyError(f"--server: holds credentials, which others could read in the list of processes. {fix}.")
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment:
        raise StudyError(f"--server {server}: not the address of a server. Give one such as http://127.0.0.1:8042.")
    if url.scheme == "http" and not (allow_http or is_loopback(host)):
        fix = "Use https, or --allow_http true in a network that nobody else reads"
        raise StudyError(f"--server {server}: patient data would cross the network unencrypted. {fix}.")
    return server.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def authorisation(server: str, credentials: Path | None) -> tuple[str, str] | str | None:
    """User and password, or a token, from the file, the environment or ~/.netrc, in this order; None without any.

    Raises:
        StudyError: a file that cannot be read, that others can read, or that holds something else.
    """
    if credentials:
        return read_credentials(credentials)
    if token := os.environ.get(TOKEN):
        return token
    if user := os.environ.get(USER):
        return user, os.environ.get(PASSWORD, "")
    return get_netrc_auth(server)


def read_credentials(file: Path) -> tuple[str, str] | str:
    """``user:password`` or a token, the only line of a file."""
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise StudyError(f"{file}: others can read these credentials. chmod 600 it.")
        text = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as e:
        cause = getattr(e, "strerror", None) or "not a text"
        raise StudyError(f"{file}: cannot be read ({cause}). Check --credentials.") from None
    if not text or len(text.splitlines()) > 1:
        raise StudyError(f"{file}: not one line with user:password, or with a token. Write it so.")
    user, colon, password = text.partition(":")
    return (user, password) if colon else text


def trusted() -> str | None:
    """File or folder of the certificates that are trusted beyond the usual, if REQUESTS_CA_BUNDLE names one; raises
    StudyError where that is not there."""
    named = os.environ.get("REQUESTS_CA_BUNDLE")
    if named and not Path(named).exists():
        raise StudyError(f"{named}: no such file or folder, though REQUESTS_CA_BUNDLE names it. Correct or unset that.")
    return named


class Connection:
    """A session with a server: it follows no redirects and uses no proxies, so that data go nowhere else.

    Args:
        server: of `check_address`.
        credentials: of `authorisation`.

    Raises:
        StudyError: as `trusted`.
    """

    def __init__(self, server: str, credentials: tuple[str, str] | str | None = None) -> None:
        self.server = server
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = trusted() or True
        self.session.headers["Accept-Encoding"] = "identity"  # so that a file that is cut short is noticed
        if isinstance(credentials, str):
            self.session.headers["Authorization"] = f"Bearer {credentials}".encode().decode("latin-1")  # which is sent
        elif credentials:
            self.session.auth = HTTPBasicAuth(*(part.encode() for part in credentials))

    def get_json(self, path: str, query: Mapping[str, Any] | None = None, accept: str = "application/json") -> Any:
        """What the server answers; None where it has nothing to say."""
        with self._ask("GET", path, params=query, headers={"Accept": accept}) as answer:
            return self._read_json(answer)

    def post(self, path: str, body: bytes | IO[bytes], headers: Mapping[str, str]) -> Any:
        """Send a body, and return what the server answers."""
        with self._ask("POST", path, data=body, headers=headers) as answer:
            return self._read_json(answer)

    @contextmanager
    def stream(self, path: str, accept: str) -> Iterator[requests.Response]:
        """An answer to be read in parts."""
        with self._ask("GET", path, headers={"Accept": accept}) as answer:
            yield answer

    @contextmanager
    def _ask(self, method: str, path: str, **request: Any) -> Iterator[requests.Response]:
        """Send a request and yield the answer; raises AwayError, also for what fails while the answer is read."""
        try:
            with self.session.request(
                method, f"{self.server}{path}", timeout=SECONDS, allow_redirects=False, stream=True, **request
            ) as answer:
                self._check(answer)
                yield answer
        except requests.RequestException as e:
            raise AwayError(f"{self.server}: {cause_of(e)}") from None  # its own text names what was asked for

    def _check(self, answer: requests.Response) -> None:
        status = answer.status_code
        if status in (404, 410):
            raise GoneError
        if status in WHOLLY or status >= 500 or status == 408:
            why = "refuses these credentials" if status in CREDENTIALS else "cannot do this now"
            raise AwayError(f"{self.server}: {why} (HTTP {status})", wholly=status in WHOLLY)
        if 300 <= status < 400:
            raise StudyError(f"{self.server}: redirects elsewhere (HTTP {status}). Give that address as --server.")
        if status >= 400:
            raise StudyError(f"{self.server}: refused (HTTP {status}). See the server's log.")

    def _read_json(self, answer: requests.Response) -> Any:
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError:
            raise AwayError(f"{self.server}: answers something that is no JSON") from None


def cause_of(error: requests.RequestException) -> str:
    """Why a server did not answer, in plain words."""
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted (REQUESTS_CA_BUNDLE names a file of trusted ones)"
    if isinstance(error, requests.Timeout):
        return "does not answer"
    return "cannot be reached, or broke off"
