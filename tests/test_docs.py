"""The documents hold what they promise."""

import re
from pathlib import Path

import pytest

from docs.make_settings import page
from models import HEADS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").rglob("*.md")]
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_settings_page_is_what_the_code_says():
    assert (ROOT / "docs" / "settings.md").read_text() == page()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_head_is_described():
    text = (ROOT / "docs" / "heads.md").read_text() + (ROOT / "README.md").read_text()
    for name in HEADS["segmentation"]:
        assert f"`{name}`" in text
