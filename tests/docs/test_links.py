"""Links between pages, and to files, lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Page, page

USERS = {ROOT / "README.md", *(ROOT / "docs").glob("*.md")}


def target(page: Page, link: str) -> tuple[Path, str]:
    """The file and the anchor that a relative link leads to."""
    path, _, anchor = link.partition("#")
    return ((page.path.parent / path).resolve() if path else page.path), anchor


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_lead_to_a_file_and_a_heading(page: Page) -> None:
    broken = []
    for link in page.links:
        if "://" in link:
            continue
        path, anchor = target(page, link)
        if not path.exists() or (anchor and anchor not in Page(path).anchors):
            broken.append(link)
    assert broken == []


def test_every_page_for_users_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = Page(waiting.pop())
        seen.add(page.path)
        links = [target(page, link)[0] for link in page.links if "://" not in link]
        waiting += [path for path in links if path in USERS and path not in seen]
    assert seen == USERS


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = Page(ROOT / "docs" / "index.md")
    listed = {target(contents, link)[0] for link in contents.links}
    assert {path for path in USERS if path.parent.name == "docs"} - listed == {contents.path}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_in_pages_for_developers_exists(name: str) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    named = re.findall(r"(?<![\w./-])([\w.-]+)/([\w./-]*)", page(name).prose)
    paths = ["/".join(parts).rstrip(".") for parts in named if parts[0] in folders]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_decision_record_is_in_the_index() -> None:
    index = page("docs/adr/README.md")
    listed = {target(index, link)[0] for link in index.links}
    records = set((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert records
    assert records <= listed
