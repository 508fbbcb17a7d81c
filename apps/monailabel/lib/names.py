"""What a request may name: nothing that leads out of the server's folders, nothing that is run as code."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user, oauth2_scheme
from monailabel.interfaces.utils.app import app_instance
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from liver_ct.errors import StudyError

# query and path parameters, and keys of a JSON body, that end up in the path of a file
NAMES = {"id", "image", "images", "label", "label_tag", "method", "model", "session_id", "strategy", "tag"}
FREE_TEXT = {"client_id", "device", "info", "label_info"}  # stored or compared only
NOT_FOR_CLIENTS = "bundle_path"  # MONAI Label puts it on the Python path of the process that it starts
FORMATS = (".nii.gz", ".nii", ".nrrd")
UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]")


def readings(text: str) -> set[str]:
    """The text as it is, and with its %-codes decoded, also those in what comes out."""
    found = {text}
    while (text := unquote(text)) not in found:
        found.add(text)
    return found


def check_name(name: str, what: str) -> None:
    """Refuse a name that a path would not take for a single file or folder.

    Raises:
        StudyError: a separator, a control character, ``.`` or ``..``, plain or in %-codes; over 200 bytes.
    """
    bad = any(UNSAFE.search(reading) or reading in (".", "..") for reading in readings(name))
    if bad or len(name.encode(errors="replace")) > 200:
        raise StudyError(f"{what}: {shown(name)} is not a plain name. Use one without folders, as /datastore lists it.")


def check_file_name(name: str) -> None:
    """Refuse a name of an uploaded file that leads elsewhere; whole paths are what MONAI Label's client sends, and the
    server uses their last part only.

    Raises:
        StudyError: no file at the end, ``..`` on the way, a control character; plain or in %-codes.
    """
    for reading in readings(name):
        folders = re.split(r"[/\\]", reading)
        if ".." in folders or folders[-1] in ("", ".") or UNSAFE.search(folders[-1]):
            raise StudyError(f"file: {shown(name)} does not name a file. Give it a plain name.")


def check_path(path: str) -> None:
    """Refuse an address with ``..``, backslashes or control characters, plain or in %-codes.

    Raises:
        StudyError: such an address; the DICOMweb proxy would go out of its folder with it.
    """
    for reading in readings(path):
        parts = reading.split("/")
        if "." in parts or ".." in parts or any(UNSAFE.search(part) for part in parts):
            raise StudyError(f"{shown(path)}: leads elsewhere. Use the address without dots and control characters.")


def check_params(value: Any, key: str = "params") -> None:
    """Refuse parameters that name other files or are run as code: MONAI Label merges them into its own request.

    Raises:
        StudyError: a name as in check_name, a key that is the server's own, or an expression of a MONAI config.
    """
    if key in FREE_TEXT:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.startswith("_") or name == NOT_FOR_CLIENTS:
                raise StudyError(f"{shown(name)}: not for clients to set. Leave it out.")
            check_params(inner, name)
    elif isinstance(value, list):
        for inner in value:
            check_params(inner, key)
    elif isinstance(value, str) and value:
        check_name(value, key)
        if key not in NAMES and value[0] in "$@%":
            raise StudyError(f"{key}: {shown(value)} would be run as code. Give a plain value.")


def shown(text: str) -> str:
    """A client's text for a line and a log: ASCII, quoted, short."""
    return ascii(text[:80])


async def check_request(request: Request) -> User:
    """Every endpoint of MONAI Label asks first who the user is; this answers as its own get_current_user does, once
    names, files and parameters of the request are checked.

    Raises:
        StudyError: a request that is refused.
    """
    for key, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if key in NAMES and value:
            check_name(value, key)
    if request.query_params.get("uncompress", "false").lower() not in ("false", "0", "no", "off", "f", "n"):
        raise StudyError("uncompress: archives are not unpacked here. Upload the files themselves.")
    if request.method in ("PUT", "DELETE") and request.url.path.startswith("/model/"):
        app_instance().check_weights(request.path_params["model"], request.method == "DELETE")
    form = await request.form()
    check_form(form, request.url.path.startswith("/datastore"))
    if not form and "path" not in request.path_params:  # the proxy hands its body on as it is
        check_body(await request.body())
    return await get_current_user(await oauth2_scheme(request) if settings.MONAI_LABEL_AUTH_ENABLE else "")


def check_form(form: FormData, kept: bool) -> None:
    """Check files and parameters of a form; ``kept``: the files are for the studies, so in a format of theirs."""
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            check_file_name(value.filename or "x.nii.gz")
            if kept and value.filename and not value.filename.endswith(FORMATS):
                raise StudyError(f"{key}: {shown(value.filename)} is no {', '.join(FORMATS)}. Convert it.")
        elif key in ("params", "info", "wsi") and value:
            check_params(parsed(value, key), key)


def check_body(body: bytes) -> None:
    """Check the parameters that a JSON body holds."""
    if body.strip():
        check_params(parsed(body, "body"))


def parsed(text: str | bytes, what: str) -> dict[str, Any]:
    """Parameters as the endpoint will see them."""
    try:
        value = json.loads(text)
    except ValueError as e:
        raise StudyError(f"{what}: not JSON. Send an object of parameters.") from e
    if not isinstance(value, dict | None):
        raise StudyError(f"{what}: not a JSON object. Send an object of parameters.")
    return value or {}
