"""Scenes of one file per band: `inference.inputs` takes their folders, as the page of segmentation says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

import main
from tasks.example import example_task
from tasks.phases import inference, prepare, train
from tests.tasks.example_runs import SMALL
from utils.errors import DataError
from utils.raster.files import write_raster

BANDS = ("B04.tif", "B03.tif", "B02.tif")
PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_500_000)}


def scene(seed: int) -> np.ndarray:
    """Dark and light blots in three bands that differ."""
    generator = np.random.default_rng(seed)
    blots = generator.integers(0, 2, (4, 5)).repeat(16, 0).repeat(16, 1)
    return (40 + 100 * blots[..., None] + [0, 30, 60] + generator.integers(0, 20, (64, 80, 3))).astype(np.uint8)


def write_bands(folder: Path, values: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for index, name in enumerate(BANDS):
        write_raster(folder / name, values[..., index], **PLACE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bands")
    for index, name in enumerate(("land", "s2/june", "s2/july")):
        write_bands(folder / name, scene(index))
    write_raster(folder / "june.tif", scene(1), **PLACE)
    write_raster(folder / "land_label.tif", (scene(0)[..., 0] > 90).astype(np.uint8), **PLACE)
    task, context = band_task(folder)
    prepare.run(task, context)
    train.run(task, context)
    return folder


def band_task(folder: Path, *overrides: str):
    places = (f"paths.raw_images_dir={folder}/land", f"paths.label_path={folder}/land_label.tif")
    return example_task(folder, *SMALL, *places, f"dataset.band_files=[{', '.join(BANDS)}]", *overrides)


def maps(folder: Path, inputs: str, out: Path) -> dict[str, np.ndarray]:
    task, context = band_task(folder, f"inference.inputs={inputs}", f"inference.output_dir={out}")
    inference.run(task, context)
    found = {}
    for path in sorted(out.glob("*.tif")):
        with rasterio.open(path) as raster:
            found[path.name] = raster.read(1)
    return found


def test_folders_a_folder_of_them_globs_and_files_with_all_bands_give_one_map_each(folder, tmp_path):
    listed = maps(folder, f"[{folder}/s2/june, {folder}/s2/july]", tmp_path / "listed")
    assert sorted(listed) == ["july_classes.tif", "june_classes.tif"]
    assert not np.array_equal(*listed.values())
    assert all(set(np.unique(values)) == {0, 1} for values in listed.values())
    for name, inputs in {"parent": f"{folder}/s2", "glob": f"{folder}/s2/ju*"}.items():
        found = maps(folder, inputs, tmp_path / name)
        assert sorted(found) == sorted(listed)
        assert all(np.array_equal(found[name], listed[name]) for name in listed)
    stacked = maps(folder, f"{folder}/june.tif", tmp_path / "stacked")
    assert np.array_equal(stacked["june_classes.tif"], listed["june_classes.tif"])


def test_a_folder_without_the_bands_is_refused_with_their_names(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    task, _ = band_task(folder, f"inference.inputs={tmp_path}/empty")
    with pytest.raises(DataError, match=r"empty: neither this folder nor one in it holds any .*B04\.tif, B03\.tif"):
        task.source.items("inference")


def test_scenes_of_one_name_are_refused(folder, tmp_path):
    write_bands(tmp_path / "june", scene(3))
    task, _ = band_task(folder, f"inference.inputs=[{folder}/s2, {tmp_path}/june]")
    with pytest.raises(DataError, match=r"june and .*s2/june have one name"):
        task.source.items("inference")


def test_a_checkpoint_alone_maps_and_scores_scenes_of_one_file_per_band(folder, tmp_path, monkeypatch):
    """Without dataset.band_files; a file that holds all bands gives the same map."""
    _, context = band_task(folder)
    checkpoint = next(context.folder.rglob("best.safetensors"))
    monkeypatch.chdir(tmp_path)
    expected = maps(folder, f"{folder}/s2/june", tmp_path / "expected")["june_classes.tif"]
    for name, source in {"bands": "s2/june", "stacked": "june.tif"}.items():
        where = [f"inference.inputs={folder}/{source}", f"inference.output_dir={tmp_path}/{name}"]
        assert main.main(["inference.enable=true", f"inference.checkpoint={checkpoint}", *where]) == 0
        with rasterio.open(tmp_path / name / "june_classes.tif") as raster:
            assert np.array_equal(raster.read(1), expected)
    named = [f"evaluate.inputs={folder}/land", f"evaluate.labels={folder}/land_label.tif"]
    assert main.main(["evaluate.enable=true", f"evaluate.checkpoint={checkpoint}", *named]) == 0
    [scores] = Path("runs").rglob("evaluate_inputs/metrics.json")
    assert json.loads(scores.read_text())["pictures"] == 1


def test_trainings_without_band_files_are_those_of_before_they_were_kept(tmp_path):
    """What a training is known by has no key for what is not set: else each finished one would begin anew."""
    task, _ = example_task(tmp_path)
    task.source.prepare_data()
    assert "band_files" not in task.describe()
