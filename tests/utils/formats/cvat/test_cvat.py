"""CVAT: files to its published schema (XML annotation format 1.1) to instances and back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.utils.formats.compare import find_differences
from utils.errors import DataError
from utils.formats.convert import convert_labels, what_is_lost
from utils.formats.drawn_labels import decode_mask
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.run_lengths import read_counts
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask, polygon_area
from utils.raster.tiling import Window

META = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>reef</name><size>2</size><mode>annotation</mode><labels>
    <label><name>coral</name><color>#fa3253</color><type>any</type><attributes>
      <attribute><name>confidence</name><mutable>True</mutable><input_type>number</input_type>
        <default_value>100</default_value><values>0
100
1</values></attribute>
      <attribute><name>bleached</name><mutable>False</mutable><input_type>checkbox</input_type>
        <default_value>false</default_value><values/></attribute>
    </attributes></label>
    <label><name>fish</name><color>#33ddff</color><type>skeleton</type><attributes/>
      <svg>&lt;line x1="1" y1="1" x2="2" y2="2" data-type="edge" data-node-from="1" data-node-to="2"/&gt;
        &lt;circle r="1.5" cx="1" cy="1" data-node-id="1" data-label-name="eyeL"/&gt;
        &lt;circle r="1.5" cx="2" cy="2" data-node-id="2" data-label-name="eyeR"/&gt;</svg></label>
    <label><name>eyeL</name><type>points</type><attributes/><parent>fish</parent></label>
    <label><name>eyeR</name><type>points</type><attributes/><parent>fish</parent></label>
    <label><name>blurred</name><type>tag</type><attributes/></label>
  </labels></task><dumped>2026-06-30 00:31:24+00:00</dumped></meta>
"""
IMAGE = '  <image id="0" name="a.png" width="60" height="40">\n{}\n  </image>\n</annotations>\n'
GOLDEN = """
    <box label="coral" source="manual" occluded="1" xtl="3.00" ytl="4.50" xbr="20.00" ybr="10.00" z_order="1">
      <attribute name="confidence">80</attribute><attribute name="bleached">true</attribute>
    </box>
    <polygon label="coral" source="manual" occluded="0" points="1.00,1.00;9.00,1.00;9.00,7.50" z_order="0" group_id="5">
    </polygon>
    <polyline label="coral" source="manual" occluded="0" points="0.00,0.00;5.00,5.00;9.00,5.00" z_order="0"></polyline>
    <mask label="coral" source="manual" occluded="0" rle="1, 3, 2" left="7" top="2" width="3" height="2" z_order="3">
    </mask>
    <polygon label="coral" source="manual" occluded="0" points="20.00,20.00;30.00,20.00;30.00,30.00" z_order="0"
      group_id="5"></polygon>
    <skeleton label="fish" source="manual" z_order="0">
      <points label="eyeR" source="manual" outside="0" occluded="1" points="7.00,8.00"></points>
      <points label="eyeL" source="manual" outside="1" occluded="0" points="9.00,9.00"></points>
    </skeleton>
    <tag label="blurred" source="manual"></tag>"""


@pytest.fixture
def cvat(tmp_path, draw_picture):
    """Write a CVAT file with one picture of 40 x 60, and read it."""

    def write(shapes: str, meta: str = META, **how) -> AnnotationSet:
        draw_picture(tmp_path / "images" / "a.png")
        (tmp_path / "annotations.xml").write_text(meta + IMAGE.format(shapes))
        return read_annotations(tmp_path, **how)["all"]

    return write


def test_every_kind_of_shape_becomes_what_it_is(cvat):
    part = cvat(GOLDEN)
    assert part.problems == []
    assert part.skeletons == {"coral": Skeleton(()), "fish": Skeleton(("eyeL", "eyeR"), (1, 0), ((0, 1),))}
    [picture] = part.pictures
    assert (picture.id, picture.size, picture.tags) == ("images/a", (40, 60), {"blurred": True})
    box, corals, line, mask, fish = picture.instances
    assert box.box_xyxy.tolist() == [3, 4.5, 20, 10]
    assert (box.tags, box.z_order, box.score) == ({"confidence": 80, "bleached": True, "occluded": True}, 1, None)
    assert [ring.tolist() for ring in corals.polygons] == [
        [[1, 1], [9, 1], [9, 7.5]],
        [[20, 20], [30, 20], [30, 30]],
    ]
    assert (corals.group, corals.box_xyxy) == (5, None)
    assert [points.tolist() for points in line.lines] == [[[0, 0], [5, 5], [9, 5]]]
    whole = np.zeros((40, 60), bool)
    whole[2, 8:10] = whole[3, 7] = True  # row by row: 0 1 1 and 1 0 0
    assert mask.mask == encode_mask(whole)
    assert mask.z_order == 3
    assert fish.keypoints[1].tolist() == [7, 8, 1]
    assert np.isnan(fish.keypoints[0, :2]).all()


@pytest.mark.parametrize("angle", [0, 30, 90, 250])
def test_a_turned_box_keeps_area_and_centre_and_turns_clockwise(angle, cvat):
    part = cvat(f'<box label="coral" xtl="20" ytl="10" xbr="40" ybr="16" rotation="{angle}"/>')
    [box] = part.pictures[0].instances
    ring = box.polygons[0] if angle else np.array([[20, 10], [40, 10], [40, 16], [20, 16.0]])
    assert polygon_area([ring]) == pytest.approx(120)
    np.testing.assert_allclose(ring.mean(axis=0), [30, 13])
    along = ring[1] - ring[0]  # from the first corner along the long side: to the right, then down as it turns
    assert math.degrees(math.atan2(along[1], along[0])) % 360 == pytest.approx(angle)
    assert (box.box_xyxy is None) is bool(angle)


def test_an_ellipse_is_an_outline_of_its_area(cvat):
    part = cvat('<ellipse label="coral" cx="30" cy="20" rx="9" ry="-4" rotation="90"/>')  # ry may be negative
    [ring] = part.pictures[0].instances[0].polygons
    assert polygon_area([ring]) == pytest.approx(math.pi * 36, rel=0.01)
    np.testing.assert_allclose(np.ptp(ring, axis=0), [8, 18], rtol=0.01)


def test_a_group_of_boxes_is_a_group_of_objects_and_masks_of_one_are_united(cvat):
    boxes = '<box label="coral" xtl="{0}" ytl="1" xbr="9" ybr="9" group_id="2"/>'
    masks = '<mask label="coral" rle="0, 2" left="{0}" top="0" width="2" height="1" group_id="3"/>'
    other = '<polygon label="coral" points="0,10;2,10;2,12;0,12" group_id="3"/>'
    part = cvat(boxes.format(1) + masks.format(0) + boxes.format(2) + masks.format(5) + other)
    first, united, second = part.pictures[0].instances
    assert [first.box_xyxy[0], second.box_xyxy[0]] == [1, 2]
    assert (first.group, second.group, united.group) == (2, 2, 3)
    assert united.polygons == ()
    place, covered = decode_mask(united.mask)
    assert (int(covered.sum()), place) == (8, Window(0, 0, 12, 7))


WRONG = {
    '<box label="coral" xtl="1" ytl="2" xbr="nan" ybr="4"/>': "expected finite numbers as xtl, ytl, xbr, ybr",
    '<box label="coral" xtl="1" ytl="2" xbr="1_0" ybr="4"/>': "expected finite numbers as xtl, ytl, xbr, ybr",
    '<box label="weed" xtl="1" ytl="2" xbr="3" ybr="4"/>': "'weed' is no label of the file; known: coral, fish",
    '<box xtl="1" ytl="2" xbr="3" ybr="4"/>': "label: expected a name",
    '<polygon label="coral" points="1,2;3,inf;4,4"/>': "expected points as pairs of finite numbers",
    '<polygon label="coral" points="1,2,3;4;5,6"/>': "expected points as pairs of finite numbers",
    '<polygon label="coral" points="1,2;3,4"/>': "a polygon needs 3 points, got 2",
    '<polyline label="coral"/>': "expected points as pairs of finite numbers",
    '<mask label="coral" rle="1, 3" left="0" top="0" width="3" height="2"/>': "run lengths of 4 pixels in a mask of 2",
    '<mask label="coral" rle="6" left="58" top="0" width="3" height="2"/>': "a mask of 2 x 3 pixels at row 0 and col",
    '<mask label="coral" rle="0, 9" left="0" top="0" width="99999" height="99999"/>': "a mask of 99999 x 99999 pix",
    '<mask label="coral" rle="7, -1" left="0" top="0" width="3" height="2"/>': "run lengths of 6 pixels",
    '<cuboid label="coral" xtl1="1"/>': "a cuboid is neither box nor outline",
    '<points label="coral" points="1,2;3,4"/>': "points outside of a skeleton have no name as keypoints",
    '<skeleton label="fish"><points label="fin" points="1,2"/></skeleton>': "'fin' is no point of the skeleton 'fish'",
    '<skeleton label="fish"><points label="eyeL" points="1,2;3,4"/></skeleton>': "expected one point as 'eyeL', got 2",
    '<blob label="coral"/>': "'blob' is no shape that is known",
    '<box label="coral" xtl="1" ytl="2" xbr="3" ybr="4" z_order="top"/>': "expected a number, got 'top'",
}


@pytest.mark.parametrize("shape", WRONG)
def test_a_shape_that_cannot_be_read_is_told_with_its_line_and_its_picture_is_incomplete(shape, cvat, tmp_path):
    part = cvat(f'\n<box label="coral" xtl="1" ytl="2" xbr="3" ybr="4"/>\n{shape}')
    [problem] = part.problems
    line = META.count("\n") + 4
    assert str(problem).startswith(f"{tmp_path / 'annotations.xml'}:{line}: {WRONG[shape]}")
    assert problem.lost
    assert part.num_instances == 1
    assert part.pictures[0].extra == {"incomplete": True}


def test_a_confidence_is_a_score_where_no_person_has_given_it(cvat):
    box = '<box label="coral" {} xtl="{}" ytl="2" xbr="9" ybr="4"><attribute name="confidence">{}</attribute></box>'
    mine, default, program = box.format('source="manual"', 1, 80), box.format("", 2, 100), box.format("", 3, 87)
    part = cvat(mine + default + program)
    assert [instance.tags for instance in part.pictures[0].instances] == [{"confidence": 80}, {"confidence": 100}]
    assert "1 of its 3 objects are predictions, as their scores say (object 3: 87)" in part.problems[0].what
    given = cvat(program, predictions=True).pictures[0].instances
    assert [instance.score for instance in given] == [87]
    with pytest.raises(DataError, match="predictions, no labels: each of its 1 objects has a score"):
        cvat(box.format('source="auto"', 2, 100))


def test_shapes_that_a_program_made_are_told(cvat):
    part = cvat('<box label="coral" source="auto" xtl="1" ytl="2" xbr="3" ybr="4"/>')
    [note] = part.problems
    assert "source is auto for 1 shapes" in note.what
    assert not note.blocks
    assert part.num_instances == 1


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read_back(seed, maker, tmp_path):
    sets = maker.make(seed, full=True)
    generator = np.random.default_rng(seed)
    for part in sets.values():
        for index, picture in enumerate(part.pictures):
            animals = tuple(_plain(animal, generator, picture.size) for animal in picture.instances)
            part.pictures[index] = replace(picture, instances=animals, tags={"day": True} if index % 2 else {})
    lost = [line for line in what_is_lost(sets, "cvat") if "boxes beside outlines" not in line]
    assert lost == [
        f"{split}: mirrored keypoints of 'Wüstenmaus, gross', which their names do not tell" for split in sets
    ]
    convert_labels(sets, tmp_path / "new", "cvat")
    read = read_annotations(tmp_path / "new")
    assert not any(part.problems for part in read.values())
    assert find_differences(_without_hidden_boxes(sets), read, {"group", "skeletons"}) == []
    assert [p.tags for p in read["val"].pictures] == [p.tags for p in sets["val"].pictures]
    convert_labels(read, tmp_path / "again", "cvat")
    assert find_differences(read, read_annotations(tmp_path / "again")) == []


def _plain(animal: Instance, generator: np.random.Generator, size: tuple[int, int]) -> Instance:
    """An instance of only what CVAT holds."""
    box = np.sort(generator.uniform(1, 30, (2, 2)), axis=0).ravel()
    kept = {"is_crowd": False, "area": None, "score": None, "keypoint_scores": None, "track_id": None, "extra": {}}
    mask = encode_mask(generator.random(size) < 0.4) if not animal.polygons and generator.random() < 0.4 else None
    lines = tuple(generator.uniform(0, 30, (int(n), 2)) for n in generator.integers(2, 5, generator.integers(3)))
    more = {"z_order": int(generator.integers(-1, 3)), "mask": mask, "lines": lines, "group": None}
    return replace(animal, **kept, **more, box_xyxy=box, tags={**animal.tags, "age": 3, "name": 'A & "B"', "old": 2.5})


def _without_hidden_boxes(sets: dict[str, AnnotationSet]) -> dict[str, AnnotationSet]:
    """The sets without the boxes of instances that have an outline or a mask, as the losses say."""
    found = {}
    for split, part in sets.items():
        pictures = [replace(p, instances=tuple(_without_hidden_box(i) for i in p.instances)) for p in part.pictures]
        found[split] = AnnotationSet(pictures, part.skeletons)
    return found


def _without_hidden_box(animal: Instance) -> Instance:
    is_pose = bool((animal.keypoints[:, 2] > 0).any())
    return replace(animal, box_xyxy=None) if (animal.polygons or animal.mask) and not is_pose else animal


def test_an_outline_with_a_hole_becomes_the_mask_of_its_pixels(tmp_path, draw_picture):
    def square(low: float, high: float) -> np.ndarray:
        return np.array([[low, low], [high, low], [high, high], [low, high]])

    ring = Instance("ring", polygons=(square(2, 12),), holes=(square(4.0, 8.0),))
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "in" / "a.png"), (40, 60), (ring,))
    sets = {"all": AnnotationSet([picture], {"ring": Skeleton(())})}
    assert what_is_lost(sets, "cvat") == [
        "all: outlines with holes (written as masks of whole pixels): 1 of 1 instances"
    ]
    convert_labels(sets, tmp_path / "new", "cvat")
    [found] = read_annotations(tmp_path / "new")["all"].pictures[0].instances
    expected = np.zeros((40, 60), bool)
    expected[2:12, 2:12] = True
    expected[4:8, 4:8] = False
    assert found.mask == encode_mask(expected)


def test_subsets_are_splits_and_ids_and_order_stay(tmp_path, draw_picture):
    rows = []
    for number, (subset, name) in enumerate([("Validation", "b"), ("Train", "c"), ("Train", "a"), ("default", "d")]):
        draw_picture(tmp_path / "images" / subset / f"{name}.png")
        rows.append(f'<image id="{number}" name="{name}.png" subset="{subset}" width="60" height="40"/>')
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(rows)}</annotations>")
    sets = read_annotations(tmp_path / "annotations.xml")
    assert {split: [picture.id for picture in part.pictures] for split, part in sets.items()} == {
        "train": ["images/Train/c", "images/Train/a"],
        "val": ["images/Validation/b"],
        "all": ["images/default/d"],
    }
    assert not any(part.problems for part in sets.values())


@pytest.mark.parametrize("folder", ["images", "images/Test", "."])
def test_the_subset_of_a_task_stands_in_its_head(folder, tmp_path, draw_picture):
    draw_picture(tmp_path / folder / "a.png")
    head = "<meta><task><name>reef</name><subset>Test</subset></task></meta>"
    (tmp_path / "annotations.xml").write_text(f'<annotations>{head}<image id="0" name="a.png"/></annotations>')
    assert {split: len(part.pictures) for split, part in read_annotations(tmp_path).items()} == {"test": 1}


def test_a_name_that_leads_out_of_the_data_root_is_refused_and_a_moved_one_found(tmp_path, draw_picture):
    draw_picture(tmp_path / "secret" / "a.png")
    draw_picture(tmp_path / "set" / "images" / "b.png")
    text = '<image id="0" name="../../secret/a.png"/>\n<image id="1" name="C:\\reef\\b.png" width="60" height="41"/>'
    (tmp_path / "set" / "annotations.xml").write_text(f"<annotations>{text}</annotations>")
    part = read_annotations(tmp_path / "set")["all"]
    assert [picture.path.name for picture in part.pictures] == ["b.png"]
    outside, size = part.problems
    assert "annotations.xml:1: '../../secret/a.png' is outside of the data root" in str(outside)
    assert size.what == "height x width is 41 x 60, the picture is 40 x 60"


def test_pictures_without_an_image_and_images_without_a_picture_are_told(cvat, tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "b.png")
    shapes = '<box label="coral" xtl="1" ytl="2" xbr="3" ybr="4"/></image><image id="1" name="gone.png">'
    missing, unlabelled = cvat(shapes).problems
    assert missing.what == "no such picture: gone.png"
    assert unlabelled.what == "pictures without an image in the file, left out: 1, such as b.png"
    assert not unlabelled.blocks


def test_boxes_and_poses_are_read_and_labels_without_a_skeleton_are_no_poses(cvat, tmp_path):
    cvat('<polygon label="coral" points="1,1;9,1;9,7"/><box label="coral" xtl="1" ytl="2" xbr="3" ybr="4"/>')
    boxes = [instance.box_xyxy.tolist() for instance in read_boxes(tmp_path)["all"].pictures[0].instances]
    assert boxes == [[1, 1, 9, 7], [1, 2, 3, 4]]
    cvat(GOLDEN)
    assert read_poses(tmp_path)["all"].pictures[0].instances[-1].keypoints[1].tolist() == [7, 8, 1]
    cvat('<box label="coral" xtl="1" ytl="2" xbr="3" ybr="4"/>', meta="<annotations>")
    with pytest.raises(DataError, match=r"no label is a skeleton \(coral\)"):
        read_poses(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty file"),
        ("<annotations>\n<image>", ":2: not XML"),
        ("<annotation/>", "expected an element annotations as CVAT has, got annotation"),
        ('<!DOCTYPE a [<!ENTITY b "boom">]><annotations>&b;</annotations>', ":1: declares an entity"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(text, words, tmp_path):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError) as error:
        read_annotations(tmp_path / "a.xml", "cvat")
    assert words in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "a.xml"))


@pytest.mark.parametrize("seed", range(25))
def test_whatever_a_value_is_the_file_is_read_and_what_is_read_is_sound(seed, cvat):
    generator = np.random.default_rng(seed)
    values = ["", "nan", "-1", "x", "1e999", "999999999999", "²", "1,2", "\ud7ff", "0"]
    parts = GOLDEN.split('"')
    parts[1 + 2 * generator.integers(len(parts) // 2)] = str(generator.choice(values))
    part = cvat('"'.join(parts))
    for instance in part.pictures[0].instances:
        assert all(np.isfinite(ring).all() for ring in (*instance.polygons, *instance.lines))
        assert instance.mask is None or sum(read_counts(instance.mask, (40, 60))) == 2400


def test_several_files_of_a_folder_are_one_set_by_folders_of_splits(tmp_path, draw_picture):
    for split in ("train", "valid"):
        draw_picture(tmp_path / split / "images" / "a.png")
        box = '<box label="cow" xtl="1" ytl="2" xbr="3" ybr="4"/>'
        (tmp_path / split / "annotations.xml").write_text(
            f'<annotations><image name="a.png">{box}</image></annotations>'
        )
    sets = read_annotations(tmp_path)
    assert {split: part.num_instances for split, part in sets.items()} == {"train": 1, "val": 1}
    (tmp_path / "data.yaml").write_text("format: cvat\nall: [train/annotations.xml]\n")
    assert {split: part.num_instances for split, part in read_annotations(tmp_path).items()} == {"all": 1}


def test_a_path_is_a_path(tmp_path):
    with pytest.raises(DataError, match="no CVAT file"):
        read_annotations(Path(tmp_path), "cvat")


@pytest.fixture
def written(tmp_path, draw_picture) -> tuple[Path, np.ndarray]:
    """A CVAT file with every kind of shape that is written, and the mask in it."""
    covered = np.random.default_rng(0).random((40, 60)) < 0.3
    triangle = np.array([[2.0, 2], [12, 2], [12, 12.5]])
    objects = (
        Instance("cow", box_xyxy=np.array([1.0, 2, 5, 8.25]), tags={"occluded": True, "age": 3}),
        Instance("cow", polygons=(triangle, triangle + 9), z_order=1),
        Instance("Porites/massive", mask=encode_mask(covered)),
        Instance("rope", lines=(triangle,)),
        Instance("fox", np.array([[1.0, 2, 2], [np.nan, np.nan, 0]])),
    )
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "in" / "a.png"), (40, 60), objects)
    names = ("cow", "Porites/massive", "rope")
    skeletons = {name: Skeleton(()) for name in names} | {"fox": Skeleton(("nose", "tail"), None, ((0, 1),))}
    [path] = convert_labels({"train": AnnotationSet([picture], skeletons)}, tmp_path / "new", "cvat")
    return path, covered


def test_a_written_file_is_read_by_the_rules_of_cvats_own_loader(written):
    """What its loader takes from each shape, by name; a skeleton's points need outside and occluded."""
    path, covered = written
    [image] = ElementTree.parse(path).getroot().iter("image")
    assert (path.parent / "images" / image.attrib["subset"] / image.attrib["name"]).is_file()
    shapes = [shape for shape in image if shape.tag != "tag"]
    assert [shape.tag for shape in shapes] == ["box", "polygon", "polygon", "mask", "polyline", "skeleton"]
    assert [int(shape.attrib.get("group_id", 0)) for shape in shapes] == [0, 1, 1, 0, 0, 0]
    box, first, _, mask, _, fox = shapes
    assert [float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr")] == [1, 2, 5, 8.25]
    assert (box.attrib["occluded"], box.find("attribute").attrib, box.find("attribute").text) == (
        "1",
        {"name": "age"},
        "3",
    )
    points = [[float(number) for number in pair.split(",")] for pair in first.attrib["points"].split(";")]
    assert points == [[2, 2], [12, 2], [12, 12.5]]
    left, top, width, height = (int(mask.attrib[name]) for name in ("left", "top", "width", "height"))
    counts = list(map(int, mask.attrib["rle"].split(",")))
    crop = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)
    assert (crop == covered[top : top + height, left : left + width]).all()
    assert crop.sum() == covered.sum()
    flags = [(part.attrib["label"], part.attrib["outside"], part.attrib["occluded"]) for part in fox]
    assert flags == [("nose", "0", "0"), ("tail", "1", "0")]


def test_a_written_file_opens_in_datumaro(written):
    base = pytest.importorskip("datumaro.plugins.data_formats.cvat.base", reason="datumaro is not installed")
    path, covered = written
    [item] = base.CvatBase(str(path), subset="Train")
    kinds = [type(annotation).__name__ for annotation in item.annotations]
    assert kinds[:5] == ["Bbox", "Polygon", "Polygon", "Mask", "PolyLine"]
    assert (np.asarray(item.annotations[3].image).astype(bool) == covered).all()
    assert item.annotations[1].points == [2, 2, 12, 2, 12, 12.5]
