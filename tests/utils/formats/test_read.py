"""What all formats share: skeletons, recognition, picture sizes, comparison, and conversions between formats."""

from __future__ import annotations

import ast
import json
import re
import struct
import time
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import yaml

from tests.utils.formats.compare import find_differences
from utils.errors import DataError
from utils.formats.coco.write import write_coco
from utils.formats.deeplabcut.write import write_deeplabcut
from utils.formats.labelme.write import write_labelme
from utils.formats.pictures import list_files, new_names, picture_bytes, picture_ids, place_picture, resolve_inside
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array
from utils.formats.yolo.write import write_yolo
from utils.media.picture_sizes import picture_size

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data"
WRITERS = {"yolo": write_yolo, "labelme": write_labelme, "coco": write_coco, "deeplabcut": write_deeplabcut}

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


def test_an_unknown_source_says_what_was_tried(tmp_path):
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no labels; tried .*COCO, LabelMe and FiftyOne.*DeepLabCut.*CVAT"):
        read_poses(tmp_path)
    (tmp_path / "notes.txt").write_text("what we saw")
    with pytest.raises(DataError, match="no known label format"):
        read_poses(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="unknown format 'yollo'"):
        read_poses(tmp_path, "yollo")
    with pytest.raises(DataError, match="no YAML with kpt_shape"):
        read_poses(tmp_path, "yolo")


def zip_labels(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.json", "{}")


OTHERS: list[tuple[str, bytes, str]] = [
    ("labels.xlsx", b"PK", "a spreadsheet; save it as csv, with commas"),
    ("a.csv", b"scorer;ann;ann\r\nbodyparts;nose;nose\r\ncoords;x;y\r\na.png;1,5;2,5\r\n", "a table with semicolons"),
    ("b.csv", b"\xef\xbb\xbfscorer\tann\nbodyparts\tnose\ncoords\tx\n", "a table with tabs"),
    ("c.csv", "scorer,ann\nbodyparts,nose\n".encode("utf-16"), "a table in UTF-16"),
    ("d.csv", b"image,xmin,ymin\na.png,1,2\n", "columns 'image', 'xmin', 'ymin', not one of DeepLabCut"),
    ("config.yaml", b"Task: reach\nscorer: ann\nbodyparts: [paw]\nvideo_sets:\n", "name its folder labeled-data"),
    ("old.yml", b"paths: {data_root: /x}\ntrain: {enable: true}\n", "a settings file of this program"),
    ("mouse.mp4", b"\0\0\0\x18ftypisom", "a video without labels"),
]


@pytest.mark.parametrize(("name", "content", "words"), OTHERS, ids=[name for name, _, _ in OTHERS])
def test_a_file_without_labels_is_called_what_it_is(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(words)):
        read_poses(path)


PACKED = {
    (
        "project.json",
        "task_0/task.json",
        "task_0/data/a.png",
    ): "a backup of CVAT, which only CVAT reads; restore it there",
    ("task.json", "annotations.json", "data/a.png"): "a backup of CVAT, which only CVAT reads; restore it there",
    ("annotations.xml", "images/a.png"): "an export of CVAT, packed; unpack it and name the folder",
    ("set/samples.json", "set/data/a.png"): "an export of FiftyOne, packed; unpack it and name the folder",
    ("a.json", "../../b.json"): "an archive with names that lead out of its folder, such as '../../b.json'",
    ("a.json", "/etc/b.json"): "an archive with names that lead out of its folder, such as '/etc/b.json'",
    ("a.json", "C:\\b.json"): "an archive with names that lead out of its folder, such as 'C:/b.json'",
    ("a.json",): "an archive; unpack it and name the folder",
}


@pytest.mark.parametrize("names", PACKED)
def test_a_zip_is_named_with_what_to_export_and_never_unpacked(names, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    for path in (tmp_path / "set.zip", tmp_path):
        with pytest.raises(DataError) as error:
            read_annotations(path)
        assert PACKED[names] in str(error.value)
        assert "set.zip" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_the_names_of_a_zip_of_very_many_files_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number in range(70_000):
            archive.writestr(f"{number}", "")
    start = time.process_time()
    with pytest.raises(DataError, match="an archive; unpack it and name the folder"):
        read_annotations(tmp_path / "set.zip")
    assert time.process_time() - start < 0.2
    (tmp_path / "set.zip").write_bytes((tmp_path / "set.zip").read_bytes()[:-9] + b"PK")
    with pytest.raises(DataError, match=r"set.zip: an archive; unpack it"):
        read_annotations(tmp_path / "set.zip")


def test_an_archive_is_called_one_also_in_its_folder(tmp_path):
    zip_labels(tmp_path / "labels")  # without a suffix
    zip_labels(tmp_path / "labels.zip")
    for source in (tmp_path / "labels", tmp_path / "labels.zip", tmp_path):
        with pytest.raises(DataError, match="an archive; unpack it and name the folder"):
            read_poses(source)


def test_other_json_files_do_not_hide_the_labels(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    (tmp_path / "results.json").write_text('[{"image_id": 1, "category_id": 2}]')
    (tmp_path / "info.json").write_text('{"images": 1}')
    poses = read_poses(tmp_path)["all"]
    assert [picture.id for picture in poses.pictures] == ["a"]
    assert [Path(problem.where).name for problem in poses.problems] == ["info.json", "results.json"]


def test_several_specifications_in_one_folder_are_refused(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("kpt_shape: [1, 3]")
    with pytest.raises(DataError, match=r"several specifications: a.yaml, b.yaml"):
        read_poses(tmp_path)


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_what_is_written_is_recognised(format, maker, tmp_path):
    poses = maker.make(1, full=False)
    written = WRITERS[format](poses, tmp_path / "new")
    found = read_poses(tmp_path / "new")
    assert set(found) == {"train", "val"}
    assert [len(part.pictures) for part in found.values()] == [5, 5]
    assert all(path.is_file() for path in written)
    assert find_differences(read_poses(written[0], format), found) == []
    partial = [path for path in (tmp_path / "new").rglob("*") if ".partial" in path.name]
    assert not partial


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_writing_over_the_source_or_beside_old_labels_is_refused(format, maker, tmp_path):
    poses = maker.make(1, full=False)
    with pytest.raises(DataError, match="the source lies in it"):
        WRITERS[format](poses, tmp_path)
    WRITERS[format](poses, tmp_path / "new")
    WRITERS[format](poses, tmp_path / "new")  # the same again is no other data set
    fewer = {"train": AnnotationSet(poses["train"].pictures[2:], poses["train"].skeletons)}
    if format == "coco":  # its files list what belongs to them
        write_coco(fewer, tmp_path / "new")
    else:
        with pytest.raises(DataError, match="not of the data set that is to be written here"):
            WRITERS[format](fewer, tmp_path / "new")
    WRITERS[format](fewer, tmp_path / "fewer")
    assert len(read_poses(tmp_path / "fewer")["train"].pictures) == 3


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_odd_values_in_a_specification_never_break_reading(format, maker, spoil, tmp_path):
    path = WRITERS[format](maker.make(2, full=False), tmp_path / "new")[0]
    text = path.read_text()
    generator = np.random.default_rng(4)
    for _ in range(60):
        keys = yaml.safe_load(text)
        spoil(keys, generator)
        path.write_text(yaml.safe_dump(keys, allow_unicode=True))
        try:
            sets = read_poses(path, format)
        except DataError as error:
            lines = [str(error)]
        else:
            lines = [str(problem) for part in sets.values() for problem in part.problems]
        assert all(line and "\n" not in line for line in lines)


@pytest.mark.parametrize("format", ["yolo", "deeplabcut"])
def test_spoiled_text_never_breaks_reading(format, maker, tmp_path):
    path = max(WRITERS[format](maker.make(2, full=False), tmp_path / "new")[1:], key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    generator = np.random.default_rng(6)
    for _ in range(150):
        spoiled = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            spoiled[place] = generator.choice([*b' ,.-\n"09xne', 0, 255])
        path.write_bytes(bytes(spoiled))
        try:
            sets = read_poses(tmp_path / "new")
        except DataError as error:
            lines = [str(error)]
        else:
            lines = [str(problem) for part in sets.values() for problem in part.problems]
        assert all(line and "\n" not in line for line in lines)


def test_a_link_that_leads_back_up_is_followed_once(tmp_path, draw_picture):
    path = draw_picture(tmp_path / "a" / "b.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list_files(tmp_path, (".png",)) == [path]


@pytest.mark.parametrize("seed", range(4))
def test_a_chain_of_formats_gives_the_first_set_back(seed, maker, tmp_path):
    poses = maker.make(seed, full=False)
    current = poses
    for index, format in enumerate(["coco", "yolo", "labelme", "coco", "labelme", "yolo"]):
        WRITERS[format](current, tmp_path / str(index))
        current = read_poses(tmp_path / str(index))
    assert not [str(problem) for part in current.values() for problem in part.problems]
    assert find_differences(poses, current, ignore=["group"]) == []  # COCO's ids become LabelMe's groups


def test_pictures_with_one_stem_keep_their_labels_apart(tmp_path, draw_picture):
    paths = [draw_picture(tmp_path / "source" / name) for name in ("a.png", "a.jpg", "b/a.png")]
    ids = picture_ids(paths, tmp_path / "source")
    assert list(ids.values()) == ["a.png", "a.jpg", "b/a"]
    skeletons = {"mouse": Skeleton(("nose",))}
    for format, writer in WRITERS.items():
        pictures = []
        for index, path in enumerate(paths):
            mouse = Instance("mouse", keypoints_array([[index + 1, 2]], [2]), np.array([0.0, 0, 9, 9]))
            pictures.append(AnnotatedPicture(ids[path], path, (40, 60), (mouse,)))
        writer({"all": AnnotationSet(pictures, skeletons)}, tmp_path / format)
        read = read_poses(tmp_path / format)["all"]
        places = sorted(picture.instances[0].keypoints[0, 0] for picture in read.pictures)
        assert places == pytest.approx([1, 2, 3])


def test_pictures_are_linked_where_possible_and_replaced_whole(tmp_path, draw_picture):
    first, second = draw_picture(tmp_path / "a.png"), draw_picture(tmp_path / "b.png", 20, 30)
    for path in (first, second, second):
        place_picture(AnnotatedPicture("a", path, None, ()), tmp_path / "new" / "c.png")
    assert picture_size(tmp_path / "new" / "c.png") == (20, 30)
    assert picture_size(first) == (40, 60)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.png"]


def test_names_in_a_new_folder_are_different_for_different_stems():
    pictures = [
        AnnotatedPicture(id, Path(path), None, ())
        for id, path in (("a.png", "a.png"), ("a.jpg", "a.jpg"), ("a_jpg", "a_jpg.png"))
    ]
    names = new_names(pictures)
    assert len({name.rpartition(".")[0] for name in names}) == 3


@pytest.mark.parametrize(
    "text", ["../../etc/passwd.png", "/etc/passwd.png", "..\\..\\x.png", "C:\\x.png", "a/../../b.png"]
)
def test_paths_that_climb_out_are_refused(text, tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(DataError, match="is outside of the data root"):
        resolve_inside("a.json", text, folder, folder)
    assert resolve_inside("a.json", "../set/b.png", folder, folder) == folder / "b.png"


def exif(orientation: int, order: str) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def with_exif(suffix: str, orientation: int, order: str, behind: bool = False) -> bytes:
    """A picture of 12 x 20 pixels that says how it is to be turned."""
    data = cv2.imencode(suffix, np.zeros((12, 20, 3), np.uint8))[1].tobytes()
    body = exif(orientation, order)
    if suffix == ".jpg":
        block = b"Exif\0\0" + body
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    if suffix == ".webp":
        inner = data[12:] + b"EXIF" + struct.pack("<I", len(body)) + body
        sides = (19).to_bytes(3, "little") + (11).to_bytes(3, "little")
        whole = b"WEBPVP8X" + struct.pack("<II", 10, 8) + sides + inner
        return b"RIFF" + struct.pack("<I", len(whole)) + whole
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    place = data.index(b"IEND") - 4 if behind else 33
    return data[:place] + chunk + data[place:]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_size_is_that_of_the_displayed_picture(suffix, order):
    for orientation in range(1, 9):
        for behind in {False, suffix == ".png"}:  # the tag of a PNG may stand behind its pixels
            data = with_exif(suffix, orientation, order, behind)
            shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert picture_size(data) == shown.shape[:2] == ((12, 20) if orientation < 5 else (20, 12))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_size_of_a_tiff(tmp_path, bigtiff):
    for orientation in (1, 3, 6):  # OpenCV 5 turns a TIFF by a half, and refuses one that is to be turned by a quarter
        path = tmp_path / f"{orientation}.tif"
        extra = [(274, "H", 1, orientation, False)]
        tifffile.imwrite(path, np.zeros((12, 20, 3), np.uint8), bigtiff=bigtiff, extratags=extra, photometric="rgb")
        assert picture_size(path) == ((12, 20) if orientation < 5 else (20, 12))
        if orientation < 5:
            assert cv2.imread(str(path)).shape[:2] == (12, 20)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_size_equals_the_decoded_size(tmp_path, suffix):
    generator = np.random.default_rng(5)
    for index in range(10):
        height, width = (int(size) for size in generator.integers(1, 300, 2))
        pixels = generator.integers(0, 255, (height, width, 3), np.uint8)
        path = tmp_path / f"{index}{suffix}"
        options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" and index % 2 else []
        assert cv2.imwrite(str(path), pixels, options)
        assert picture_size(path) == (height, width)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a picture"),
        (b"no picture at all", "not a picture"),
        (b"\xff\xd8\xff", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 0, 7) + bytes(9), "not a picture"),
        (b"BM" + bytes(40), "not a picture"),
        (b"II*\0" + bytes(3), "not a picture"),
    ],
)
def test_a_damaged_picture_is_refused_in_one_line(tmp_path, data, reason):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        picture_size(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_picture_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such picture"):
        picture_size(tmp_path / "a.png")
    with pytest.raises(DataError, match="no such picture"):
        picture_bytes(AnnotatedPicture("a", tmp_path / "a.png", None, ()))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_bytes_never_break_the_header_reader():
    generator = np.random.default_rng(8)
    starts = [
        with_exif(".jpg", 6, "<"),
        with_exif(".png", 6, ">"),
        cv2.imencode(".tiff", np.zeros((4, 6), np.uint8))[1].tobytes(),
    ]
    starts.append(cv2.imencode(".webp", np.zeros((4, 6, 3), np.uint8))[1].tobytes())
    for _ in range(400):
        data = bytearray(starts[generator.integers(len(starts))])
        data = data[: generator.integers(1, len(data))]
        for place in generator.integers(0, len(data), 3):
            data[place] = generator.integers(256)
        try:
            height, width = picture_size(bytes(data))
        except DataError:
            continue
        assert height > 0
        assert width > 0


def test_one_picture_in_two_splits_is_reported(tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.png")
    label = tmp_path / "labels" / "a.txt"
    label.parent.mkdir()
    label.write_text("0 .5 .5 .5 .5 .5 .5 2\n")
    (tmp_path / "data.yaml").write_text("{train: images, val: images, kpt_shape: [1, 3], names: [mouse]}")
    sets = read_poses(tmp_path)
    assert [str(problem.what) for problem in sets["val"].problems] == ["the picture is in train and in val"]
    assert sets["val"].problems[0].picture == "images/a"


def test_a_detection_specification_does_not_hide_keypoints_beside_it(tmp_path, maker):
    write_coco(maker.make(1, full=False), tmp_path / "new")
    (tmp_path / "new" / "data.yaml").write_text("names: [car]\ntrain: images/train\n")
    assert sorted(read_poses(tmp_path / "new")) == ["train", "val"]
    assert read_poses(tmp_path / "new")["val"].num_instances > 0


def test_no_module_of_formats_imports_in_a_circle():
    folder = ROOT / "utils" / "formats"
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in folder.rglob("*.py")}
    arrows = {}
    for name, path in names.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        found = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        arrows[name] = (found | {node.module for node in nodes}) & names.keys()
    while arrows:  # take away what imports nothing that is left
        free = {name for name, found in arrows.items() if not found & arrows.keys()}
        assert free, f"imports in a circle: {', '.join(sorted(arrows))}"
        arrows = {name: found for name, found in arrows.items() if name not in free}


@needs_real_data
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "counts", "formats"),
    [
        ("kp_openfield", {"train": (92, 92), "val": (24, 24)}, ["coco"]),
        ("kp_mirror_mouse", {"train": (72, 72), "val": (18, 18)}, ["coco", "yolo"]),
        ("kp_salmon", {"train": (96, 154), "val": (23, 44)}, ["coco", "labelme"]),
        ("kp_bee", {"train": (191, 166)}, ["coco"]),
        ("kp_mousepose_formats", {"all": (6, 6)}, ["coco", "labelme", "yolo"]),
    ],
)
def test_real_sets_are_read_whole_and_convert_without_loss(name, counts, formats, tmp_path):
    sets = read_poses(REAL / name)
    assert {split: (len(part.pictures), part.num_instances) for split, part in sets.items()} == counts
    assert not [str(problem) for part in sets.values() for problem in part.problems]
    for format in formats:
        WRITERS[format](sets, tmp_path / format)
        ignore = ["group", "area", "polygons"] if format == "yolo" else []  # what yolo.unsupported lists
        assert find_differences(sets, read_poses(tmp_path / format), ignore) == []


@needs_real_data
@pytest.mark.real_data
def test_every_sample_file_is_read_or_refused_with_a_reason():
    refused, empty = {}, []
    for path in sorted((REAL / "kp_samples").rglob("*.json")):
        try:
            sets = read_poses(path)
        except DataError as error:
            refused[path.name] = str(error)
            continue
        content = json.loads(path.read_text())
        poses = next(iter(sets.values()))
        assert len(poses.pictures) == len(content["images"]), path
        if not poses.num_instances:
            empty.append((path.name, {problem.what for problem in poses.problems if problem.picture}))
            continue
        assert poses.num_instances == len(content["annotations"]), path
        stated = np.array([value for a in content["annotations"] for value in a["keypoints"]], float).reshape(-1, 3)
        read = np.concatenate([i.keypoints for picture in poses.pictures for i in picture.instances])
        assert np.sort(stated[stated[:, 2] > 0, 0]).tolist() == np.sort(read[read[:, 2] > 0, 0]).tolist(), path
    assert set(refused) == {
        "test_coco_det_AP_H_56.json",
        "test_coco_wholebody.json",
        "test_keypoint_partition_metric.json",
        "test_crowdpose_det_AP_40.json",
        "test_posetrack18_human_detections.json",
    }
    assert all("detections" in line or "WholeBody" in line for line in refused.values())
    assert empty == [("test_animalkingdom.json", {"category 4 is unknown; known: 1, 2"})]  # the file lacks its category


@pytest.mark.parametrize("value", ["a" * 5000, "\0", 10**300, [], {"a": 1}], ids=range(5))
@pytest.mark.parametrize("key", ["path", "train", "names", "kpt_shape", "flip_idx"])
def test_a_hostile_value_is_one_error_that_names_the_file(tmp_path, key, value):
    tree = {"path": ".", "train": "images", "names": {0: "a"}, "kpt_shape": [1, 3], "flip_idx": [0], key: value}
    (tmp_path / "data.yaml").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"data\.yaml") as caught:
        read_annotations(tmp_path / "data.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_a_coco_file_among_pictures_is_read_alone_and_hides_no_specification(tmp_path, draw_picture, caplog):
    draw_picture(tmp_path / "images" / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 9, 8]}
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cow"}]}
    (tmp_path / "images" / "l.json").write_text(json.dumps({**content, "annotations": [box]}))
    assert list(read_boxes(tmp_path)["all"].skeletons) == ["cow"]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .5 .25\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [dog]\n")
    assert list(read_boxes(tmp_path)["train"].skeletons) == ["dog"]
    assert "yolo is read, coco (such as images/l.json) is not" in caplog.text
    caplog.clear()
    (tmp_path / "images" / "l.json").rename(tmp_path / "l.json")
    assert list(read_boxes(tmp_path)["all"].skeletons) == ["cow"]
    assert "coco is read, yolo (such as data.yaml) is not" in caplog.text


LACKING = [
    ("path: .\ntrain: images\n", "does not say names, the classes"),
    ("train: images", "does not say names, the classes"),
    ("path: .\nnames: [cat]\n", "does not say train, val, test or all"),
    ("path: .\n", "does not say names, the classes and train, val"),
    ('train: images\ntest: ""\nnames: [cat]\n', "test: expected a path or a list of paths, got ''"),
    ('train: [images, " "]\nnames: [cat]\n', "train: expected a path or a list of paths"),
]


@pytest.mark.parametrize(("text", "words"), LACKING)
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_a_specification_says_what_it_lacks(text, words, whole, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        read_boxes(tmp_path if whole else tmp_path / "data.yaml")
    assert "data.yaml" in str(caught.value)


@pytest.mark.parametrize("format", ["csv", "coco", "vector"])
def test_a_specification_of_another_format_is_told_with_its_key(format, tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"data.yaml: train: expected .*, got the folder .*images; name the file"):
        read_boxes(tmp_path / "data.yaml", format)


def test_rows_without_their_pictures_are_called_so(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .5 .25\n")
    for path in (tmp_path / "labels", tmp_path / "labels" / "a.txt"):
        with pytest.raises(DataError, match=r"a.txt: rows of a YOLO label; name the folder that holds images"):
            read_boxes(path)
