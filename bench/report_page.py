"""How large a report is and what opening it costs; with --picture also the picture of the README.

    python scripts/demo.py
    python bench/report_page.py demo/volume-0/report.html --picture docs/report.png

Needs chromium and the package playwright. The first seconds are CPU time of the page's own process, main thread and all
threads, so that other work on the machine does not count; the last ones are those of a clock, the median of --repeats
openings, from the address to the first picture and to all slices.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from statistics import median

from PIL import Image
from playwright import sync_api

SCREENS = {"light": (1440, 900), "dark": (390, 900)}  # the colours, and the size of screen and phone
SHOWN = {"first picture": "#slice[data-drawn]", "all slices": "body[data-whole]"}  # and how the page says so
BROWSER = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def opened(browser: sync_api.Browser, file: Path, scheme: str) -> sync_api.Page:
    """The report, opened; what that costs is printed."""
    width, height = SCREENS[scheme]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    measure = page.context.new_cdp_session(page)
    measure.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(file.resolve().as_uri())
    for what, selector in SHOWN.items():
        page.wait_for_selector(selector)
        found = {each["name"]: each["value"] for each in measure.send("Performance.getMetrics")["metrics"]}
        print(f"{scheme}, {what}: {found['ThreadTime']:.2f} s main thread, {found['ProcessTime']:.2f} s all threads")
    return page


def by_the_clock(browser: sync_api.Browser, file: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds from the address to what is there, of so many openings, each in a page of its own."""
    found: dict[str, list[float]] = {what: [] for what in SHOWN}
    for _ in range(repeats):
        page = browser.new_page(viewport=dict(zip(("width", "height"), SCREENS["light"])))
        start = time.perf_counter()
        page.goto(file.resolve().as_uri(), wait_until="commit")
        for what, selector in SHOWN.items():
            page.wait_for_selector(selector)
            found[what].append(time.perf_counter() - start)
        page.close()
    return found


def main() -> None:
    """Open a report on a screen and a phone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"{args.report.stat().st_size / 1e6:.1f} MB")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(BROWSER))
        shots = [Image.open(io.BytesIO(opened(browser, args.report, scheme).screenshot())) for scheme in SCREENS]
        for what, seconds in by_the_clock(browser, args.report, args.repeats).items():
            print(f"{what}: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
        browser.close()
    if args.picture:
        picture = Image.new("RGB", (sum(shot.width for shot in shots), shots[0].height))
        picture.paste(shots[0], (0, 0))
        picture.paste(shots[1], (shots[0].width, 0))
        picture.quantize(256, dither=Image.Dither.NONE).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
