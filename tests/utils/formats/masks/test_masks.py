"""Sets of masks in the layout of MMSegmentation's users: read, written, and read again."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.formats.compare import find_differences
from tests.utils.formats.conftest import draw
from utils.errors import DataError
from utils.formats.convert import convert_labels, what_is_lost
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.run_lengths import decode_runs
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask

NAMES = ("sand", "Porites/massive", "rope")
PALETTE = np.uint8([[0, 0, 0], [255, 128, 0], [0, 0, 255]])


def make_set(folder: Path, mask: np.ndarray, split: str = "train", mode: str | None = None) -> Path:
    """A set of one picture of 40 x 60 pixels and its mask."""
    draw(folder / split / "data" / "a.jpg")
    (folder / split / "labels").mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask, mode=mode) if mode else Image.fromarray(mask)
    if mode == "P":
        picture.putpalette(np.roll(np.arange(768) % 256, 5).astype(np.uint8).tobytes())
    picture.save(folder / split / "labels" / "a.png")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return folder


@pytest.fixture
def values() -> np.ndarray:
    """A mask with every class, and with pixels of none."""
    generator = np.random.default_rng(2)
    mask = generator.choice(np.uint8([0, 1, 2, 255]), (40, 60))
    return mask


def covered(part: AnnotationSet) -> np.ndarray:
    """The mask that the objects of the first picture make."""
    drawn = np.full((40, 60), 255, np.uint8)
    for instance in part.pictures[0].instances:
        drawn[decode_runs(instance.mask)] = list(part.skeletons).index(instance.category)
    return drawn


@pytest.mark.parametrize("mode", [None, "P", "three bands", "16 bits"])
def test_values_are_places_in_classes_txt_and_255_is_none(mode, values, tmp_path):
    mask = {"three bands": np.dstack([values] * 3), "16 bits": values.astype(np.uint16)}.get(mode, values)
    make_set(tmp_path, mask, mode="P" if mode == "P" else None)
    part = read_annotations(tmp_path)["train"]
    assert part.problems == []
    assert list(part.skeletons) == list(NAMES)
    assert (covered(part) == values).all()


@pytest.mark.parametrize("bands", ["RGB", "RGBA"])
@pytest.mark.parametrize("text", ["{} {} {}", "{},{},{}", "[{}, {}, {}]"])
def test_colours_are_classes_by_palette_txt(bands, text, values, tmp_path):
    values = np.where(values == 255, 0, values)
    colours = PALETTE[values]
    opaque = np.full((40, 60, 1), 255, np.uint8)
    make_set(tmp_path, colours if bands == "RGB" else np.dstack([colours, opaque]))
    (tmp_path / "palette.txt").write_text("".join(text.format(*colour) + "\n" for colour in PALETTE))
    part = read_annotations(tmp_path)["train"]
    assert part.problems == []
    assert (covered(part) == values).all()


def test_what_is_no_class_is_told_and_its_picture_is_incomplete(values, tmp_path):
    values[0, :2], values[1, 0] = [7, 7], 200
    part = read_annotations(make_set(tmp_path, values))["train"]
    assert [problem.what for problem in part.problems] == [
        "values that are no class of classes.txt (0 to 2, and 255 for none): 7, 200"
    ]
    assert part.pictures[0].extra == {"incomplete": True}
    colours = PALETTE[np.where(values < 3, values, 0)]
    colours[0, 0], colours[0, 1] = [9, 9, 9], [8, 8, 8]
    make_set(tmp_path, colours)
    with pytest.raises(DataError, match=r"a mask of colours, and no palette.txt beside classes.txt"):
        read_annotations(tmp_path)
    (tmp_path / "palette.txt").write_text("0 0 0\n255 128 0\n0 0 255\n")
    [problem] = read_annotations(tmp_path)["train"].problems
    assert problem.what == "colours that are not in palette.txt: 2, such as 8 8 8"
    assert problem.lost


def test_splits_pictures_without_mask_and_masks_without_picture(values, tmp_path):
    make_set(tmp_path, values)
    make_set(tmp_path, values, "valid")
    draw(tmp_path / "train" / "data" / "b.jpg")
    (tmp_path / "train" / "labels" / "c.png").write_bytes((tmp_path / "train" / "labels" / "a.png").read_bytes())
    sets = read_annotations(tmp_path)
    assert {split: [picture.id for picture in part.pictures] for split, part in sets.items()} == {
        "train": ["train/data/a"],
        "val": ["valid/data/a"],
    }
    [alone], [unlabelled] = sets["train"].problems, sets["val"].problems
    assert str(alone).endswith("labels/c.png: no picture of this mask's name in data; put it there, or remove the mask")
    assert unlabelled.what == "pictures without a mask in labels, left out: 1, such as b.jpg"


def test_two_pictures_of_one_mask_are_left_out(values, tmp_path):
    make_set(tmp_path, values)
    draw(tmp_path / "train" / "data" / "a.png")
    draw(tmp_path / "train" / "data" / "b.png")
    (tmp_path / "train" / "labels" / "b.png").write_bytes((tmp_path / "train" / "labels" / "a.png").read_bytes())
    part = read_annotations(tmp_path)["train"]
    assert [picture.path.name for picture in part.pictures] == ["b.png"]
    assert sum("is the label of" in problem.what for problem in part.problems) == 2


def test_a_mask_of_another_size_is_not_decoded(tmp_path):
    make_set(tmp_path, np.zeros((30, 60), np.uint8))
    part = read_annotations(tmp_path)["train"]
    assert part.problems[0].what == (
        "the mask is 30 x 60 (height x width), the picture 40 x 60, and nothing of it is read"
    )
    assert part.pictures[0].extra == {"incomplete": True}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("classes.txt", "sand\n\nrope\n", "classes.txt: entry 1: expected a name, got ''"),
        ("classes.txt", "sand\nsand\n", "classes.txt: line 2: 'sand' is the name of line 1 too"),
        ("classes.txt", "\n".join(map(str, range(256))), "classes.txt: 256 classes, and there may be 1 to 255"),
        ("palette.txt", "0 0 0\n1 1 1\n", "palette.txt: 2 colours, but classes.txt has 3 names"),
        ("palette.txt", "0 0 0\n0,0,0\n1 1 1\n", "palette.txt: line 2: '0,0,0' is a duplicate"),
        ("palette.txt", "0 0 256\n", "palette.txt: line 1: expected red, green and blue from 0 to 255, got '0 0 256'"),
        ("palette.txt", "0 0\n", "palette.txt: line 1: expected red, green and blue from 0 to 255, got '0 0'"),
    ],
)
def test_names_and_colours_that_do_not_fit_are_refused_with_their_line(name, text, words, values, tmp_path):
    make_set(tmp_path, values)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        read_annotations(tmp_path)
    assert words in str(error.value)


def test_masks_are_no_objects_and_no_poses(values, tmp_path):
    make_set(tmp_path, values)
    for read in (read_boxes, read_poses):
        with pytest.raises(DataError, match="masks of classes tell no objects apart; name labels of objects"):
            read(tmp_path)


def test_a_set_of_yolo_with_classes_txt_is_none(tmp_path):
    draw(tmp_path / "train" / "images" / "a.png")
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 .5 .5 .5 .25\n")
    (tmp_path / "classes.txt").write_text("cow\n")
    assert read_annotations(tmp_path)["train"].pictures[0].instances[0].box_xyxy is not None


def test_what_is_written_is_read_back_and_written_again_the_same(values, tmp_path):
    sets = read_annotations(make_set(tmp_path / "in", values))
    assert what_is_lost(sets, "masks") == []
    convert_labels(sets, tmp_path / "new", "masks")
    read = read_annotations(tmp_path / "new")
    assert find_differences(sets, read) == []
    assert (np.asarray(Image.open(tmp_path / "new" / "train" / "labels" / "a.png")) == values).all()
    convert_labels(read, tmp_path / "again", "masks")
    contents = [
        {p.name: p.read_bytes() for p in sorted((tmp_path / name).rglob("*")) if p.is_file() and p.name[0] != "."}
        for name in ("new", "again")
    ]
    assert contents[0] == contents[1]


def test_objects_are_drawn_in_their_order_with_holes_lines_and_a_background(tmp_path):
    def square(low: float, high: float) -> np.ndarray:
        return np.array([[low, low], [high, low], [high, high], [low, high]])

    objects = (
        Instance("top", polygons=(square(4, 8),), z_order=2),
        Instance("ring", polygons=(square(2, 12),), holes=(square(5, 7.0),), z_order=1),
        Instance("rope", lines=(np.array([[0.0, 20.5], [60, 20.5]]),)),
        Instance("dot", mask=encode_mask(np.arange(2400).reshape(40, 60) == 2399)),
    )
    names = ("background", "top", "ring", "rope", "dot")
    picture = AnnotatedPicture("a", draw(tmp_path / "in" / "a.png"), (40, 60), objects)
    sets = {"all": AnnotationSet([picture], {name: Skeleton(()) for name in names})}
    convert_labels(sets, tmp_path / "new", "masks")
    expected = np.zeros((40, 60), np.uint8)
    expected[19:22] = 3
    expected[2:12, 2:12] = 2
    expected[5:7, 5:7] = 0
    expected[4:8, 4:8] = 1
    expected[39, 59] = 4
    assert (np.asarray(Image.open(tmp_path / "new" / "labels" / "a.png")) == expected).all()
    assert list(read_annotations(tmp_path / "new")["all"].skeletons) == list(names)
    lost = what_is_lost(sets, "masks")
    assert "all: lines (drawn 3 pixels wide): 1 of 4 instances" in lost
    sets["all"].skeletons = {name: Skeleton(()) for name in names[1:]}
    convert_labels(sets, tmp_path / "without", "masks")
    assert np.asarray(Image.open(tmp_path / "without" / "labels" / "a.png"))[0, 0] == 255


def test_dataset_info_is_values_only_and_is_never_run(values, tmp_path):
    sets = read_annotations(make_set(tmp_path / "in", values))
    convert_labels(sets, tmp_path / "new", "masks")
    tree = ast.parse((tmp_path / "new" / "dataset_info.py").read_text())
    read = {statement.targets[0].id: ast.literal_eval(statement.value) for statement in tree.body}
    assert read["metainfo"]["classes"] == NAMES
    assert read["data_prefix"] == {"train": {"img_path": "train/data", "seg_map_path": "train/labels"}}
    assert (tmp_path / "new" / "train" / "data" / "a.jpg").is_file()
    (tmp_path / "in" / "dataset_info.py").write_text("raise SystemExit('run')\nopen('run', 'w')\n")
    modules = set(sys.modules)
    assert find_differences(sets, read_annotations(tmp_path / "in")) == []
    assert "dataset_info" not in set(sys.modules) - modules


def test_more_classes_than_values_are_refused(tmp_path):
    picture = AnnotatedPicture("a", draw(tmp_path / "in" / "a.png"), (40, 60), ())
    skeletons = {str(name): Skeleton(()) for name in range(256)}
    sets = {"all": AnnotationSet([picture], skeletons)}
    with pytest.raises(DataError, match="256 classes, and masks hold 1 to 255"):
        convert_labels(sets, tmp_path / "new", "masks")
    sets = {"all": replace(sets["all"], skeletons={})}
    with pytest.raises(DataError, match="0 classes"):
        convert_labels(sets, tmp_path / "newer", "masks")


def test_masks_of_0_and_255_are_told_not_to_hold_their_second_class(values, tmp_path):
    make_set(tmp_path, np.where(values == 1, 255, 0).astype(np.uint8))
    [problem] = read_annotations(tmp_path)["train"].problems
    assert "masks hold sand and 255, which is no class; Porites/massive, rope is in none of them" in problem.what
    assert not problem.blocks
