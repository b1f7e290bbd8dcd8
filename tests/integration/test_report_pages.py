"""Reports as people open them: in a browser, and as a document. Needs Chromium and poppler-utils."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from klingai_audit.config import Places, open_reader
from klingai_audit.report import build
from tests.support.hostile import hostile_log
from tests.support.reportlog import busy_log
from tests.unit.report.conftest import opened

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
SCHEMES = ("light", "dark")
WIDTHS = (390, 1280)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module", params=["busy", "hostile"])
def files(request, tmp_path_factory) -> dict[str, Path]:
    """One report as HTML and PDF: of an ordinary log, and of one whose fields are hostile."""
    for name in ("minijinja", "typst", "vl_convert"):
        pytest.importorskip(name, reason="needs the extra klingai-audit[report]")
    folder = tmp_path_factory.mktemp(request.param)
    log = busy_log(folder, 20) if request.param == "busy" else hostile_log(folder)
    size = open_reader(Places.resolve(log)).size
    with opened(log) as audit:
        made = build(audit, days=90, until="2026-09-30", at=size, by="auditor@example.com")
        paths = {form: folder / f"r.{form}" for form in ("html", "pdf")}
        for path in paths.values():
            made.save(path)
    return paths


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_in_a_browser(files, browser, scheme, width):
    """No console message, no request but the page's own, charts with a size, and nothing wider than the screen."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(files["html"].as_uri())
    page.wait_for_load_state("networkidle")
    over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    charts = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
        ".filter(b => b.width > 100 && b.height > 40 && b.right <= window.innerWidth + 1).length"
    )
    page.close()
    assert ([], [files["html"].as_uri()], 0, True) == (said, asked, max(0, over), charts >= 4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_has_enough_contrast(files, browser, scheme):
    """Every text of the page stands out from its ground by 4.5 to 1 (WCAG 2.2 AA), in both themes."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page.goto(files["html"].as_uri())
    pairs = page.evaluate(
        """() => {
          const ground = getComputedStyle(document.body).backgroundColor;
          const found = new Set();
          for (const element of document.querySelectorAll('body *:not(svg *)'))
            if ([...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
              found.add(getComputedStyle(element).color);
          for (const element of document.querySelectorAll('svg text')) found.add(getComputedStyle(element).fill);
          return [ground, [...found]];
        }"""
    )
    page.close()
    ground, colours = pairs
    assert {} == {colour: ratio for colour in colours if (ratio := contrast(colour, ground)) < 4.5}


def contrast(one: str, two: str) -> float:
    """The contrast of two colours as WCAG defines it."""

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(two)))
    return (high + 0.05) / (low + 0.05)


def test_a_page_prints_within_its_paper(files, browser, tmp_path):
    """Printed from the browser it fits on A4, with more than one page."""
    if shutil.which("pdfinfo") is None:
        pytest.skip("needs poppler-utils")
    page = browser.new_page()
    page.goto(files["html"].as_uri())
    page.pdf(
        path=tmp_path / "print.pdf", format="A4", margin={"top": "1cm", "left": "1cm", "right": "1cm", "bottom": "1cm"}
    )
    page.close()
    told = subprocess.run(["pdfinfo", tmp_path / "print.pdf"], capture_output=True, text=True, check=True).stdout
    assert int(re.search(r"Pages:\s+(\d+)", told)[1]) > 3


def test_a_document_can_be_read(files):
    """pdftotext finds the headings, the verdict and, as text, whatever the log holds."""
    if shutil.which("pdftotext") is None:
        pytest.skip("needs poppler-utils")
    text = subprocess.run(["pdftotext", "-layout", files["pdf"], "-"], capture_output=True, check=True).stdout.decode()
    whole = " ".join(text.replace("\u200b", "").split())
    wanted = ["Audit report", "No change found in", "What needs attention", "Controls", "Questions", "PDF/A-2a"]
    if "hostile" in str(files["pdf"]):
        wanted += ['#read("/etc/passwd")', "<script>alert(document.domain)</script>", "*bold* _it_ `raw`"]
    assert [] == [part for part in wanted if part not in whole]
    assert "root:x:0" not in whole


def test_a_document_can_be_drawn(files, tmp_path):
    """pdftoppm draws every page without a complaint, and none of them is blank."""
    if shutil.which("pdftoppm") is None:
        pytest.skip("needs poppler-utils")
    done = subprocess.run(
        ["pdftoppm", "-r", "40", "-gray", files["pdf"], tmp_path / "page"], capture_output=True, check=True
    )
    pages = sorted(tmp_path.glob("page-*.pgm"))
    dark = [sum(byte < 220 for byte in page.read_bytes()[20:]) for page in pages]
    assert (b"", True, True) == (done.stderr, len(pages) > 3, min(dark) > 20)


def test_no_value_of_the_log_ran(files):
    """The page holds hostile values as text only: no element or attribute was made of them."""
    text = files["html"].read_text()
    assert (False, False) == ("<script" in text, re.search(r"<[a-z][^>]*\son[a-z]+=", text) is not None)
