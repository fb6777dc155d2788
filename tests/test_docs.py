"""The documents hold what they promise."""

import re
from functools import lru_cache
from importlib import import_module
from itertools import chain
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from config import load_settings, parse_settings
from docs.make_settings import page
from models import HEADS, find_head
from tasks import TASKS, kinds
from tests.test_config import DINOV3SEG
from utils.store.encoding import encoded_bytes

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").rglob("*.md")]
)
COMING_FROM = (ROOT / "docs" / "coming_from.md").read_text()
HEADER = "our setting | their value | our default | remark |"
NOT_LISTED = ("CHANGELOG.md",)  # speaks of settings as they were
SECTIONS = (
    "resources|logging|paths|dataset|model|prepare|verify|train|evaluate|inference|export|keypoints|detection|distill"
)
SETTING = re.compile(rf"(?:{SECTIONS})(?:\.[a-z]\w*)+")
FILE_NAMES = re.compile(r"\.(?:py|yml|yaml|json|csv|md|safetensors|txt|Name)$")
NEEDED = {  # sections that are null until they are named, with the keys that they need
    "segmentation": {"dataset": {"convert_to": {"format": "coco", "folder": "copy"}}},
    "keypoints": {"dataset": {"convert_to": {"format": "coco", "folder": "copy"}}},
    "detection": {"dataset": {"convert_to": {"format": "coco", "folder": "copy"}}},
    "distill": {"distill": {"probe": {"config": "probe.yml"}}},
}
DINOKPSEG_FLAGS = """--auto-safe-mode --batch --bbox-scale --best-metric --box-loss-weight --config --coord-loss-type
--coord-loss-weight --cos-lr --data --data-format --dice-loss-weight --ema --ema-decay --epochs --feature-align-dim
--feature-merge --head-type --heatmap-sigma --image --inst-loss-weight --instance-mode --layers --lr-canonicalize
--lr-pair-loss-weight --lr-pair-margin-px --lr-side-loss-margin --lr-side-loss-weight --mask-type --max-cpu-threads
--max-interop-threads --min-keypoint-score --model-name --multitask-aux-warmup-epochs --no-lr-canonicalize
--obj-loss-weight --out --output --relational-heads --relational-layers --run-name --runs-root --schedule-profile
--split --thresholds --tta-hflip --tta-merge --warmup-epochs --weights --workers"""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def settings_of(kind: str, *overrides: str) -> BaseModel:
    """The settings of a task of a kind: the one place that knows how settings are loaded."""
    text = yaml.safe_dump({"tasks": {"a": {"kind": kind, **NEEDED.get(kind, {})}}})
    return parse_settings(text, [f"tasks.a.{override}" for override in overrides], kinds()).tasks["a"]


@lru_cache
def defaults(kind: str) -> BaseModel:
    return settings_of(kind)


def head_options(kind: str) -> dict[str, type[BaseModel]]:
    """Option name -> options of a head that has it."""
    options = [find_head(kind, head).Options for head in HEADS[kind]]
    return {name: option for option in options for name in option.model_fields}


def default_of(kind: str, setting: str):
    """Raise AttributeError or KeyError where a kind has no such setting."""
    if setting.startswith("model.head_options."):
        name = setting.rpartition(".")[2]
        return head_options(kind)[name].model_fields[name].default
    return attrgetter(setting)(defaults(kind))


def check_value(kind: str, setting: str, value: str) -> None:
    """Raise SettingsError, or pydantic's error, where the loader refuses a value."""
    if setting.startswith("model.head_options."):
        name = setting.rpartition(".")[2]
        head_options(kind)[name].model_validate({name: yaml.safe_load(value)})
    elif setting == "model.head":
        assert value in HEADS[kind]
    else:
        settings_of(kind, f"{setting}={value}")


def leaves(tree: dict, prefix: str = "") -> dict[str, object]:
    pairs = (
        leaves(value, f"{prefix}{key}.").items() if isinstance(value, dict) else [(f"{prefix}{key}", value)]
        for key, value in tree.items()
    )
    return dict(chain.from_iterable(pairs))


def rows_of(kind: str) -> list[list[str]]:
    """Rows of the tables with our settings, below the heading of the system that has this kind of task."""
    heading = {"segmentation": "## From DINOv3Seg", "keypoints": "## From DinoKPSEG"}[kind]
    text = COMING_FROM.split(heading)[1].split("\n## ")[0]
    tables = re.findall(rf"^\|.*{re.escape(HEADER)}\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


def plain(cell: str) -> str | None:
    """The text of a cell that is code as a whole."""
    found = re.fullmatch(r"`([^`]+)`", cell)
    return found[1] if found else None


ROWS = [(kind, row) for kind in ("segmentation", "keypoints") for row in rows_of(kind)]


def test_settings_page_is_what_the_code_says():
    assert (ROOT / "docs" / "settings.md").read_text() == page()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize(("kind", "row"), ROWS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_setting_that_replaces_a_published_name(kind, row, monkeypatch):
    monkeypatch.setenv("ANNOLID_RUNS_ROOT", "runs")  # one that is not set is an error
    published, setting, value, default, _ = row
    assert published
    key = plain(setting)
    if key is None or not (SETTING.fullmatch(key) or key == "profile"):
        assert setting, "a name without a setting says what replaces it"
        assert (value, default) == ("-", "-"), "only a setting has a value and a default"
        return
    ours = default_of(kind, key)
    assert default == "-" or yaml.safe_load(plain(default)) == ours
    if plain(value) is not None:
        check_value(kind, key, plain(value))


def test_every_published_key_is_listed_with_its_value():
    listed = {plain(row[0]): row for row in rows_of("segmentation")}
    for key, value in leaves(yaml.safe_load(DINOV3SEG)).items():
        assert plain(listed[key][1]) == key
        assert yaml.safe_load(plain(listed[key][2])) == value


def test_every_published_flag_is_listed():
    listed = {flag for row in rows_of("keypoints") for flag in re.findall(r"`(--[\w-]+)`", row[0])}
    assert listed == set(DINOKPSEG_FLAGS.split())


def test_python_names_that_are_listed_exist():
    names = re.findall(r"^\| `[^|]+ \| `([\w.]+)` \|$", COMING_FROM, re.MULTILINE)
    assert "utils.data.PrecomputedDataset" in names
    for module, _, name in (name.rpartition(".") for name in names):
        assert hasattr(import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize("path", [path for path in PAGES if path.name not in NOT_LISTED], ids=name_of)
def test_settings_that_are_named_exist(path):
    for code in re.findall(r"`([^`\n]+)`", path.read_text()):
        for name in SETTING.findall(code) if not code.startswith(("python", "models.", "utils.", "tasks.")) else ():
            if not FILE_NAMES.search(name):
                assert any(exists(kind, name) for kind in TASKS), f"{path.name}: {name}"
        for key in re.findall(r"^([a-z]\w*): ", code):
            assert key in short_names(), f"{path.name}: {code}"


@lru_cache
def short_names() -> set[str]:
    """Names of all settings and options of heads, without their sections."""
    paths = [path for kind in TASKS for path in leaves(defaults(kind).model_dump())]
    return {path.rpartition(".")[2] for path in paths} | {name for kind in HEADS for name in head_options(kind)}


def exists(kind: str, setting: str) -> bool:
    try:
        default_of(kind, setting)
    except (AttributeError, KeyError):
        return False
    return True


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_settings_files_in_the_text_can_be_loaded(path):
    for text in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        assert parse_settings(text, (), kinds()).tasks


def test_every_head_is_described():
    pages = ("docs/heads.md", "docs/keypoints.md", "docs/detection.md", "docs/distill.md", "README.md")
    text = "".join((ROOT / name).read_text() for name in pages)
    for name in [name for heads in HEADS.values() for name in heads]:
        assert f"`{name}`" in text


def test_the_table_of_a_published_plan_is_that_of_its_settings_file_and_of_the_code():
    text = (ROOT / "docs" / "detection.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([\w.]+)` \| `([^`]+)` \| `([^`]+)` \|$", text, re.MULTILINE)
    assert len(rows) == 42
    (settings,) = load_settings(ROOT / "docs" / "configs" / "det_crowdhuman.yml", (), kinds()).tasks.values()
    options = find_head("detection", "detr").Options(**settings.model.head_options)
    for name, value, default in rows:
        of_head = name.startswith("model.head_options.")
        in_file = getattr(options, name.rpartition(".")[2]) if of_head else attrgetter(name)(settings)
        assert in_file == yaml.safe_load(value), name
        assert default_of("detection", name) == yaml.safe_load(default), name


def test_the_arithmetic_of_a_plan_is_that_of_the_store():
    text = (ROOT / "docs" / "detection.md").read_text()
    cells, train, pictures = (960 // 16, 1536 // 16), 55_442, 55_442 + 12_065
    pixels, block = 960 * 1536 * 4, encoded_bytes((1024, *cells), "int8")
    projected = encoded_bytes((256, *cells), "int8")
    sizes = {
        "pixels and mask of the padding": pixels,
        "one block, `store_dtype: fp16`": encoded_bytes((1024, *cells), "fp16"),
        "one block, `store_dtype: int8`": block,
        "four blocks, `store_dtype: fp16`": 4 * encoded_bytes((1024, *cells), "fp16"),
        "four blocks, `store_dtype: int8`": 4 * block,
        "four blocks, `project: 256` and `store_dtype: int8`": projected,
    }
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+ MB \| [\d,]+ GB \| [\d,]+ GB) \|$", text, re.MULTILINE))
    each = {name: f"{size / 1e6:.2f} MB | {train * size / 1e9:,.0f} GB" for name, size in sizes.items()}
    assert rows == {name: f"{row} | {pictures * sizes[name] / 1e9:,.0f} GB" for name, row in each.items()}
    at_half = {"one block in int8": pixels + block, "four blocks with `project: 256`": pixels + projected}
    for name, size in at_half.items():
        assert f"{pictures * size / 4e9:.0f} GB for {name}" in text
    assert f"mirrored views ({(pictures * (pixels + projected) + train * projected) / 4e9:.0f} GB)" in text
