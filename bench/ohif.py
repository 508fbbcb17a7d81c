# ruff: noqa: S310, S606 (addresses and programs are this file's own)
"""A study and its results in OHIF, in a browser, from a real server: a picture of what is shown.

python bench/ohif.py --dist FOLDER --series FOLDER --results FOLDER --output docs/ohif.png

FOLDER of --dist is package/dist of what `npm pack @ohif/app` fetches. Needs Orthanc with its DICOMweb plugin, Chromium,
and root, as all of it runs in a network of its own that has loopback only.
"""

from __future__ import annotations

import fcntl
import functools
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fire
from PIL import Image

ORTHANC, OHIF = "http://127.0.0.1:8042", "http://127.0.0.1:3000"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
SOURCE = {
    "friendlyName": "Orthanc", "name": "orthanc", "wadoUriRoot": "/wado", "qidoRoot": "/dicom-web",
    "wadoRoot": "/dicom-web", "qidoSupportsIncludeField": False, "imageRendering": "wadors",
    "thumbnailRendering": "wadors", "supportsWildcard": True, "omitQuotationForMultipartRequest": True,
    "bulkDataURI": {"enabled": True},
}  # fmt: skip
CONFIG = {
    "routerBasename": None, "extensions": [], "modes": [], "showStudyList": True, "maxNumberOfWebWorkers": 2,
    "showCPUFallbackMessage": False, "strictZSpacingForVolumeViewport": True, "defaultDataSourceName": "orthanc",
    "investigationalUseDialog": {"option": "never"},
    "maxNumRequests": {"interaction": 10, "thumbnail": 5, "prefetch": 5},
    "dataSources": [{"namespace": "@ohif/extension-default.dataSourcesModule.dicomweb", "sourceName": "orthanc",
                     "configuration": SOURCE}],
}  # fmt: skip
SHOWN = (
    "Lesions.",
    "Candidates.",
    "Liver and tumour.",
    "Liver, probability",
    "Tumour, probability",
)  # by how they begin
DRAWN = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


class Site(SimpleHTTPRequestHandler):
    """OHIF's files, its configuration, and Orthanc's DICOMweb under the same address."""

    def do_GET(self) -> None:  # noqa: N802 (the library's name)
        """Answer a request."""
        path = self.path.split("?")[0]
        if path.startswith(("/dicom-web", "/wado")):
            request = urllib.request.Request(ORTHANC + self.path, headers={"Accept": self.headers["Accept"]})
            with urllib.request.urlopen(request) as answer:
                self.answer(answer.read(), answer.headers["Content-Type"])
        elif path == "/app-config.js":
            self.answer(f"window.config = {json.dumps(CONFIG)}".encode(), "text/javascript")
        else:
            if not Path(self.directory, path.lstrip("/")).is_file():  # a page that the viewer makes itself
                self.path = "/index.html"
            super().do_GET()

    def answer(self, body: bytes, kind: str) -> None:
        """Send a body of a type."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def start_orthanc(folder: Path) -> subprocess.Popen[bytes]:
    """Orthanc without a DICOM port."""
    config = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [PLUGIN],
        "DicomServerEnabled": False, "HttpPort": 8042, "RemoteAccessAllowed": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(config))
    log = (folder / "log").open("w")
    server = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    for _ in range(150):
        try:
            urllib.request.urlopen(f"{ORTHANC}/system").read()
            return server
        except OSError:
            time.sleep(0.2)
    raise SystemExit((folder / "log").read_text())


def shoot(study: str, up: int, wait: int = 20000) -> list[Image.Image]:
    """A picture of the viewer for each of the series that are there."""
    from playwright.sync_api import sync_playwright

    shots = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=DRAWN)
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.on("console", lambda message: print(message.text[:200]) if message.type == "error" else None)
        page.set_default_timeout(180000)
        page.goto(f"{OHIF}/viewer?StudyInstanceUIDs={study}")
        page.get_by_text("Skip all").click(force=True)
        for name in SHOWN:
            series = page.get_by_text(name).first
            if series.count():
                page.wait_for_timeout(wait // 4)
                series.dblclick(force=True)
                page.wait_for_timeout(wait)
                if not name.endswith("."):  # a map: up from the middle slice
                    page.mouse.move(740, 400)
                    for _ in range(up):
                        page.mouse.wheel(0, -100)
                        page.wait_for_timeout(500)
                    page.wait_for_timeout(wait // 4)
                shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        browser.close()
    return shots


def main(dist: str, series: str, results: str, output: str, up: int = 0) -> None:
    """Upload, open, take the pictures and put them side by side; maps so many slices up from the middle."""
    if os.environ.get("OHIF_APART") != "1":
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, "OHIF_APART": "1"})
    fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
    with tempfile.TemporaryDirectory() as folder:
        server = start_orthanc(Path(folder))
        try:
            for file in [*Path(series).iterdir(), *Path(results).glob("*.dcm")]:
                urllib.request.urlopen(urllib.request.Request(f"{ORTHANC}/instances", file.read_bytes())).read()
            site = ThreadingHTTPServer(("127.0.0.1", 3000), functools.partial(Site, directory=dist))
            threading.Thread(target=site.serve_forever, daemon=True).start()
            with urllib.request.urlopen(f"{ORTHANC}/dicom-web/studies") as answer:
                shots = shoot(json.loads(answer.read())[0]["0020000D"]["Value"][0], up)
        finally:
            server.terminate()
            server.wait()
    width, height = shots[0].size
    sheet = Image.new("RGB", (width, height * len(shots)))
    for i, shot in enumerate(shots):
        sheet.paste(shot, (0, i * height))
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(output, optimize=True)


if __name__ == "__main__":
    fire.Fire(main)
