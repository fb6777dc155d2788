"""Tracks of CVAT for video, over the frames that it exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes

BOX = '<box frame="{}" keyframe="{}" outside="{}" occluded="0" xtl="{}" ytl="2" xbr="{}" ybr="9" z_order="1"></box>'
SIZE = "<original_size><width>60</width><height>40</height></original_size>"
META = f"<meta><job><mode>interpolation</mode>{SIZE}</job></meta>"


@pytest.fixture
def video(tmp_path, draw_picture):
    """Write a CVAT file for video and its frames of 40 x 60 pixels, and read it."""

    def write(tracks: str, frames: int = 6) -> dict:
        for number in range(frames):
            draw_picture(tmp_path / "images" / f"frame_{number:06d}.png")
        (tmp_path / "annotations.xml").write_text(f"<annotations>{META}{tracks}</annotations>")
        part = read_annotations(tmp_path)["all"]
        lefts = {
            picture.path.stem[-1]: [
                float(i.box_xyxy[0]) if i.box_xyxy is not None else len(i.polygons) for i in picture.instances
            ]
            for picture in part.pictures
        }
        return {"part": part, "lefts": lefts}

    return write


def test_frames_hold_what_the_export_writes_for_them_until_it_is_outside(video):
    shapes = "".join(BOX.format(f, int(f in (0, 3)), int(f == 3), 10 + f, 30) for f in range(4))
    loose = BOX.format(2, 1, 0, 1, 5) + BOX.format(3, 1, 1, 1, 5)
    cow = f'<track id="0" label="cow" source="manual" group_id="4">{shapes}</track>'
    found = video(f'{cow}<track id="1" label="ant">{loose}</track>')
    assert found["lefts"] == {"0": [10], "1": [11], "2": [12, 1], "3": [], "4": [], "5": []}
    part = found["part"]
    assert part.problems == []
    cow, ant = part.pictures[2].instances
    assert (cow.category, cow.track_id, cow.group, cow.z_order) == ("cow", 0, 4, 1)
    assert (ant.category, ant.track_id, ant.group) == ("ant", 1, None)
    assert list(part.skeletons) == ["ant", "cow"]


def test_boxes_between_keyframes_go_evenly_and_other_shapes_stay_and_both_are_told(video):
    boxes = BOX.format(0, 1, 0, 10, 30) + BOX.format(4, 1, 0, 18, 34) + BOX.format(5, 1, 1, 18, 34)
    ring = '<polygon frame="{}" keyframe="1" outside="{}" points="1,1;9,1;9,7"/>'
    ant = f'<track id="1" label="ant">{ring.format(1, 0)}{ring.format(3, 1)}</track>'
    found = video(f'<track id="0" label="cow">{boxes}</track>{ant}')
    assert found["lefts"] == {"0": [10], "1": [12, 1], "2": [14, 1], "3": [16], "4": [18], "5": []}
    assert found["part"].pictures[1].instances[0].box_xyxy.tolist() == [12, 2, 31, 9]
    between, held = found["part"].problems
    assert between.what == "3 boxes between keyframes are placed evenly between them"
    assert held.what == "1 shapes between keyframes that are no boxes are as in the keyframe before them"
    assert not between.blocks


def test_a_track_that_does_not_say_where_it_ends_and_frames_that_are_not_there_are_told(video):
    shapes = BOX.format(1, 1, 0, 10, 30) + BOX.format(2, 1, 0, 10, 30) + BOX.format(99, 1, 0, 10, 30)
    found = video(
        f'<track id="0" label="cow">{shapes}</track><track id="1" label="cow">{BOX.format(1, 1, 0, 2, 9)}</track>'
    )
    whats = [problem.what for problem in found["part"].problems]
    assert "1 tracks end before the last frame and do not say outside; they are taken to end there" in whats
    assert "1 shapes are in frames without a picture, and are left out" in whats


def test_skeletons_of_a_track_are_outside_point_by_point(video, tmp_path):
    labels = "<labels><label><name>fox</name><type>skeleton</type></label>{}</labels>"
    parts = "".join(f"<label><name>{n}</name><type>points</type><parent>fox</parent></label>" for n in ("nose", "tail"))
    point = '<points label="{}" keyframe="1" outside="{}" occluded="0" points="{},4"/>'
    rows = (
        f'<skeleton frame="{f}" keyframe="1" z_order="0">{point.format("nose", int(f == 2), 5 + f)}'
        f"{point.format('tail', int(f > 0), 9)}</skeleton>"
        for f in range(3)
    )
    found = video(f'<meta><job>{labels.format(parts)}</job></meta><track id="3" label="fox">{"".join(rows)}</track>', 3)
    points = [[i.keypoints.tolist() for i in picture.instances] for picture in found["part"].pictures]
    assert points[0] == [[[5, 4, 2], [9, 4, 2]]]
    assert points[1][0][0] == [6, 4, 2]
    assert points[1][0][1][2] == 0
    assert points[2] == []


def test_a_shape_that_cannot_be_read_marks_its_frame(video):
    shapes = BOX.format(0, 1, 0, "x", 30) + BOX.format(1, 1, 0, 10, 30) + BOX.format(2, 1, 1, 10, 30)
    part = video(f'<track id="0" label="cow">\n{shapes}</track>')["part"]
    assert [picture.extra.get("incomplete", False) for picture in part.pictures][:3] == [True, False, False]
    assert "annotations.xml:2: expected finite numbers" in str(part.problems[0])


@pytest.mark.parametrize("track", ['<track id="0">{}</track>', '<track id="0" label="cow">{}<box frame="x"/></track>'])
def test_a_track_without_label_or_frame_is_refused_with_its_line(track, video):
    with pytest.raises(DataError, match=r"annotations.xml:1: .*mend or remove the track"):
        video(track.format(BOX.format(0, 1, 0, 1, 5)))


def test_without_its_frames_a_video_is_refused_with_the_export_to_use(tmp_path: Path):
    (tmp_path / "a.xml").write_text(
        f'<annotations><track id="0" label="cow">{BOX.format(0, 1, 0, 1, 5)}</track></annotations>'
    )
    with pytest.raises(DataError, match=r"export them with images from CVAT, or as 'CVAT for images 1.1'"):
        read_boxes(tmp_path / "a.xml")


def test_the_size_of_the_frames_is_compared_with_the_stated_one(video, tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "frame_000002.png", 20, 30)
    video(f'<track id="0" label="cow">{BOX.format(0, 1, 0, 1, 5)}{BOX.format(1, 1, 1, 1, 5)}</track>', 2)
    part = read_annotations(tmp_path)["all"]
    assert [str(problem).partition(": ")[2] for problem in part.problems] == [
        "frame 2: height x width is 40 x 60, the picture is 20 x 30; label the picture as it is now"
    ]
