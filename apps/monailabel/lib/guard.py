"""Who may speak to the server: every request passes here before MONAI Label sees it."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
import os
import secrets
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import get_current_user
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.names import check_path, check_request, shown
from liver_ct.errors import StudyError

logger = logging.getLogger(__name__)
LOGIN = ("/auth/", "/auth/token")  # without a token, to get one
MEGABYTE = 1 << 20


def token() -> str:
    """The token clients must know, or nothing; from the environment, since `ps` and the log show the command line."""
    return os.environ.get("LIVER_CT_TOKEN", "").strip()


def protect(app: FastAPI) -> None:
    """Put the guard in place of MONAI Label's middleware, which lets pages of any origin in with credentials.

    Called while the server starts, before its first request: MONAI Label makes its app before it knows of this one.

    Args:
        app: MONAI Label's.

    Raises:
        StudyError: a setting that cannot be used.
    """
    origins = [origin.rstrip("/") for origin in os.environ.get("LIVER_CT_ORIGINS", "").split()]
    if "*" in origins:
        raise StudyError("LIVER_CT_ORIGINS: * would let every web page in. List the origins, each as https://host.")
    if token() and settings.MONAI_LABEL_AUTH_ENABLE:
        raise StudyError("LIVER_CT_TOKEN: not together with MONAI_LABEL_AUTH_ENABLE. Choose one of them.")
    app.middleware_stack = None  # Starlette makes it anew at the next request
    app.user_middleware[:] = [
        Middleware(RequestBodyLimitMiddleware, max_body_size=upload_limit()),
        Middleware(Guard, origins=origins, token=token()),
    ]
    if origins:
        every = {"allow_methods": ["*"], "allow_headers": ["*"]}
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_credentials=True, **every)
    logger.info(f"Pages let in: {', '.join(['its own', *origins])}; token: {'asked for' if token() else 'none'}")
    app.dependency_overrides[get_current_user] = check_request
    app.add_exception_handler(StudyError, bad_request)
    for missing in (ImageNotFoundException, LabelNotFoundException):
        app.add_exception_handler(missing, not_found)
    if token():
        app.get("/auth/", include_in_schema=False)(auth_enabled)
        app.post("/auth/token", include_in_schema=False)(login)
        app.get("/auth/token/valid", include_in_schema=False)(auth_enabled)


def upload_limit() -> int:
    """Bytes that a request may have."""
    limit = os.environ.get("LIVER_CT_MAX_UPLOAD_MB", "4096")
    if not limit.isdecimal() or not int(limit):
        raise StudyError(f"LIVER_CT_MAX_UPLOAD_MB: {limit} is not a number of megabytes. Give one, as 4096.")
    return int(limit) * MEGABYTE


class Guard:
    """Lets a request through when address, origin and token are right, and its path leads nowhere else.

    Starlette's TrustedHostMiddleware needs the hosts' names beforehand; the address that MONAI Label serves shows only
    at a connection.

    Args:
        app: what lies behind.
        origins: of web pages that may use this server besides its own, as ``https://host``.
        token: that clients must send; none is asked for when empty.
    """

    def __init__(self, app: ASGIApp, origins: list[str], token: str) -> None:
        self.app, self.origins, self.token = app, origins, token.encode()
        self.hosts = {origin.partition("://")[2] for origin in origins}
        self.small = RequestBodyLimitMiddleware(app, MEGABYTE)  # a body that is no upload is kept in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                self.check(scope, headers)
            except (HTTPException, StudyError) as e:
                status, line = (e.status_code, e.detail) if isinstance(e, HTTPException) else (400, str(e))
                logger.warning(f"Refused: {line}")
                await refusal(status, line)(scope, receive, send)
                return
            if self.token:
                del MutableHeaders(scope=scope)["authorization"]  # the proxy would hand it on to the DICOM server
            if not headers.get("content-type", "").startswith("multipart/"):
                app = self.small
        await app(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raise what is wrong with a request."""
        check_path(scope["path"])
        host, served = headers.get("host", ""), address(scope)
        names = {str(served)} | ({"localhost", "127.0.0.1", "::1"} if served.is_loopback else set())
        if host not in self.hosts and hostname(host) not in names:  # a page whose name leads here (DNS rebinding)
            raise HTTPException(403, f"{shown(host)}: not an address of this server. Use its own, or LIVER_CT_ORIGINS.")
        origin = headers.get("origin")
        if origin not in (None, f"{scope['scheme']}://{host}", *self.origins):
            raise HTTPException(
                403, f"{shown(origin)}: pages from there may not use this server. See LIVER_CT_ORIGINS."
            )
        if not (self.token or served.is_loopback or settings.MONAI_LABEL_AUTH_ENABLE):
            raise HTTPException(403, "Without a token only this machine is served. Set LIVER_CT_TOKEN.")
        if self.token and scope["path"] not in LOGIN and not same(sent_token(headers), self.token):
            raise HTTPException(401, "A token is needed: as bearer, or as password with any user name.")


def address(scope: Scope) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """This machine's end of the connection."""
    found = ipaddress.ip_address(scope["server"][0].partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def hostname(host: str) -> str:
    """Of a Host header, without the port, which a tunnel changes."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def sent_token(headers: Headers) -> bytes:
    """From the header Authorization: a bearer token, or the password that a browser asks its user for."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return value.encode() if scheme.lower() == "bearer" else b""
    try:
        return base64.b64decode(value).partition(b":")[2]
    except binascii.Error:
        return b""


def same(one: bytes, other: bytes) -> bool:
    """Whether they are equal, in a time that tells nothing."""
    return secrets.compare_digest(one, other)


def refusal(status: int, line: str) -> JSONResponse:
    """An answer of one line, in the form of FastAPI's."""
    headers = {"WWW-Authenticate": 'Basic realm="MONAI Label"'} if status == 401 else None
    return JSONResponse({"detail": " ".join(line.split())}, status, headers)


def bad_request(_: Request, error: Exception) -> JSONResponse:
    """A request that is refused."""
    logger.warning(f"Refused: {error}")
    return refusal(400, str(error))


def not_found(_: Request, error: Exception) -> JSONResponse:
    """An image or label that is not there."""
    return refusal(404, str(error))


def auth_enabled() -> dict[str, bool]:
    """MONAI Label's clients (3D Slicer) ask this to know whether to log in."""
    return {"enabled": True}


def login(password: Annotated[str, Form()]) -> dict[str, str]:
    """Clients log in with a user's name and password: any name, and the token."""
    if not same(password.encode(), token().encode()):
        raise HTTPException(401, "Wrong token: it is the password, with any user name.")
    return {"access_token": password, "token_type": "Bearer"}
