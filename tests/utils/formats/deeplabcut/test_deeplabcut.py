"""DeepLabCut's tables: three or four header rows, one or three columns of path, and bad rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.utils.formats.compare import find_differences
from utils.errors import DataError
from utils.formats.deeplabcut.read import read_deeplabcut
from utils.formats.deeplabcut.write import unsupported, write_deeplabcut
from utils.formats.read import read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"
HEADER = "scorer,me,me,me,me\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\n"

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


@pytest.fixture
def table(tmp_path, draw_picture):
    """Write a table beside those of the pictures a, b and c, 40 x 60, that it names, and read it."""

    def write(rows: str, header: str = HEADER):
        for name in "abc":
            if f"{name}.png" in rows:
                draw_picture(tmp_path / "labeled-data" / "day1" / f"{name}.png")
        (tmp_path / "labeled-data" / "day1").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "labeled-data" / "day1" / "CollectedData_me.csv"
        path.write_text(header + rows)
        return read_deeplabcut(path)["all"]

    return write


def test_a_row_is_a_picture_with_one_animal(table):
    poses = table("labeled-data/day1/a.png,1.5,2.5,3,4\nlabeled-data/day1/b.png,,,NaN,nan\n")
    first, second = poses.pictures
    assert first.id == "labeled-data/day1/a"
    assert first.instances[0].keypoints.tolist() == [[1.5, 2.5, 2], [3, 4, 2]]
    assert first.instances[0].track_id is None
    assert second.instances == ()
    assert second.size == (40, 60)
    assert not poses.problems


def test_the_path_may_take_three_columns(table):
    header = "scorer,,,me,me\nbodyparts,,,nose,nose\ncoords,,,x,y\n"
    poses = table("labeled-data,day1,a.png,1.5,2.5\n", header)
    assert poses.pictures[0].instances[0].keypoints.tolist() == [[1.5, 2.5, 2]]


def test_several_individuals_keep_their_identity(table):
    header = (
        "scorer,me,me,me,me,me,me,me,me\nindividuals,m1,m1,m1,m1,m2,m2,single,single\n"
        "bodyparts,nose,nose,tail,tail,nose,nose,corner,corner\ncoords,x,y,x,y,x,y,x,y\n"
    )
    header = header.replace("m2,m2,single", "m2,m2,m2,m2,single").replace("me,me\nind", "me,me,me,me\nind")
    header = header.replace("nose,nose,corner", "nose,nose,tail,tail,corner").replace(
        "x,y,x,y,x,y,x,y", "x,y,x,y,x,y,x,y,x,y"
    )
    poses = table("a.png,1,2,,,3,4,5,6,7,8\nb.png,,,,,3,4,,,,\n", header)
    assert {name: skeleton.names for name, skeleton in poses.skeletons.items()} == {
        "animal": ("nose", "tail"),
        "single": ("corner",),
    }
    first, second, corner = poses.pictures[0].instances
    assert [i.track_id for i in poses.pictures[0].instances] == [0, 1, None]
    assert first.keypoints[:, 2].tolist() == [2, 0]
    assert second.keypoints.tolist() == [[3, 4, 2], [5, 6, 2]]
    assert (corner.category, corner.extra) == ("single", {"individual": "single"})
    assert [i.track_id for i in poses.pictures[1].instances] == [1]


def test_likelihood_is_the_score(table):
    header = "scorer,me,me,me\nbodyparts,nose,nose,nose\ncoords,x,y,likelihood\n"
    assert table("a.png,1,2,0.25\n", header).pictures[0].instances[0].keypoint_scores.tolist() == [0.25]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("c.png,1,2,3", "expected 4 values after the path, got 3"),
        ("c.png,1,2,3,4,5", "expected 4 values after the path, got 5"),
        ("c.png,1,2,x,4", "expected numbers or empty cells"),
        ("c.png,1,2,3_1,4", "expected numbers or empty cells (expected a number, got '3_1')"),
        ("c.png,1,2,inf,4", "expected finite numbers or empty cells"),
        ("d.png,1,2,3,4", "no such picture: d.png"),
        ("17,1,2,3,4", "a table of predictions for a video names none"),
        ("a.png,1,2,3,4", "has a row already"),
    ],
)
def test_a_bad_row_is_one_problem_and_costs_no_other(table, row, reason):
    poses = table(f"a.png,1,2,3,4\n{row}\n\nb.png,1,2,3,4\n")
    assert [picture.id[-1] for picture in poses.pictures] == ["a", "b"]
    assert len(poses.problems) == 1
    assert poses.problems[0].where.endswith("CollectedData_me.csv:5")
    assert reason in poses.problems[0].what


@pytest.mark.parametrize("format", ["auto", "deeplabcut"])
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("CollectedData_me.h5", "", "labeled-data/day1/CollectedData_me.h5 is HDF5, .* put the csv beside it"),
        ("CollectedData_me.csv", HEADER.replace(",", ";"), "day1/CollectedData_me.csv is a table with semicolons"),
    ],
)
def test_a_folder_without_a_table_that_is_read_names_the_one_that_is_there(tmp_path, format, name, text, reason):
    folder = tmp_path / "labeled-data" / "day1"
    folder.mkdir(parents=True)
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        read_poses(tmp_path, format)


def test_half_a_point_is_missing_and_reported(table):
    poses = table("a.png,1,,3,4\n")
    assert poses.pictures[0].instances[0].keypoints[:, 2].tolist() == [0, 2]
    assert poses.problems[0].what == "'nose' has only one of x and y; it is taken as missing"
    assert poses.pictures[0].extra["incomplete"]


def test_a_picture_of_zero_size_is_a_problem(table, tmp_path):
    table("a.png,1,2,3,4\n")
    (tmp_path / "labeled-data" / "day1" / "d.png").write_bytes(b"")
    poses = table("a.png,1,2,3,4\nd.png,1,2,3,4\n")
    assert len(poses.pictures) == 1
    assert "not a picture" in poses.problems[0].what


@pytest.mark.parametrize(
    ("header", "rows", "reason"),
    [
        ("a,b\n", "1,2\n", "no header row scorer, bodyparts, coords"),
        (HEADER.replace("tail", "nose"), "a.png,1,2,3,4\n", "x of 'nose' is a duplicate .*keypoint names must differ"),
        (HEADER.replace("x,y,x,y", "x,y,x,z"), "a.png,1,2,3,4\n", "coords: expected x, y or likelihood, got 'z'"),
        (HEADER.replace("x,y,x,y", "x,y,x,likelihood"), "a.png,1,2,3,4\n", "'tail' lacks its x or y column"),
        (
            HEADER.replace("r,m", "r,,m").replace("s,n", "s,,n").replace("s,x", "s,,x"),
            "day1,a.png,1,2,3,4\n",
            "1 or 3 columns",
        ),
        (HEADER, "", "none of its 0 rows has a picture"),
        (HEADER, "0,1,2,3,4\n1,1,2,3,4\n", "none of its 2 rows .*a table of predictions for a video"),
        (HEADER, "../../../../etc/x.png,1,2,3,4\n", "is outside of the data root"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(table, header, rows, reason):
    with pytest.raises(DataError, match=reason) as caught:
        table(rows, header)
    assert "\n" not in str(caught.value)


def tracked(poses: dict[str, AnnotationSet]) -> dict[str, AnnotationSet]:
    """What a table can hold of a set: visible points of individuals."""
    found = {}
    for split, part in poses.items():
        pictures = []
        for picture in part.pictures:
            animals = []
            for track, animal in enumerate(picture.instances):
                seen = np.where(animal.keypoints[:, 2] > 0, 2, 0)
                if seen.any():
                    animals.append(
                        Instance(animal.category, keypoints_array(animal.keypoints[:, :2], seen), track_id=track + 3)
                    )
            pictures.append(AnnotatedPicture(picture.id, picture.path, picture.size, tuple(animals)))
        found[split] = AnnotationSet(pictures, part.skeletons)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_there_and_back(seed, maker, tmp_path):
    poses = tracked(maker.make(seed, full=False))
    assert all(unsupported(part) == [] for part in poses.values())
    write_deeplabcut(poses, tmp_path / "new")
    read = read_deeplabcut(tmp_path / "new" / "data.yaml")
    assert not [str(problem) for part in read.values() for problem in part.problems]
    ordered = {split: sort_by_individual(part) for split, part in poses.items()}
    assert find_differences(ordered, read, ignore=["extra"]) == []


def sort_by_individual(poses: AnnotationSet) -> AnnotationSet:
    order = list(poses.skeletons)
    pictures = [
        AnnotatedPicture(
            p.id, p.path, p.size, tuple(sorted(p.instances, key=lambda i: (order.index(i.category), i.track_id)))
        )
        for p in poses.pictures
    ]
    return AnnotationSet(pictures, poses.skeletons)


def test_categories_with_the_same_keypoints_stay_apart(tmp_path, draw_picture):
    skeletons = {"mouse": Skeleton(("nose",)), "rat": Skeleton(("nose",))}
    rat = Instance("rat", keypoints_array([[1, 2]], [2]), track_id=0)
    poses = AnnotationSet([AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (rat,))], skeletons)
    write_deeplabcut({"all": poses}, tmp_path / "new")
    assert read_poses(tmp_path / "new")["all"].pictures[0].instances[0].category == "rat"


@pytest.mark.parametrize("seed", range(4))
def test_what_is_lost_is_listed(seed, maker, tmp_path):
    poses = maker.make(seed, full=True)
    write_deeplabcut(poses, tmp_path / "new")
    read = read_poses(tmp_path / "new", predictions=True)
    for split, part in poses.items():
        listed = " ".join(unsupported(part))
        held = [i for picture in part.pictures for i in picture.instances if (i.keypoints[:, 2] > 0).any()]
        assert read[split].num_instances == len(held)
        total = sum(len(picture.instances) for picture in part.pictures)
        assert ("no keypoint (left out)" in listed) == (len(held) < total)
        for word, lost in (("polygons", any(i.polygons for i in held)), ("is_crowd", any(i.is_crowd for i in held))):
            assert not lost or word in listed


def test_boxes_masks_and_tags_are_listed_as_lost():
    points = keypoints_array([[1, 2]], [2])
    box, mask = np.array([0.0, 0, 5, 5]), {"counts": [0, 4], "size": [2, 2]}
    mouse = Instance("mouse", points, box, mask=mask, tags={"wild": True})
    picture = AnnotatedPicture("a", Path("a.png"), (40, 60), (mouse,), tags={"night": True})
    assert unsupported(AnnotationSet([picture], {"mouse": Skeleton(("nose",))})) == [
        "boxes: 1 of 1 instances",
        "masks: 1 of 1 instances",
        "tags: 1 of 1 instances",
        "tags of pictures: 1 of 1",
    ]


def test_a_set_without_keypoints_is_refused(tmp_path):
    with pytest.raises(DataError, match="no category has any"):
        write_deeplabcut({"all": AnnotationSet([], {"car": Skeleton(())})}, tmp_path)


@needs_real_data
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "table"), [("kp_openfield", "CollectedData_Pranav.csv"), ("kp_mirror_mouse", "CollectedData.csv")]
)
def test_real_tables_agree_with_the_coco_files(name, table):
    ours = read_poses(REAL / name / table)["all"]
    theirs = {picture.path: picture for part in read_poses(REAL / name).values() for picture in part.pictures}
    assert not ours.problems
    assert {picture.path for picture in ours.pictures} == set(theirs)
    for picture in ours.pictures:
        np.testing.assert_allclose(
            picture.instances[0].keypoints, theirs[picture.path].instances[0].keypoints, rtol=1e-6
        )


@needs_real_data
@pytest.mark.real_data
def test_a_real_table_there_and_back(tmp_path):
    poses = read_poses(REAL / "kp_mirror_mouse" / "CollectedData.csv")
    write_deeplabcut(poses, tmp_path / "new")
    assert unsupported(poses["all"]) == []
    assert find_differences(poses, read_poses(tmp_path / "new")) == []


def test_a_table_in_hdf5_names_the_csv(tmp_path):
    (tmp_path / "CollectedData_me.h5").write_bytes(b"\x89HDF")
    with pytest.raises(DataError, match=r"CollectedData_me\.h5: DeepLabCut's tables are read as csv; name the csv"):
        read_poses(tmp_path / "CollectedData_me.h5")
