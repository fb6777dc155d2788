"""The documents hold what they promise."""

import re
from pathlib import Path

import pytest
import yaml

from config import parse_settings
from docs.make_settings import page
from models import HEADS, find_head
from tasks import kinds

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


def default_of(path: str):
    """The default of a setting, or of an option of a keypoint head."""
    if path.startswith("model.head_options."):
        name = path.rpartition(".")[2]
        options = [find_head("keypoints", head).Options() for head in HEADS["keypoints"]]
        return next(getattr(given, name) for given in options if hasattr(given, name))
    value = parse_settings("tasks: {a: {kind: keypoints}}", (), kinds()).tasks["a"]
    for key in path.split("."):
        value = getattr(value, key)
    return value


def test_flags_of_the_old_system_are_settings_with_these_defaults():
    text = (ROOT / "docs" / "keypoints.md").read_text()
    rows = re.findall(r"^\| (`--.*?) \| `([\w.]+)`.*? \| `(.*?)` \|$", text, re.MULTILINE)
    assert len(rows) == 46
    for _, setting, default in rows:
        assert default_of(setting) == yaml.safe_load(default), setting


def test_every_head_is_described():
    pages = ("docs/heads.md", "docs/keypoints.md", "docs/distill.md", "README.md")
    text = "".join((ROOT / name).read_text() for name in pages)
    for name in [name for heads in HEADS.values() for name in heads]:
        assert f"`{name}`" in text
