"""Promises of report.html and index.html, kept in a browser on what the chain writes for phantoms."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cascade
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, io_orientation
from PIL import Image, ImageChops
from playwright import sync_api
from programs import program
from test_cascade import bundles  # noqa: F401

import liver_ct
from liver_ct import phantom
from liver_ct.chain.stages import Stage
from liver_ct.outputs import report, slices

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (144, 120, 48), (2.6, 2.6, 5.0)
SMALL = {"size": (72, 60, 24), "spacing": (5.2, 5.2, 10.0)}
HARMFUL = "<script>alert(1)<"
STUDIES = {  # knobs of the phantom
    "plain": {"axcodes": "LPS"},
    HARMFUL: {"axcodes": "SAR", "spacing": (2.6, 3.1, 5.0)},
    "healthy": {"tumours": 0, "seed": 1},
}
BROWSER = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def save_case(folder: Path, name: str, **knobs) -> np.ndarray:
    """Write a phantom CT; returns its labels."""
    ct, labels, affine = phantom.make_phantom(**{"size": SIZE, "spacing": SPACING, "tumours": 2, "seed": 3, **knobs})
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(ct, affine), folder / f"{name}.nii.gz")
    return labels


def run(source: Path, output: Path, **knobs) -> None:
    cascade.cascade(str(source), str(output), **{"device": "cpu", "picture": False, **knobs})


def cls_bundle_with(folder: Path, **knobs) -> Path:
    """The classification bundle with other values in its inference.json; None takes one out."""
    shipped = ROOT / "bundles" / "liver_cls"
    (folder / "configs").mkdir(parents=True)
    for name in ("models", "scripts", "docs", "configs/metadata.json"):
        (folder / name).symlink_to(shipped / name)
    config = json.loads((shipped / "configs" / "inference.json").read_text()) | knobs
    kept = {key: value for key, value in config.items() if value is not None or key not in knobs}
    (folder / "configs" / "inference.json").write_text(json.dumps(kept))
    return folder


def read_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """Folder of inputs, folder of results by the shipped weights, and the labels; one of the inputs is no image."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("output")
    labels = {name: save_case(source, name, **knobs) for name, knobs in STUDIES.items()}
    (source / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        run(source, output)
    return source, output, labels


@pytest.fixture(scope="module")
def unflagged(done, bundles, tmp_path_factory) -> Path:  # noqa: F811
    """Report of a study without a flagged slice."""
    folder = tmp_path_factory.mktemp("unflagged")
    cls_bundle = cls_bundle_with(folder / "liver_cls", threshold=0.99)
    run(done[0] / "healthy.nii.gz", folder / "out", **{**bundles, "cls_bundle": str(cls_bundle)})
    return folder / "out" / "healthy" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program("chromium", "chromium"), args=list(BROWSER))
        yield started
        started.close()


@pytest.fixture
def visit(browser) -> Iterator:
    """Function that opens a file in a page of its own; errors, dialogs and requests but for the file fail the test."""
    wrong, pages = [], []

    def note(request) -> None:
        if not request.url.startswith(("data:", pages[-1].asked)):
            wrong.append(request.url)

    def open_file(file: Path, **options):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        page.asked = file.as_uri()
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", note)
        page.goto(file.as_uri())
        if file.name == "report.html":
            page.wait_for_selector("#slice[data-drawn]")
        return page

    yield open_file
    for page in pages:
        page.close()
    assert wrong == []


def until(page, expression: str) -> None:
    """Wait until an expression is true; wait_for_function evaluates within the page, which its policy forbids."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(30)
    pytest.fail(f"{expression} stays false")


def place(page) -> int:
    """Which of the shown slices is drawn, once drawing has caught up."""
    until(page, "find('slice').dataset.drawn === String(state.place)")
    return page.evaluate("state.place")


def pixels(page, canvas: str = "slice") -> np.ndarray:
    """``[rows, columns, 3]`` of a canvas, once it is drawn."""
    place(page)
    page.wait_for_timeout(50)
    url = page.evaluate(f"find('{canvas}').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"), np.int16)


def without_marks(page) -> None:
    """Regions and lesions off, so that the CT and the Prob-Mask are left."""
    for name in ("regions", "lesions"):
        if page.is_enabled(f"#show-{name}"):
            page.uncheck(f"#show-{name}")


def drag(page, selector: str, start: tuple[float, float], end: tuple[float, float], button: str = "left") -> None:
    """From one place in a picture to another, as shares of its canvas."""
    box = page.query_selector(selector).bounding_box()
    (x1, y1), (x2, y2) = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
    page.mouse.move(x1, y1)
    page.mouse.down(button=button)
    page.mouse.move(x2, y2, steps=4)
    page.mouse.up(button=button)


def turned_to_ras(image) -> tuple[np.ndarray, np.ndarray]:
    """A nibabel image's array and its spacing in mm, right, front and up."""
    orientation = io_orientation(image.affine)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
    return apply_orientation(image.get_fdata(), orientation), spacing


def changed(one: np.ndarray, other: np.ndarray) -> int:
    """How many pixels differ, but for rounding."""
    return int((np.abs(one - other) > 1).any(-1).sum())


class TestReport:
    def test_opens_at_the_most_suspicious_slice_and_says_what_result_json_says(self, done, visit):
        result, page = read_result(done[1] / "plain"), visit(done[1] / "plain" / "report.html")
        assert page.title().startswith("plain") and page.inner_text("h1") == "plain"
        assert page.inner_text("#probability") == f"{result['study_tumour_probability']:.2f}"
        assert page.inner_text("#flagged") == str(len(result["flagged_slices"])) != "0"
        assert page.inner_text("#volume") == f"{result['liver_volume_ml']:.0f}"
        assert page.inner_text("#lesion-count") == str(len(result["lesions"]))
        assert f"{result['study_tumour_probability']:.2f}, flagged" in page.inner_text("#now")
        shown = page.evaluate("data.slices.filter(s => s[2] >= data.threshold).map(s => s[0])")
        assert sorted(shown) == sorted(result["flagged_slices"])
        rows = dict(row.split("\t") for row in page.inner_text("#seconds").splitlines())
        for step in set(rows) - {"total"}:
            assert float(rows[step]) == result["seconds"][step]
        assert result["seconds"]["total"] == pytest.approx(sum(result["seconds"].values()) / 2, abs=0.01)
        text = page.content()
        for bundle in result["bundles"].values():
            assert bundle["weights_sha256"] in text and bundle["version"] in text
        assert "Not for diagnosis" in text and "CC BY-NC-ND 4.0" in text
        for name in ("liver_seg", "liver_cls"):
            metadata = json.loads((ROOT / "bundles" / name / "configs" / "metadata.json").read_text())
            for figure, value in metadata["eval_metrics"].items():
                assert f"{figure.replace('_', ' ')} {value}" in text

    def test_volume_range_is_that_of_the_prob_mask_on_disk(self, done):
        for name in STUDIES:
            mask = nib.load(done[1] / name / "prob_mask.nii.gz")
            values, voxel_ml = np.asarray(mask.dataobj.get_unscaled()), abs(np.linalg.det(mask.affine[:3, :3])) / 1000
            expected = [(values / 255 > level).sum() * voxel_ml for level in (0.9, 0.1)]
            assert read_result(done[1] / name)["liver_volume_range_ml"] == pytest.approx(expected, abs=0.02)

    def test_findings_name_every_run_of_flagged_slices(self, done, visit):
        result, page = read_result(done[1] / "plain"), visit(done[1] / "plain" / "report.html")
        slices = set()
        for row in page.query_selector_all("#runs tbody tr"):
            ends = [int(number) for number in re.findall(r"\d+", row.query_selector("td").inner_text())]
            slices |= set(range(ends[0], ends[-1] + 1))
        assert slices == set(result["flagged_slices"])
        page.click("#runs tbody tr:last-child button")
        slice_ = page.get_attribute("#runs tbody tr:last-child button", "data-slice")
        assert page.inner_text("#now").startswith(f"slice {slice_},") and "flagged" in page.inner_text("#now")

    def test_keys_wheel_slider_buttons_and_curve_move_through_the_slices(self, done, visit):
        page = visit(done[1] / "plain" / "report.html")
        first, start = pixels(page), place(page)
        page.keyboard.press("ArrowRight")
        assert place(page) == start + 1 and changed(first, pixels(page)) > 10_000
        page.keyboard.press("ArrowLeft")
        assert changed(first, pixels(page)) == 0
        page.hover("#axial")
        page.mouse.wheel(0, 100)
        assert place(page) == start - 1
        page.mouse.wheel(0, -100)
        page.keyboard.press("PageUp")
        assert place(page) == start + 10
        page.keyboard.press("Home")
        assert place(page) == 0 and page.input_value("#place") == "0" and "not considered" in page.inner_text("#now")
        page.fill("#place", str(start))
        assert place(page) == start
        page.click("#up")
        page.click("#down")
        page.click("#down")
        assert place(page) == start - 1
        page.click("#next")
        assert place(page) == start and "flagged" in page.inner_text("#now")

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.93])
    def test_a_click_on_the_curve_or_the_coronal_goes_there(self, done, visit, share):
        page = visit(done[1] / HARMFUL / "report.html")
        low, high = (float(page.get_attribute("#curve", f"data-{end}")) for end in ("low", "high"))
        for selector, x, y, wanted in (
            ("#curve", share, 0.5, low + share * (high - low)),
            ("#front", 0.5, share, high + SPACING[2] / 2 - share * (high - low + SPACING[2])),  # the coronal
        ):
            box = page.query_selector(selector).bounding_box()
            page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            z = page.evaluate(f"data.slices[{place(page)}][1]")
            assert abs(z - wanted) <= SPACING[2] * 0.6
            cursor = (
                page.query_selector("#cursor").bounding_box()["x"]
                + 1
                - page.query_selector("#curve").bounding_box()["x"]
            )
            width = page.query_selector("#curve").bounding_box()["width"]
            assert cursor / width == pytest.approx((z - low) / (high - low), abs=0.01)

    def test_opacity_prob_mask_regions_and_window_change_the_picture(self, done, visit):
        page = visit(done[1] / "plain" / "report.html")
        without_marks(page)
        plain = pixels(page)
        page.fill("#opacity", "20")
        faint = pixels(page)
        page.fill("#opacity", "0")
        bare = pixels(page)
        assert (bare[..., 0] == bare[..., 1]).all() and (bare[..., 0] == bare[..., 2]).all()  # nothing but gray
        strength = [np.abs(image - bare).sum() for image in (faint, plain)]
        assert 0 < strength[0] < 0.5 * strength[1]
        page.fill("#opacity", "70")
        page.uncheck("#show-prob")
        assert changed(bare, pixels(page)) == 0
        page.check("#show-regions")
        assert 100 < changed(bare, pixels(page)) < 0.1 * bare[..., 0].size
        page.keyboard.press("r")
        page.keyboard.press("m")
        assert changed(plain, pixels(page)) == 0
        page.click("text=Soft tissue")
        assert changed(plain, pixels(page)) > 10_000

    def test_a_screenshot_changes_too(self, done, visit):
        page, shots = visit(done[1] / "plain" / "report.html"), []
        for action in (lambda: None, lambda: page.uncheck("#show-regions"), lambda: page.keyboard.press("ArrowLeft")):
            action()
            place(page)
            page.wait_for_timeout(100)
            page.query_selector("#axial").screenshot(path=str(done[1].parent / "shot.png"))
            shots.append(Image.open(done[1].parent / "shot.png").convert("RGB"))
        assert all(ImageChops.difference(one, other).getbbox() for one, other in itertools.pairwise(shots))

    @pytest.mark.parametrize("name", ["plain", HARMFUL])
    def test_regions_and_prob_mask_lie_where_they_belong_in_the_picture(self, done, visit, name):
        """In the pixels of the browser: the regions on the tumour, the lines of the Prob-Mask around the liver."""
        source, output, labels = done
        ct = nib.load(source / f"{name}.nii.gz")
        turn = io_orientation(ct.affine)
        label, box = (apply_orientation(labels[name], turn), report.body_box(apply_orientation(ct.get_fdata(), turn)))
        page = visit(output / name / "report.html")
        without_marks(page)
        prob = pixels(page)
        page.uncheck("#show-prob")
        bare = pixels(page)
        page.check("#show-regions")
        heat = np.abs(pixels(page) - bare).sum(-1)
        seen = Image.fromarray(label[box[0], box[1], page.evaluate("state.place")][::-1, ::-1].T)
        seen = np.asarray(seen.resize(bare.shape[1::-1], Image.Resampling.NEAREST))
        assert (seen == 2).any() and seen[np.unravel_index(heat.argmax(), heat.shape)] == 2
        tinted = np.abs(prob - bare).sum(-1) > 0
        both = (tinted & (seen > 0)).sum()
        assert 2 * both / (tinted.sum() + (seen > 0).sum()) > 0.85

    def test_names_are_harmless(self, done, visit):
        page = visit(done[1] / HARMFUL / "report.html")
        assert page.inner_text("h1") == HARMFUL and page.query_selector("h1 script") is None
        assert HARMFUL.encode() not in (done[1] / HARMFUL / "report.html").read_bytes()

    def test_no_flag_is_no_promise(self, unflagged, visit):
        page = visit(unflagged)
        assert page.inner_text("#flagged") == "0" and page.is_disabled("#next")
        assert "does not exclude a tumour" in page.inner_text("#findings")

    @pytest.mark.parametrize("width", [360, 768, 1366])
    def test_no_page_is_wider_than_its_screen(self, done, visit, width):
        for file in (done[1] / HARMFUL / "report.html", done[1] / "index.html"):
            page = visit(file, viewport={"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_dark_where_the_reader_likes_it_and_white_on_paper(self, done, visit):
        back = "getComputedStyle(document.body).backgroundColor"
        file = done[1] / "plain" / "report.html"
        light, dark = (visit(file, color_scheme=scheme) for scheme in ("light", "dark"))
        assert sum(map(int, re.findall(r"\d+", light.evaluate(back)))) > 600
        assert sum(map(int, re.findall(r"\d+", dark.evaluate(back)))) < 150
        dark.emulate_media(media="print", color_scheme="dark")
        assert dark.evaluate(back) == "rgb(255, 255, 255)" and not dark.is_visible("#opacity")
        assert dark.is_visible("#slice") and dark.is_visible("#findings")

    def test_an_old_browser_says_so(self, done, browser):
        page = browser.new_page()
        page.add_init_script("delete window.DecompressionStream")
        page.goto((done[1] / "plain" / "report.html").as_uri())
        until(page, "find('now').textContent.startsWith('The slices cannot be shown')")
        page.close()

    def test_left_out_when_asked_for(self, done, bundles, tmp_path):  # noqa: F811
        run(done[0] / "healthy.nii.gz", tmp_path, report=False, **bundles)
        assert {path.name for path in tmp_path.iterdir()} == {"healthy"}
        assert not (tmp_path / "healthy" / "report.html").exists()
        assert not {"report", "regions"} & set(read_result(tmp_path / "healthy")["seconds"])

    def test_a_bundle_without_regions_has_a_report_without(self, done, bundles, visit, tmp_path):  # noqa: F811
        bundle = cls_bundle_with(tmp_path / "liver_cls", regions=None)
        run(done[0] / "healthy.nii.gz", tmp_path / "out", **{**bundles, "cls_bundle": str(bundle)})
        page = visit(tmp_path / "out" / "healthy" / "report.html")
        assert page.is_disabled("#show-regions") and "Regions:" not in page.inner_text(".said")


class TestViewer:
    @pytest.mark.parametrize("low, high", [(-200, 300), (20, 80), (-1000, 200), (0, 1000)])
    def test_any_window_shows_the_hu_of_the_ct(self, done, visit, low, high):
        page = visit(done[1] / HARMFUL / "report.html")
        page.fill("#opacity", "0")
        page.fill("#level", str((low + high) / 2))
        page.fill("#width", str(high - low))
        page.press("#width", "Enter")
        ct, _ = turned_to_ras(nib.load(done[0] / f"{HARMFUL}.nii.gz"))
        box = report.body_box(ct)
        seen = pixels(page)[..., 0]
        plane = ct[box[0], box[1], page.evaluate("state.place")][::-1, ::-1].T
        expected = np.clip((plane - low) / (high - low), 0, 1).astype(np.float32) * 255
        smooth = Image.fromarray(seen.astype(np.float32)).resize(plane.shape[::-1], Image.Resampling.BOX)
        wrong_hu = np.abs(np.asarray(smooth) - expected) / 255 * (high - low)
        assert np.median(wrong_hu) < max(5, 0.015 * (high - low)) and wrong_hu.mean() < 0.06 * (high - low)

    def test_window_by_dragging_with_the_tool_or_the_right_button(self, done, visit):
        page = visit(done[1] / "plain" / "report.html")
        first = pixels(page)
        for button in ("right", "left"):
            page.click("[data-window='-60,200']")
            if button == "left":
                page.click("[data-tool=window]")
            drag(page, "#slice", (0.4, 0.4), (0.6, 0.5), button)
            level, width = (int(page.input_value(f"#{name}")) for name in ("level", "width"))
            assert level > 90 and width > 400
            assert page.evaluate("state.window") == pytest.approx([level - width / 2, level + width / 2], abs=1)
            assert page.get_attribute("[data-window='-60,200']", "aria-pressed") == "false"
            assert changed(first, pixels(page)) > 10_000

    def test_zoom_and_pan(self, done, visit):
        page = visit(done[1] / "plain" / "report.html")
        whole = page.query_selector("#slice").bounding_box()
        at = (whole["x"] + 0.3 * whole["width"], whole["y"] + 0.6 * whole["height"])
        page.mouse.move(*at)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -400)
        page.keyboard.up("Control")
        until(page, "panes.axial.view.zoom > 2")
        large = page.query_selector("#slice").bounding_box()
        assert large["width"] == pytest.approx(whole["width"] * page.evaluate("panes.axial.view.zoom"), rel=1e-3)
        assert (at[0] - large["x"]) / large["width"] == pytest.approx(0.3, abs=0.01)  # what is under the pointer stays
        page.click("[data-tool=pan]")
        drag(page, "#axial", (0.5, 0.5), (0.45, 0.4))
        moved = page.query_selector("#slice").bounding_box()
        assert moved["x"] < large["x"] - 10 and moved["y"] < large["y"] - 10
        page.click("#reset")
        assert page.query_selector("#slice").bounding_box() == whole

    @pytest.mark.parametrize("canvas, axes", [("slice", (0, 1)), ("front", (0, 2)), ("side", (1, 2))])
    def test_ruler_in_mm_where_pixels_are_not_square(self, done, visit, canvas, axes):
        page = visit(done[1] / HARMFUL / "report.html")
        ct, spacing = turned_to_ras(nib.load(done[0] / f"{HARMFUL}.nii.gz"))
        sizes = [*(span.stop - span.start for span in report.body_box(ct)), ct.shape[2]]
        page.keyboard.press("d")
        for end in ((0.75, 0.3), (0.25, 0.7), (0.7, 0.7)):
            drag(page, f"#{canvas}", (0.25, 0.3), end)
            mm = [(to - start) * sizes[axis] * spacing[axis] for to, start, axis in zip(end, (0.25, 0.3), axes)]
            said = float(re.search(r"([\d.]+) mm", page.inner_text("#measured")).group(1))
            assert said == pytest.approx(np.hypot(*mm), abs=2)
        page.keyboard.press("Escape")
        assert page.inner_text("#measured") == ""

    def test_the_three_planes_meet_at_the_cross(self, done, visit):
        page = visit(done[1] / HARMFUL / "report.html")
        page.wait_for_selector("body[data-whole]")
        page.fill("#opacity", "0")
        ct, _ = turned_to_ras(nib.load(done[0] / f"{HARMFUL}.nii.gz"))
        box = report.body_box(ct)
        shown = ct[box[0], box[1]][::-1, ::-1, ::-1]  # as seen: from the right, the front, the head
        drag(page, "#slice", (0.3, 0.4), (0.35, 0.45))
        x, y = page.evaluate("[state.x, state.y]")
        assert (x, y) == pytest.approx((0.35, 0.45), abs=0.01)
        for canvas, plane in (
            ("front", shown[:, int(y * shown.shape[1])].T),
            ("side", shown[int(x * shown.shape[0])].T),
        ):
            seen = Image.fromarray(pixels(page, canvas)[..., 0].astype(np.float32))
            seen = np.asarray(seen.resize(plane.shape[::-1], Image.Resampling.BOX))
            assert np.corrcoef(seen.ravel(), np.clip(plane, -60, 200).ravel())[0, 1] > 0.95
        drag(page, "#side", (0.6, 0.5), (0.6, 0.5))
        assert page.evaluate("state.y") == pytest.approx(0.6, abs=0.01)
        assert place(page) == pytest.approx(SIZE[2] / 2, abs=1)

    @pytest.mark.parametrize("name", ["plain", HARMFUL])
    def test_each_lesion_is_listed_and_shown(self, done, visit, name):
        result, page = read_result(done[1] / name), visit(done[1] / name / "report.html")
        meaning = page.inner_text("#lesion-meaning")
        assert result["lesions"] and result["lesions_shown_as"] in meaning.lower()
        measured = json.loads((ROOT / "bundles/liver_cls/configs/metadata.json").read_text())["eval_metrics"]
        share, false = measured["lesion_sensitivity_over_2_cm"], measured["false_lesions_per_person"]
        assert f"{100 * share:.0f}\xa0% over 2 cm" in meaning and f"{false:g} false ones per person" in meaning
        lesions, _ = turned_to_ras(nib.load(done[1] / name / "lesion_prob.nii.gz"))
        box = report.body_box(turned_to_ras(nib.load(done[0] / f"{name}.nii.gz"))[0])
        shown = lesions[box[0], box[1]][::-1, ::-1]
        for lesion, row in zip(result["lesions"], page.query_selector_all("#lesions tbody tr")):
            row.query_selector("button").click()
            assert page.inner_text("#now").startswith(f"slice {lesion['key_slice']},")
            assert f"{lesion['diameter_mm']:.0f}" in row.inner_text()
            x, y = (int(share * size) for share, size in zip(page.evaluate("[state.x, state.y]"), shown.shape))
            assert shown[x - 1 : x + 2, y - 1 : y + 2, place(page)].max() > 0.3
            with_outline = pixels(page)
            page.keyboard.press("o")
            assert 20 < changed(with_outline, pixels(page)) < 0.1 * with_outline[..., 0].size
            page.keyboard.press("o")
        page.keyboard.press("l")
        assert page.evaluate("state.lesion") == 0

    def test_the_regions_are_on_where_a_slice_is_flagged(self, done, unflagged, visit):
        assert visit(done[1] / "plain" / "report.html").is_checked("#show-regions")
        assert not visit(unflagged).is_checked("#show-regions")

    def test_all_of_it_by_keys_alone(self, done, visit):
        page = visit(done[1] / "plain" / "report.html")
        before = page.evaluate("[state.x, state.y]")
        page.focus("#axial")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
        after = page.evaluate("[state.x, state.y]")
        assert after[0] > before[0] and after[1] > before[1]
        page.keyboard.press("d")
        page.keyboard.press("d")
        for _ in range(5):
            page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("d")
        assert page.inner_text("#measured") == "axial: 10.0 mm"
        page.keyboard.press("+")
        assert page.evaluate("panes.axial.view.zoom") == 1.25
        page.keyboard.press("0")
        page.keyboard.press("5")
        assert page.input_value("#level") == "300" and page.input_value("#width") == "1500"
        page.focus("#coronal")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("state.y") < after[1]
        page.keyboard.press("?")
        assert page.is_visible("#help")
        page.keyboard.press("Escape")
        assert not page.is_visible("#help") and page.inner_text("#measured") != ""
        reached = set()
        for _ in range(80):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.tool"))
        assert {"axial", "coronal", "sagittal", "place", "level", "opacity", "curve", "ruler", "help-open"} <= reached

    @pytest.mark.parametrize("width, height", [(390, 844), (1440, 900)])
    def test_pictures_have_room(self, done, visit, width, height):
        page = visit(done[1] / "plain" / "report.html", viewport={"width": width, "height": height})
        boxes = {name: page.query_selector(f"#{name}").bounding_box() for name in ("axial", "coronal", "sagittal")}
        assert all(box["width"] > 150 and box["height"] > 150 for box in boxes.values())
        assert boxes["axial"]["y"] + boxes["axial"]["height"] <= height  # above the fold
        if width > 1000:
            assert all(box["y"] + box["height"] <= height for box in boxes.values())

    def test_says_what_ct_and_run_these_are(self, done, visit):
        page = visit(done[1] / HARMFUL / "report.html")
        facts = page.inner_text("#ct-facts")
        assert "48, one every 5 mm" in facts and "240 mm" in facts and "SAR" in facts
        assert "looks enhanced" in facts or "not told" in facts
        assert f"liver-ct {liver_ct.__version__}" in page.inner_text("#run-facts")

    def test_numbers_can_be_kept(self, done, visit):
        page, folder = visit(done[1] / "plain" / "report.html"), done[1] / "plain"
        kept = {}
        for name in ("slices", "lesions", "result"):
            with page.expect_download() as download:
                page.click(f"[data-keep={name}]")
            kept[download.value.suggested_filename] = Path(download.value.path()).read_text()
        assert kept["plain-slices.csv"] == (folder / "slices.csv").read_text()
        told = [[line.split(",") for line in text.splitlines()] for text in (
            kept["plain-lesions.csv"], (folder / "lesions.csv").read_text())]  # fmt: skip
        assert told[0][0] == told[1][0]
        for one, other in zip(told[0][1:], told[1][1:]):
            assert [float(value or "nan") for value in one] == pytest.approx(
                [float(v or "nan") for v in other], nan_ok=True
            )
        result, said = read_result(folder), json.loads(kept["plain-result.json"])
        assert {key: result[key] for key in said if key != "seconds"} == {
            k: v for k, v in said.items() if k != "seconds"
        }

    @pytest.mark.parametrize("scheme, width", [("light", 1440), ("dark", 390)])
    def test_axe_finds_nothing(self, done, visit, scheme, width):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        for file in (done[1] / "plain" / "report.html", done[1] / "index.html"):
            page = visit(file, color_scheme=scheme, viewport={"width": width, "height": 844})
            found = axe.run(page).response["violations"]
            assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []

    def test_a_file_stays_within_10_mb_whatever_the_noise(self):
        rng = np.random.default_rng(0)
        ct = rng.integers(-200, 300, (512, 512, 8)).astype(np.int16)
        affine = np.eye(4)
        view = slices.View(ct, ct, affine, (slice(0, 512), slice(0, 512)), list(range(8)) * 38, np.eye(3))
        text = slices.jpeg_slices(view)
        assert len(text) == 304 and sum(map(len, text)) < 9.2e6


class TestManySlices:
    def test_a_long_scan_is_thinned_beyond_the_liver_only(self):
        from liver_ct.outputs.results import SliceRow

        rows = [SliceRow(i, 0.7 * i, 0.0, 0.2 if 300 <= i < 500 else None) for i in range(900)]
        shown = report.shown_slices(rows)
        assert set(range(300, 500)) <= set(shown) and 50 <= len(shown) - 200 <= 65
        assert report.shown_slices(rows[250:350]) == list(range(100))


class TestIndex:
    @pytest.fixture
    def run(self, bundles) -> Callable[..., None]:  # noqa: F811
        """The chain with small networks: an index is of whatever they find."""
        return partial(run, **bundles)

    def order(self, page) -> list[str]:
        return [cell.inner_text() for cell in page.query_selector_all("#studies tbody td:first-child")]

    def test_the_most_suspicious_study_comes_first_and_each_heading_sorts(self, done, visit):
        results = {name: read_result(done[1] / name) for name in STUDIES}
        page = visit(done[1] / "index.html")
        keys = {
            "probability": lambda name: results[name]["study_tumour_probability"],
            "flagged": lambda name: len(results[name]["flagged_slices"]),
            "volume": lambda name: results[name]["liver_volume_ml"],
            "lesions": lambda name: max([one["diameter_mm"] for one in results[name]["lesions"]], default=0),
            "seconds": lambda name: results[name]["seconds"]["total"],
            "stamp": lambda name: (done[1] / name / "result.json").stat().st_mtime,
        }
        assert self.order(page) == sorted(STUDIES, key=keys["probability"], reverse=True)
        page.click("[data-key=probability] button")
        assert self.order(page) == sorted(STUDIES, key=keys["probability"])
        for name, key in list(keys.items())[1:]:
            page.click(f"[data-key={name}] button")
            found = [key(study) for study in self.order(page)]
            assert found == sorted(found, reverse=True)
            assert page.get_attribute(f"[data-key={name}]", "aria-sort") == "descending"
        page.click("[data-key=case] button")
        assert self.order(page) == [HARMFUL, "healthy", "plain"]

    @pytest.mark.parametrize("name", STUDIES)
    def test_links_open_the_reports(self, done, visit, name):
        page = visit(done[1] / "index.html")
        with page.expect_navigation():
            page.asked = done[1].as_uri()
            page.click(f"#studies tbody tr:nth-child({1 + self.order(page).index(name)}) a")
        page.wait_for_selector("#slice[data-drawn]")
        assert page.inner_text("h1") == name

    def test_failures_are_named_without_their_folders_until_they_are_finished(self, run, visit, tmp_path):
        source, output = tmp_path / "secret" / "in", tmp_path / "secret" / "out"
        source.parent.mkdir()
        save_case(source, "good", **SMALL)
        (source / "<b>bad.nii.gz").write_bytes(b"no image")
        with pytest.raises(SystemExit):
            run(source, output)
        page = visit(output / "index.html")
        assert self.order(page) == ["good"]
        assert page.inner_text(".failed li").startswith("<b>bad <b>bad.nii.gz: not a readable image")
        assert "secret" not in page.content()
        save_case(tmp_path / "more", "later", **SMALL)
        run(tmp_path / "more", output)  # another run, of other studies: nothing is lost
        page = visit(output / "index.html")
        assert sorted(self.order(page)) == ["good", "later"] and page.query_selector(".failed")
        save_case(source, "<b>bad", **SMALL)
        run(source, output)
        page = visit(output / "index.html")
        assert sorted(self.order(page)) == ["<b>bad", "good", "later"] and not page.query_selector(".failed")
        assert {path.name for path in output.iterdir()} == {"<b>bad", "good", "later", "index.html", "summary.csv"}

    def test_what_is_no_whole_result_is_passed_over(self, run, done, visit, tmp_path):
        for name in ("half", "torn"):
            (tmp_path / name).mkdir()
            for file in ("prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv", "result.json")[
                : 4 if name == "torn" else 3
            ]:
                (tmp_path / name / file).write_text("{")
        run(done[0] / "healthy.nii.gz", tmp_path)
        assert self.order(visit(tmp_path / "index.html")) == ["healthy"]

    def test_a_place_that_is_taken_is_one_clear_line(self, run, done, tmp_path, capsys):
        (tmp_path / "index.html").mkdir()
        with pytest.raises(SystemExit) as stop:
            run(done[0] / "healthy.nii.gz", tmp_path)
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 1 and (tmp_path / "healthy" / "report.html").is_file()
        assert [line for line in lines if line.startswith("ERROR")] and "index.html" in lines[-1]
        assert {path.name for path in tmp_path.iterdir()} == {"index.html", "summary.csv", "healthy"}

    def test_what_is_damaged_or_out_of_reach_is_passed_over(self, run, done, visit, tmp_path):
        run(done[0] / "healthy.nii.gz", tmp_path)
        shutil.copytree(tmp_path / "healthy", tmp_path / "no-probabilities")
        (tmp_path / "no-probabilities" / "slices.csv").write_text("slice,z_mm,liver_area_mm2,tumour_probability\n")
        (tmp_path / ".failed").mkdir()
        (tmp_path / ".failed" / "torn").write_bytes(b"\xff\xfe")
        run(done[0] / "healthy.nii.gz", tmp_path)
        page = visit(tmp_path / "index.html")
        assert self.order(page) == ["healthy"] and not page.query_selector(".failed")

    def test_a_failed_study_that_is_gone_is_forgotten(self, run, visit, tmp_path):
        broken = tmp_path / "in" / "broken.nii.gz"
        save_case(tmp_path / "in", "whole", **SMALL)
        broken.write_bytes(b"no image")
        with pytest.raises(SystemExit):
            run(tmp_path / "in", tmp_path / "out")
        assert visit(tmp_path / "out" / "index.html").inner_text(".failed li b") == "broken"
        broken.unlink()
        run(tmp_path / "in", tmp_path / "out")
        assert not visit(tmp_path / "out" / "index.html").query_selector(".failed")
        assert not (tmp_path / "out" / ".failed").exists()

    def test_an_index_that_is_there_is_kept_right_without_reports(self, run, done, visit, tmp_path):
        run(done[0] / "healthy.nii.gz", tmp_path)
        run(done[0] / "healthy.nii.gz", tmp_path, overwrite=True, report=False)
        page = visit(tmp_path / "index.html")
        assert page.get_attribute("tbody a", "href") == "healthy/result.json"

    def test_processes_that_share_the_studies_write_one_index(self, bundles, visit, tmp_path):  # noqa: F811
        for number in range(3):
            save_case(tmp_path / "in", f"study-{number}", seed=number, **SMALL)
        (tmp_path / "in" / "broken.nii.gz").write_bytes(b"no image")
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        words += [str(ROOT / "scripts" / "cascade.py"), "--input", str(tmp_path / "in"), "--output"]
        words += [str(tmp_path / "out"), *(word for key, value in bundles.items() for word in (f"--{key}", value))]
        ended = subprocess.run([*words, "--picture", "false", "--device", "cpu"], capture_output=True, text=True)
        assert ended.returncode == 1 and "broken.nii.gz" in ended.stderr
        page = visit(tmp_path / "out" / "index.html")
        assert sorted(self.order(page)) == ["study-0", "study-1", "study-2"]
        assert page.inner_text(".failed li b") == "broken"


class TestRegions:
    @pytest.fixture(scope="class")
    def cls(self) -> Stage:
        return Stage(ROOT / "bundles" / "liver_cls", torch.device("cpu"))

    @pytest.mark.parametrize("axcodes", ["RAS", "LPS", "IRP", "ASL"])
    @torch.inference_mode()
    def test_affine_takes_pixels_of_the_network_to_their_place(self, cls, axcodes):
        """The middle of a soft ball, in mm, is the same in the CT and in the network's input."""
        size, spacing = np.array([120, 110, 40]), np.array([1.3, 1.9, 5.0])
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = [-70, 15, -300]
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1) * spacing + affine[:3, 3]
        ball = [12.3, 99.9, -205.2]
        ct = -40 + 150 * np.exp(-(((grid - ball) / [9, 9, 7]) ** 2).sum(-1) / 2)
        prob = (((grid - [10, 110, -205]) / [55, 60, 60]) ** 2).sum(-1) < 1
        turn = nib.orientations.ornt_transform(io_orientation(affine), nib.orientations.axcodes2ornt(axcodes))
        turned = affine @ nib.orientations.inv_ornt_aff(turn, tuple(size))
        item = {}
        for key, volume in (("image", ct), ("prob", prob)):
            array = np.ascontiguousarray(apply_orientation(volume.astype(np.float32), turn))
            item[key] = MetaTensor(torch.from_numpy(array)[None], affine=torch.tensor(turned))
        out = cls["transform"](item)
        weight = out["image"][0].numpy() - out["image"][0].numpy().min()
        index = [(weight * part).sum() / weight.sum() for part in np.indices(weight.shape)]
        np.testing.assert_allclose((out["affine"].numpy() @ [*index, 1])[:3], ball, atol=0.1)

    @pytest.fixture(scope="class")
    def scored(self, cls, done) -> tuple[dict, torch.Tensor]:
        """What the classifier says of the plain phantom, with regions, and its logits."""
        with torch.inference_mode():
            load = {"image": str(done[0] / "plain.nii.gz"), "prob": str(done[1] / "plain" / "prob_mask.nii.gz")}
            item = cls.infer(cls["transform"](cls["load"](load)))
            return cls["regions"](cls["score"](item)), item["pred"]

    def test_hottest_near_the_tumour_where_the_score_is_high(self, scored, done):
        tumour, ct = scored[0], nib.load(done[0] / "plain.nii.gz")
        lesion, regions = np.argwhere(done[2]["plain"] == 2), tumour["regions"]
        sure = np.flatnonzero(tumour["pred"].numpy() >= 0.9)
        shown = [k for k in sure if (np.abs(lesion[:, 2] - int(tumour["slices"][k])) < 1.5).any()]
        assert len(shown) >= 4
        for k in shown:
            hottest = np.unravel_index(int(regions[0, ..., k].argmax()), regions.shape[1:3])
            voxel = np.linalg.inv(ct.affine) @ regions.affine.numpy() @ [*hottest, k, 1]
            assert voxel[2] == pytest.approx(int(tumour["slices"][k]), abs=1e-3)
            near = lesion[np.abs(lesion[:, 2] - voxel[2]) < 1.5]  # of the group that is judged
            assert np.linalg.norm(((near - voxel[:3]) * SPACING)[:, :2], axis=1).min() < 3

    def test_as_strong_as_the_slice_is_suspicious(self, scored):
        probs = scored[0]["pred"].numpy()
        highest = scored[0]["regions"][0].amax((0, 1)).numpy()
        np.testing.assert_allclose(highest[probs >= 0.1], probs[probs >= 0.1], rtol=1e-3)
        assert not highest[probs < 0.1].any() and (probs < 0.1).any()

    def test_of_a_network_that_draws_a_map_they_are_that_map(self, cls, scored, monkeypatch):
        """No gradient is asked for, and no network."""
        monkeypatch.setattr(type(cls["regions"]), "make_cam", lambda *_: pytest.fail("GradCAM was asked for"))
        item = cls["regions"](scored[0])
        lesions, probs = item["lesions"].permute(1, 2, 0).numpy(), item["pred"].numpy()
        for k in np.flatnonzero(probs >= 0.1):
            expected = lesions[..., k] / lesions[..., k].max() * probs[k]
            np.testing.assert_allclose(item["regions"][0, ..., k].numpy(), expected, atol=1e-6)

    @torch.inference_mode()
    def test_gradcam_is_the_lesion_map_that_makes_the_score(self, cls, scored):
        """Of an item without a map. The logit is the largest of the map that a 1 x 1 convolution makes of the target
        layer: GradCAM must give that map above its bias."""
        item, image = {k: v for k, v in scored[0].items() if k != "lesions"}, scored[0]["image"]
        network = cls.network.members[0]
        regions = type(cls["regions"])(network, cls["inferer"], "upsamples.3", smooth_mm=0, lowest=0)(item)["regions"]
        k = int(item["pred"].argmax())
        group = image[:, :, :, [k - 1, k, k + 1]].permute(0, 3, 1, 2).flatten(0, 1)[None]
        lesions = (cls["inferer"](group, network)[0, 0] - network.output_block.conv.conv.bias).relu()
        expected = lesions * image[1, :, :, k]
        expected = expected / expected.max() * item["pred"][k]
        np.testing.assert_allclose(regions[0, ..., k].numpy(), expected.numpy(), atol=0.03)

    @torch.inference_mode()
    def test_looking_for_regions_changes_no_later_answer(self, cls, scored):
        np.testing.assert_array_equal(cls.infer({"image": scored[0]["image"]})["pred"], scored[1])
        assert not any(module._forward_hooks for module in cls.network.modules())
