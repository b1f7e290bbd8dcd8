"""No link of the documentation, and no pointer from the code into it, leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import Page, documentation, read_page

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = documentation(ROOT)
_POINTER = re.compile(r"\b(docs/[\w./-]+\.md|SECURITY\.md|CONTRIBUTING\.md|README\.md)(?:#([\w-]+))?")


def name(path: Path) -> str:
    """Return a page's path as the reader knows it."""
    return path.relative_to(ROOT).as_posix()


def broken(page: Page, root: Path) -> list[str]:
    """Return the links of a page that lead nowhere, with their lines."""
    return [f"{page.path.name}:{line}: {link}" for line, link in page.links if not resolves(page, link, root)]


def resolves(page: Page, link: str, root: Path) -> bool:
    """Tell whether a link leads to a file (and heading) of the repository, or is a well-formed address."""
    parts = urlsplit(link)
    if parts.scheme in {"http", "https"}:
        return "." in parts.netloc or parts.netloc.startswith("localhost")
    if parts.scheme:
        return parts.scheme == "mailto"
    target = (page.path.parent / parts.path).resolve() if parts.path else page.path
    if not target.exists() or not target.is_relative_to(root):
        return False
    return not parts.fragment or target.suffix != ".md" or parts.fragment in read_page(target).anchors


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_of_page_resolve(path: Path) -> None:
    """Each relative link names a file that exists and a heading that is there."""
    assert [] == broken(read_page(path), ROOT)


def test_pointers_from_code_resolve() -> None:
    """Pages and headings named in source, messages included, exist."""
    missing = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        for target, anchor in _POINTER.findall(file.read_text(encoding="utf-8")):
            page = ROOT / target
            if not page.exists() or (anchor and anchor not in read_page(page).anchors):
                missing.append(f"{name(file)}: {target}{'#' + anchor if anchor else ''}")
    assert [] == missing


def test_every_page_is_reachable() -> None:
    """From the README each page can be reached by links."""
    reached: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        path = queue.pop()
        if path in reached or not path.exists():
            continue
        reached.add(path)
        targets = [urlsplit(link) for _, link in read_page(path).links]
        queue += [
            (path.parent / target.path).resolve()
            for target in targets
            if not target.scheme and target.path.endswith(".md")
        ]
    assert [] == [name(path) for path in PAGES if path not in reached and path.name != "template.md"]


def test_decisions_are_listed() -> None:
    """The index of decisions names every page of the folder."""
    folder = ROOT / "docs" / "decisions"
    listed = {link for _, link in read_page(folder / "README.md").links}
    assert [] == [path.name for path in sorted(folder.glob("*.md")) if path.name not in {*listed, "README.md"}]


@pytest.mark.parametrize(
    "text,bad",
    [
        ("[a](gone.md)", 1),
        ("[a](other.md#gone)", 1),
        ("[a](#gone)", 1),
        ("![a](gone.png)", 1),
        ("[a]: gone.md", 1),
        ('<a href="gone.md">a</a>', 1),
        ("[a](ftp:gone)", 1),
        ("[a](../outside.md)", 1),
        ("[a](other.md#two-words--more)", 0),
        ("[a](#here-is-code)", 0),
        ("[a](https://example.com/x)", 0),
        ("`[a](gone.md)`", 0),
        ("```text\n[a](gone.md)\n```", 0),
        ("[a [b]](other.md)", 0),
    ],
)
def test_link_check_notices(tmp_path: Path, text: str, bad: int) -> None:
    """Each way of writing a link is checked, headings included, code is not."""
    (tmp_path / "outside.md").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "other.md").write_text("# Two words — more!\n")
    (root / "page.md").write_text(f"## Here is `code`\n\n{text}\n")
    assert bad == len(broken(read_page(root / "page.md"), root))
