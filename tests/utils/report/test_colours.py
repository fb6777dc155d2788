"""Colours of classes: as people expect them, told apart by everybody."""

from __future__ import annotations

import numpy as np
import pytest

from utils.report.colours import (
    _EXPECTED,
    _appearance,
    class_palette,
    colours_of_classes,
    expected_colour,
    mark_colours,
    mark_name,
)


def smallest_difference(colours: np.ndarray) -> float:
    """Distance in CIELAB of the two colours most alike, under the kind of colour vision that suits them least."""
    looks = _appearance(colours)
    distances = np.linalg.norm(looks[:, None] - looks[None], axis=-1).min(axis=-1)
    return float(distances[~np.eye(len(colours), dtype=bool)].min())


def test_palette_is_stable_distinct_and_never_like_missing_data() -> None:
    palette = class_palette(256)
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert np.array_equal(class_palette(5), palette[:5])
    assert len(np.unique(palette, axis=0)) == 256
    assert smallest_difference(class_palette(20)) > 15  # 2.3 is just noticeable
    random = np.random.default_rng(0).integers(0, 256, (20, 3)).astype(np.uint8)
    assert smallest_difference(class_palette(20)) > 3 * smallest_difference(random)
    lightness = _appearance(palette)[:, 0, 0]
    assert lightness.min() > 25
    assert lightness.max() < 95
    palette[:] = 0
    assert class_palette(1).any()  # a caller gets a copy
    with pytest.raises(ValueError, match="expected 0 to 256, got 300"):
        class_palette(300)


def usual_difference(colours: np.ndarray) -> float:
    """Distance in CIELAB of the two colours most alike, as most people see them."""
    looks = _appearance(colours)[:, 0]
    distances = np.linalg.norm(looks[:, None] - looks[None], axis=-1)
    return float(distances[~np.eye(len(colours), dtype=bool)].min())


def test_expected_colours_differ_for_every_colour_vision() -> None:
    expected = np.array(list(_EXPECTED), np.uint8)
    assert smallest_difference(expected) > 10
    assert usual_difference(expected) > 20


@pytest.mark.parametrize(
    "names",
    [
        ["sand", "wet sand"],
        ["WetSand", "wet sand", "soil"],
        ["Emergent Wetland", "Forested Wetland", "Scrub Wetland"],
        ["road", "street", "path", "sidewalk", "rock", "shadow", "cloud", "background"],
        ["grass", "shrub", "meadow", "park", "forest", "tree"],
        ["water", "river", "lake", "sea", "snow", "ice", "sky"],
        [words.split()[0] for words in _EXPECTED.values()],
        [words.split()[-1] for words in _EXPECTED.values()] + ["fox", "hen"],
    ],
)
def test_colours_of_one_map_are_told_apart(names) -> None:
    for order in (names, names[::-1]):
        colours = colours_of_classes(order)
        assert usual_difference(colours) >= 20, "two shades that are 16 apart are taken for one another"
        assert smallest_difference(colours) >= 10


@pytest.mark.parametrize("name", ["WetSand", "wet_sand", "WET SAND", "OSMSand", "wetSand2"])
def test_words_of_a_name_end_where_capitals_begin(name) -> None:
    assert expected_colour(name) == expected_colour("sand")


def test_a_tint_leaves_the_colour_of_a_later_class_alone() -> None:
    alone = colours_of_classes(["soil"])[0].tolist()
    assert colours_of_classes(["sand", "wet sand", "dry sand", "soil"])[3].tolist() == alone


def test_colours_follow_names_and_never_repeat() -> None:
    names = ["field", "road", "building", "water", "forest"]
    field, road, building, water, forest = colours_of_classes(names).astype(int)
    assert water.argmax() == 2
    assert water[2] > water[0] + 100  # blue
    assert forest[1] > forest[[0, 2]].max() + 50  # green
    assert np.ptp(road) < 10  # grey
    assert building[0] > building[1:].max() + 100  # red
    assert colours_of_classes(names[::-1])[::-1].tolist() == [list(c) for c in (field, road, building, water, forest)]
    assert smallest_difference(colours_of_classes([*names, "a", "b", "c", "river", "lake", "pond", "sea"])) > 8
    many = colours_of_classes([f"river {index}" for index in range(200)])
    assert len(np.unique(many, axis=0)) == 200


def test_chosen_colours_come_first() -> None:
    colours = colours_of_classes(["water", "fox"], {"water": [33, 113, 180], "fox": [33, 113, 181], "none": [0, 0, 0]})
    assert colours.tolist() == [[33, 113, 180], [33, 113, 181]]


def test_marks_differ_from_every_class_and_from_each_other() -> None:
    red, grey = (230, 0, 60), (190, 190, 190)
    assert mark_colours([red], colours_of_classes(["water", "forest", "road"])) == [red]
    everything = colours_of_classes([names.split()[0] for names in _EXPECTED.values()])
    for palette in (everything, class_palette(7), class_palette(30), np.array([red, (200, 40, 45)], np.uint8)):
        marks = mark_colours([red, red, grey], palette.tolist())
        looks = _appearance(np.array([*marks, *palette], np.uint8))
        distances = np.linalg.norm(looks[:, None] - looks[None], axis=-1)[..., 0]
        np.fill_diagonal(distances, np.inf)
        assert distances[:3].min() > 16, "to normal vision; a building is 15 from the usual red"
    many = class_palette(256).tolist()
    assert all(list(mark) not in many for mark in mark_colours([red, grey], many))


@pytest.mark.parametrize("near", [(255, 0, 0), (255, 100, 100), (136, 0, 17), (200, 0, 100)])
def test_errors_are_not_marked_in_the_colour_of_a_class_that_is_as_red(near) -> None:
    palette = colours_of_classes(["sand", "robot"], {"robot": near})
    [mark] = mark_colours([(230, 0, 60)], palette.tolist())
    looks = _appearance(np.array([mark, *palette], np.uint8))
    assert np.linalg.norm(looks[1:] - looks[0], axis=-1)[:, 0].min() >= 40, "to normal vision"
    assert mark_name(mark) == "magenta"
