"""Pictures: colours that differ, overlays that follow the classes, files that are whole."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.report.colours import class_palette, colours_of_classes, mark_colours
from utils.report.plots import (
    draw_class_map,
    draw_comparison,
    plot_confusion,
    plot_training,
    save_picture,
)


def read_rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_class_map_blends_classes_and_leaves_the_rest() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 4)).astype(np.uint8)
    classes = np.random.default_rng(1).integers(0, 4, (6, 9)).astype(np.uint8)
    classes[0], classes[1] = 255, 200  # ignored; without a colour
    before, palette = image.copy(), class_palette(4)
    drawn = draw_class_map(image, classes, palette)
    expected = 0.5 * palette[classes[2:]] + 0.5 * image[2:, :, :3]
    assert np.abs(drawn[2:] - expected).max() <= 0.5 + 1e-9
    assert np.array_equal(drawn[:2], image[:2, :, :3])
    assert np.array_equal(image, before)
    with pytest.raises(ValueError, match="must have one height and width"):
        draw_class_map(image, classes[:3], palette)


def test_grey_pictures_are_shown() -> None:
    image, classes = np.full((3, 4, 1), 80, np.uint8), np.full((3, 4), 255, np.uint8)
    assert np.array_equal(draw_class_map(image, classes, class_palette(2)), image.repeat(3, axis=2))


def test_comparison_highlights_what_is_wrong_and_nothing_else() -> None:
    image, truth = np.full((60, 120, 3), 90, np.uint8), np.zeros((60, 120), np.uint8)
    prediction = truth.copy()
    prediction[10:20, 30:50] = 1
    truth[40:, :], prediction[40:, :] = 255, 1  # nothing is known there
    sheet = draw_comparison(image, truth, prediction, class_palette(2), ["field", "road"])
    panel = sheet[22:82, -120:]
    red = (panel == (230, 0, 60)).all(axis=-1)
    assert np.array_equal(red, (prediction == 1) & (truth == 0))
    assert np.array_equal(sheet[22:82, :120], image)  # the first panel is the picture itself


def test_errors_are_not_in_the_colour_of_a_class() -> None:
    names = ["building", "road"]
    palette = colours_of_classes(names)
    assert palette[0].tolist() == [200, 40, 45]
    image, truth = np.full((60, 120, 3), 90, np.uint8), np.zeros((60, 120), np.uint8)
    prediction = truth.copy()
    prediction[10:20, 30:50] = 1
    sheet = draw_comparison(image, truth, prediction, palette, names)
    [wrong] = mark_colours([(230, 0, 60)], palette)
    assert np.array_equal((sheet[22:82, -120:] == wrong).all(axis=-1), prediction == 1)
    assert wrong == (255, 0, 255)
    assert (sheet[82:] == wrong).all(axis=-1).sum() == 12 * 14, "the swatch of the legend"
    assert not (sheet == (230, 0, 60)).all(axis=-1).any()


def test_comparison_shrinks_large_pictures_and_wraps_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.report.plots.PANEL_SIZE", 240)
    names = [f"a rather long class name {index}" for index in range(12)]
    classes = np.arange(12, dtype=np.uint8).repeat(100)[None].repeat(300, axis=0)
    image = np.zeros((300, 1200, 3), np.uint8)
    sheet = draw_comparison(image, None, classes, class_palette(12), names)
    assert sheet.shape[1] == 2 * 240 + 4
    assert sheet.shape[0] > 22 + 60 + 4 * 22
    for colour in class_palette(12):
        assert (sheet[82:] == colour).all(axis=-1).sum() == 12 * 14  # a swatch of every class


def test_comparison_of_a_tiny_picture_is_readable() -> None:
    classes = np.zeros((4, 4), np.uint8)
    sheet = draw_comparison(np.zeros((4, 4, 3), np.uint8), classes, classes, class_palette(1), ["field"])
    assert sheet.shape[0] >= 22 + 4 + 22


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_comes_back_unchanged(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    save_picture(tmp_path / f"deep/a{suffix}", picture)
    back = cv2.imread(str(tmp_path / f"deep/a{suffix}"), cv2.IMREAD_UNCHANGED)
    if picture.ndim == 3:
        back = back[..., [2, 1, 0, 3][: shape[2]]]
    assert np.array_equal(back, picture)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [f"a{suffix}"]


def test_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[...] = (200, 100, 20)
    save_picture(tmp_path / "a.jpg", picture)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - picture).max() < 8


def test_pictures_that_cannot_be_saved_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a name that ends in .png, .jpg or .jpeg"):
        save_picture(tmp_path / "a.tif", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"got float64\(2, 2\)"):
        save_picture(tmp_path / "a.png", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"got uint8\(2, 2, 5\)"):
        save_picture(tmp_path / "a.png", np.zeros((2, 2, 5), np.uint8))
    assert not list(tmp_path.iterdir())


def test_training_plot_has_a_panel_per_kind_and_takes_gaps(tmp_path: Path) -> None:
    rows = [
        {"epoch": epoch, "loss": f"{1 / (epoch + 1)}", "mIoU": 0.1 * epoch if epoch % 2 else "", "lr": 1e-3, "time": 3}
        for epoch in range(6)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_training(rows, tmp_path / "some.png")
        plot_training([], tmp_path / "none.png")
        plot_training([{f"IoU/{index}": 0.5 for index in range(40)}], tmp_path / "many.png")
    assert read_rgb(tmp_path / "some.png").shape == (350, 1500, 3)  # loss, score, learning rate
    assert read_rgb(tmp_path / "none.png").shape == (350, 500, 3)
    curve = np.array([0, 114, 178])
    assert (np.abs(read_rgb(tmp_path / "some.png")[:, :500].astype(int) - curve).max(axis=-1) < 10).sum() > 200


def test_confusion_plot_takes_tensors_absent_classes_and_many_classes(tmp_path: Path) -> None:
    plot_confusion(torch.tensor([[5, 1], [0, 0]]), ["field", "road"], tmp_path / "two.png")
    plot_confusion(np.eye(60, dtype=np.int64), [f"class {index}" for index in range(60)], tmp_path / "sixty.png")
    assert read_rgb(tmp_path / "sixty.png").shape[0] > 3 * read_rgb(tmp_path / "two.png").shape[0]
    with pytest.raises(ValueError, match=r"one row and column per name, 1, got \(2, 2\)"):
        plot_confusion(np.eye(2), ["field"], tmp_path / "no.png")


def test_plots_leave_no_figure_behind(tmp_path: Path) -> None:
    plot_training([{"epoch": 0, "loss": 1.0}], tmp_path / "a.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
