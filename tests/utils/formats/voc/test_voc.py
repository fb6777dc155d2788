"""Pascal VOC: the convention of its corners, where pictures lie, bad objects with file and line, and entity bombs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance
from utils.formats.voc.read import read_voc
from utils.formats.voc.write import unsupported, write_voc

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "det_trees"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data set in {REAL}")


def box(xmin: object = 3, ymin: object = 5, xmax: object = 30, ymax: object = 20) -> str:
    """Corners in an unusual order: readers go by name."""
    return f"<bndbox><ymax>{ymax}</ymax><xmin>{xmin}</xmin><xmax>{xmax}</xmax><ymin>{ymin}</ymin></bndbox>"


def thing(inside: str, name: str = "dog") -> str:
    return f"<object>\n<name>{name}</name>{inside}</object>\n"


@pytest.fixture
def write(tmp_path, draw_picture):
    """Write a picture of 40 x 60 and its XML file, which begins its objects on line 3."""

    def make(objects: str, name: str = "a", label: str = "", picture: str = "", stated: str | None = None) -> Path:
        draw_picture(tmp_path / picture / f"{name}.png")
        path = tmp_path / label / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        stated = f"{name}.png" if stated is None else stated
        path.write_text(f"<annotation>\n<filename>{stated}</filename>\n{objects}</annotation>")
        return path

    return make


def test_the_first_pixel_is_1_and_the_last_one_is_inside(write, tmp_path):
    write(thing(box(1, 1, 60, 40)) + thing(box(5, 6, 5, 6), "cat"))
    part = read_voc(tmp_path)["all"]
    dog, cat = part.pictures[0].instances
    assert (dog.category, dog.box_xyxy.tolist()) == ("dog", [0, 0, 60, 40])
    assert (cat.category, cat.box_xyxy.tolist()) == ("cat", [4, 5, 5, 6])  # one pixel
    assert list(part.skeletons) == ["cat", "dog"]
    assert not part.problems


def test_a_set_with_a_box_that_begins_at_0_counts_from_0_and_says_so(write, tmp_path):
    write(thing(box(3, 5, 30, 20)))
    write(thing(box(0, 2, 60, 40)), "b")
    part = read_voc(tmp_path)["all"]
    assert [picture.instances[0].box_xyxy.tolist() for picture in part.pictures] == [[3, 5, 30, 20], [0, 2, 60, 40]]
    [problem] = part.problems
    assert problem.where == f"{tmp_path}/b.xml:4"
    assert "xmin is 0, but VOC counts from 1" in problem.what
    assert not problem.lost
    assert not problem.blocks  # a set that is read right need not be mended


def test_flags_are_tags_and_difficult_objects_are_crowds(write, tmp_path):
    write(thing(f"<difficult>1</difficult><truncated>1</truncated><pose>Left</pose>{box()}") + thing(box()))
    hard, easy = read_voc(tmp_path)["all"].pictures[0].instances
    assert (hard.is_crowd, hard.tags, hard.extra) == (True, {"difficult": True, "truncated": True}, {"pose": "Left"})
    assert (easy.is_crowd, easy.tags, easy.extra) == (False, {}, {})


def test_tags_of_other_formats_are_written_as_they_mean_it(tmp_path, draw_picture):
    tags = [
        {"truncated": "false"},
        {"truncated": "0"},
        {"truncated": "1"},
        {"truncated": True},
        {"truncated": "partly"},
    ]
    dogs = tuple(Instance("dog", box_xyxy=np.array([2.0, 4, 30, 20]), tags=tag) for tag in tags)
    part = AnnotationSet([AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), dogs)], {})
    write_voc({"all": part}, tmp_path / "new")
    read = read_voc(tmp_path / "new")["all"].pictures[0].instances
    assert [dog.tags.get("truncated", False) for dog in read] == [False, False, True, True, False]
    assert unsupported(part) == ["truncated or occluded as neither 0 nor 1 (written as 0): 1 of 5 instances"]


def test_parts_of_a_person_are_no_objects(write, tmp_path):
    head = f"<part><name>head</name>{box(1, 1, 9, 9)}</part>"
    write(thing(head + box(), "person"))
    [person] = read_voc(tmp_path)["all"].pictures[0].instances
    assert person.box_xyxy.tolist() == [2, 4, 30, 20]


BAD = {
    "no bndbox": (thing(""), "no bndbox in the object"),
    "no name": (f"<object>\n{box()}</object>", "no name in the object"),
    "no corner": (thing("<bndbox><xmin>1</xmin></bndbox>"), "expected numbers as xmin, ymin, xmax, ymax, got '1', ''"),
    "word": (thing(box(xmin="x")), "got 'x', '5', '30', '20'"),
    "underscore": (thing(box(xmin="1_0")), "got '1_0', '5', '30', '20'"),
    "nan": (thing(box(xmin="nan")), "a box of finite numbers"),
    "infinity": (thing(box(xmax="1e999")), "a box of finite numbers"),
    "reversed": (thing(box(40, 5, 30, 20)), "a box with a width and a height, got -9 x 16"),
    "outside": (thing(box(70, 5, 90, 20)), "lies outside of the picture of 60 x 40 pixels"),
    "flag": (thing(f"<difficult>2</difficult>{box()}"), "expected 0 or 1 as difficult, got '2'"),
    "empty score": (thing(f"<Score/>{box()}"), "expected a finite number as Score, got ''"),
    "score": (thing(f"<score>high</score>{box()}"), "expected a finite number as score, got 'high'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_object_is_one_problem_with_file_and_line(name, write, tmp_path):
    objects, reason = BAD[name]
    write(thing(box(), "cat") + objects)
    part = read_voc(tmp_path)["all"]
    assert [instance.category for instance in part.pictures[0].instances] == ["cat"]
    [problem] = part.problems
    assert problem.where == f"{tmp_path}/a.xml:5"  # the second object begins there
    assert reason in problem.what
    assert part.pictures[0].extra["incomplete"]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
LEAK = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("declaration", [BOMB, LEAK], ids=["bomb", "leak"])
def test_entities_are_refused(declaration, write, tmp_path):
    path = write(thing(box()))
    path.write_text(declaration + "<annotation><filename>a.png</filename><folder>&a;</folder></annotation>")
    with pytest.raises(DataError, match=r"a\.xml:1: declares an entity, which labels do not need"):
        read_annotations(tmp_path, "voc")


def test_broken_and_deep_xml_is_one_problem_and_costs_no_other_file(write, tmp_path):
    write(thing(box()))
    write("", "b").write_text("<annotation>\n<object></annotation>")
    write("", "c").write_text("<annotation>" + "<a>" * 200 + "</a>" * 200 + "</annotation>")
    part = read_voc(tmp_path)["all"]
    assert [picture.id for picture in part.pictures] == ["a"]
    found = {Path(problem.where).name: problem.what for problem in part.problems}
    assert found["b.xml:2"] == "not XML (mismatched tag)"
    assert "more than 100 elements inside each other" in found["c.xml:1"]


@pytest.mark.parametrize(
    ("label", "picture"),
    [("", ""), ("Annotations", "JPEGImages"), ("annotations", "images"), ("labels", ""), ("xml/day1", "images/day1")],
)
def test_pictures_lie_beside_or_apart(label, picture, write, tmp_path):
    write(thing(box()), label=label, picture=picture)
    write(thing(box()), "b", label, picture, stated=r"C:\old\set\b.png")
    part = read_annotations(tmp_path)["all"]
    assert [Path(found.path).name for found in part.pictures] == ["a.png", "b.png"]
    assert not part.problems


def test_the_named_picture_counts_where_two_share_a_stem(write, tmp_path, draw_picture):
    write(thing(box()), stated="a.jpg")
    draw_picture(tmp_path / "a.jpg")
    [picture] = read_voc(tmp_path)["all"].pictures
    assert picture.path.name == "a.jpg"
    write(thing(box()), stated="b.tif")
    problems = []
    with pytest.raises(DataError, match=r"may be the label of .*a\.jpg or of .*a\.png"):
        problems = read_voc(tmp_path)["all"].problems
    assert not problems


def test_labels_without_pictures_pictures_twice_and_without_labels_are_told(write, tmp_path, draw_picture):
    write(thing(box()))
    write(thing(box(9)), "b", stated="a.png")
    write(thing(box()), "lost")
    (tmp_path / "lost.png").unlink()
    draw_picture(tmp_path / "new.png")
    part = read_voc(tmp_path)["all"]
    found = {Path(problem.where).name: problem.what for problem in part.problems}
    assert re.search(r"a\.png is labelled by .*a\.xml too; this file is left out", found["b.xml"])
    assert "no picture: looked for 'lost.png'" in found["lost.xml"]
    assert found[tmp_path.name] == "pictures without an XML file, left out: 1, such as new.png"
    assert part.pictures[0].extra["incomplete"]  # its two labels differ
    assert [Path(problem.where).name for problem in part.problems if not problem.blocks] == [tmp_path.name]


def test_splits_are_lists_or_folders(write, tmp_path):
    for name in "abcd":
        write(thing(box()), name, "Annotations", "JPEGImages")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a 1\nb -1\n")
    (lists / "val.txt").write_text("c\nx\n")
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    sets = read_annotations(tmp_path)
    assert {split: [Path(p.path).stem for p in part.pictures] for split, part in sets.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
    }
    assert [Path(problem.where).name for problem in sets["train"].problems] == ["val.txt:2"]


def test_splits_of_an_exporter(write, tmp_path):
    for split in ("train", "valid"):
        write(thing(box()), f"{split}_1", split, split)
    assert list(read_annotations(tmp_path)) == ["train", "val"]
    spec = tmp_path / "spec" / "data.yaml"
    spec.parent.mkdir()
    spec.write_text("{format: voc, path: .., train: train, names: [cat, dog]}")
    part = read_annotations(spec)["train"]
    assert list(part.skeletons) == ["cat", "dog"]
    spec.write_text("{format: voc, path: .., train: train, names: [cat]}")
    assert "'dog' is no category; known: cat" in read_annotations(spec)["train"].problems[0].what


def test_a_stated_size_must_be_the_picture_s(write, tmp_path):
    write(f"<size><width>50</width><height>40</height><depth>3</depth></size>{thing(box())}")
    [problem] = read_voc(tmp_path)["all"].problems
    assert problem.what == "height x width is 40 x 50, the picture is 40 x 60"


def test_boxes_are_refused_where_keypoints_are_needed(write, tmp_path):
    write(thing(box()))
    with pytest.raises(DataError, match="labels of format voc are boxes without keypoints"):
        read_poses(tmp_path)


@needs_real_data
@pytest.mark.real_data
def test_real_trees():
    part = read_boxes(REAL)["all"]
    counts = {Path(p.path).name: len(p.instances) for p in part.pictures}
    assert counts == {"2019_YELL_2_541000_4977000_image_crop.png": 279, "OSBS_029.tif": 61, "SOAP_061.png": 37}
    assert list(part.skeletons) == ["Alive", "Dead", "Tree"]
    soap = next(p for p in part.pictures if Path(p.path).stem == "SOAP_061")
    assert [i.category for i in soap.instances].count("Dead") == 28
    assert soap.instances[0].box_xyxy.tolist() == [148, 104, 173, 129]
    edges = [i.box_xyxy.tolist() for p in part.pictures for i in p.instances]
    assert min(edge[0] for edge in edges) == min(edge[1] for edge in edges) == 0


HIDDEN = {
    "capital": ("<Object><name>dog</name>{}</Object>", "'Object' in 'annotation'"),
    "prefix": ("<v:object><name>dog</name>{}</v:object>", "'v:object' in 'annotation'"),
    "list": ("<objects><object><name>dog</name>{}</object></objects>", "'object' in 'objects'"),
    "item": ("<items><item>{}</item></items>", "'bndbox' in 'item'"),
    "bare": ("{}", "'bndbox' in 'annotation'"),
    "corners": ("<objects><item><xmin>1</xmin></item></objects>", "'xmin' in 'item'"),
    "inner": (thing(box(), "cat").replace("</object>", "<object><name>dog</name>{}</object></object>"), "in 'object'"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_looks_like_an_object_and_is_not_read_is_a_problem(name, write, tmp_path):
    text, words = HIDDEN[name]
    write(text.format(box()))
    write(thing(box()), "b")
    part = read_voc(tmp_path)["all"]
    [problem] = part.problems
    assert (problem.picture, problem.lost) == ("a", True)
    assert words in problem.what
    assert [bool(picture.extra.get("incomplete")) for picture in part.pictures] == [True, False]


def test_two_boxes_in_one_object_are_a_problem(write, tmp_path):
    write(thing(box() + box(9)))
    write(thing(box()), "b")
    [problem] = read_voc(tmp_path)["all"].problems
    assert "2 bndbox in the object, expected one" in problem.what


UNREAD = {
    "empty": (b"", "an empty file"),
    "spaces": (b" \n", "an empty file"),
    "text": (b"hello", "not XML (syntax error)"),
    "root": (b"<Annotation></Annotation>", "expected an element annotation as VOC has, got Annotation"),
    "other": (b"<dataset/>", "expected an element annotation as VOC has, got dataset"),
    "latin": (
        "<annotation>\n<a>\u00fc</a></annotation>".encode("latin-1"),
        "a.xml:2: not UTF-8, and no other encoding is declared; save it as UTF-8",
    ),
    "gbk": (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n<a>\u6811</a></annotation>'.encode("gbk"),
        "a.xml:3: not UTF-8, and no other encoding is declared; save it as UTF-8",
    ),
    "coding": ('<?xml version="1.0" encoding="gbk"?><annotation>\u9f8d</annotation>'.encode("gbk"), "save it as UTF-8"),
}


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("layout", [("", ""), ("Annotations", "JPEGImages")], ids=["beside", "apart"])
def test_an_xml_file_of_a_picture_that_cannot_be_read_is_called_what_it_is(name, layout, write, tmp_path):
    content, words = UNREAD[name]
    write(thing(box()), "a", *layout).write_bytes(content)
    write(thing(box()), "b", *layout)
    (tmp_path / layout[0] / "b.tif.aux.xml").write_text("<PAMDataset/>")
    part = read_annotations(tmp_path)["all"]
    [problem] = part.problems
    assert "a.xml" in problem.where
    assert words in str(problem)
    assert problem.blocks
    assert [picture.path.name for picture in part.pictures] == ["b.png"]


@pytest.mark.parametrize("declared", ["UTF-16", "UTF-8", ""])
def test_utf16_is_read(declared, write, tmp_path):
    path = write(thing(box(), "k\u00fch"))
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    path.write_bytes((head + path.read_text(encoding="utf-8")).encode("utf-16"))
    [instance] = read_annotations(tmp_path)["all"].pictures[0].instances
    assert (instance.category, instance.box_xyxy.tolist()) == ("k\u00fch", [2, 4, 30, 20])


def test_a_folder_of_other_xml_is_called_what_it_is(write, tmp_path):
    write("").write_text("<labels><image><box/></image></labels>")
    with pytest.raises(DataError, match=r"a\.xml is XML of 'labels', and VOC has 'annotation', CVAT 'annotations'"):
        read_annotations(tmp_path)


def test_metadata_of_a_picture_that_has_its_voc_file_elsewhere_is_no_label(write, tmp_path):
    """As vendors of satellite images deliver it; without a VOC file of that very picture it is told."""
    for name in ("spring/a", "summer/a"):
        write(thing(box()), "a", f"Annotations/{Path(name).parent}", f"JPEGImages/{Path(name).parent}")
        (tmp_path / "JPEGImages" / f"{name}.xml").write_text("<isd><TIL/></isd>")
    part = read_annotations(tmp_path, "voc")["all"]
    assert part.num_instances == 2
    [note] = part.problems
    assert not note.blocks
    assert note.what.startswith("2 XML files that are no VOC labels are passed over, such as ")
    (tmp_path / "Annotations" / "summer" / "a.xml").unlink()
    note, problem = read_annotations(tmp_path, "voc")["all"].problems
    assert note.what.startswith("1 XML files")
    assert problem.where == str(tmp_path / "JPEGImages" / "summer" / "a.xml")
    assert "expected an element annotation as VOC has, got isd" in problem.what


@pytest.mark.parametrize("text", ["", "<html><body/></html>", "<annotations/>"])
def test_a_broken_label_is_told_though_an_older_copy_is_elsewhere(text, write, tmp_path):
    write(thing(box()), "a", "backup")
    (tmp_path / "Annotations").mkdir(exist_ok=True)
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    told = [problem for problem in read_annotations(tmp_path, "voc")["all"].problems if problem.blocks]
    assert any(problem.where == str(tmp_path / "Annotations" / "a.xml") for problem in told)
