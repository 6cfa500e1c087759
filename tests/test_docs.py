"""Links and names in the documents point at something."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in a link, by GitHub's rule."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_finds_it(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        assert anchor in anchors(page.parent / target if target else page), f"{target}#{anchor}"


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)", page.read_text())
        if (page.parent / target).resolve() != page.resolve()
    }
    assert not {page for page in PAGES if page.resolve() not in linked}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`((?:src|tests|bench|scripts|docs)/[A-Za-z0-9_./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("script", "page"), [("settings_page", "settings.md"), ("decisions_page", "decisions/README.md")]
)
def test_pages_that_are_made_from_the_code_are_up_to_date(script: str, page: str) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{script}.py"], capture_output=True, text=True, check=True
    ).stdout
    assert (ROOT / "docs" / page).read_text() == made, "run `make docs`"
