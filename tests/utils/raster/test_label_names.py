"""Labels go with pictures by their names, and what is said where they do not can be followed."""

from __future__ import annotations

import re

import pytest
import shapely

from utils.errors import DataError
from utils.raster.inputs import tell_passed_over
from utils.raster.label_layout import pair
from utils.raster.label_pairs import name_pattern, pair_labels, unpaired_hint
from utils.raster.vector_files import read_layer_info, write_features


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def test_a_longer_number_is_another_picture(tmp_path):
    pictures = touch(tmp_path / "images", *(f"img{number}.tif" for number in range(1, 5)))
    labels = touch(tmp_path / "labels", *(f"img{number}0.tif" for number in range(1, 5)))
    assert name_pattern(pictures, labels) is None
    assert name_pattern(pictures, [path.with_stem(f"{path.stem}_1") for path in pictures]) == "{stem}_1.tif"


def test_a_pattern_is_told_for_the_label_of_one_picture_only(tmp_path):
    pictures, labels = touch(tmp_path / "a", "x.tif", "y.tif"), touch(tmp_path / "b", "x_gt.gpkg")
    assert pair(pictures[:1], labels, tmp_path, ()).pattern == "{stem}_gt.gpkg"
    assert pair(pictures, labels, tmp_path, ()).pattern is None  # it covers both


@pytest.mark.parametrize(
    ("names", "pattern", "said"),
    [
        (
            ["a.png"],
            "{stem}_gt.png",
            "no file matches '{stem}_gt.png'; labels such as a.png .*remove dataset.label_pat",
        ),
        (["a_m.png"], "{stem}_gt.png", "no file matches .*; labels such as a_m.png are named .*: '{stem}_m.png'"),
        (["x.png"], "{stem}_gt.png", "no file matches .*; no label in .* is named after a picture"),
        (["x.png"], None, "labels are paired by stem; for other names set"),
    ],
)
def test_the_hint_names_the_pattern_that_would_work(tmp_path, names, pattern, said):
    touch(tmp_path / "labels", *names)
    hint = unpaired_hint([tmp_path / "images" / "a.tif"], tmp_path / "labels", pattern)
    assert re.match(said.replace("{", r"\{"), hint)


def test_pictures_in_the_folder_of_labels_are_no_labels(tmp_path):
    (picture, _) = touch(tmp_path, "a.tif", "a_mask.tif")
    assert "labels such as a_mask.tif" in unpaired_hint([picture], tmp_path, None)


def test_two_labels_of_one_suffix_are_not_told_apart_by_a_pattern(tmp_path):
    (picture,) = touch(tmp_path / "images", "a.tif")
    touch(tmp_path / "labels" / "old", "a.png")
    touch(tmp_path / "labels" / "new", "a.png")
    with pytest.raises(DataError, match=r"2 labels fit: .*; take the others away, or name the labels' folders as"):
        pair_labels([picture], tmp_path / "labels")


def test_the_small_files_of_macos_are_not_told_as_pictures(tmp_path):
    touch(tmp_path, "a.png", "._a.png", ".b.png")
    assert len(told := tell_passed_over([str(tmp_path)])) == 1
    assert told[0].startswith("1 pictures or videos whose names begin with a dot")
    assert told[0].count(".b.png") == 1


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_a_layer_of_empty_geometries_is_refused(tmp_path, suffix):
    path, crs = tmp_path / f"a.{suffix}", "EPSG:32631" if suffix == "gpkg" else "EPSG:4326"
    write_features(path, [shapely.Polygon(), shapely.Polygon()], crs=crs, kind=["a", "b"])
    with pytest.raises(DataError, match=r"layer 'a' holds no features with finite coordinates \(2 features\)"):
        read_layer_info(path, None)
