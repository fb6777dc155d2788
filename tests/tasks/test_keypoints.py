"""The keypoint task through main.py on drawn animals: numbers that agree, views, resumption, ranks, bad input."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import main
from tasks.example import drawn_animals
from tasks.keypoints.example import SETTINGS, animals_example
from tasks.keypoints.predictor import Decoder
from tasks.keypoints.settings import KeypointsConfig
from tasks.keypoints.sinks import pose_array
from tasks.prepared import collate_samples
from tests.processes import ends_of
from utils.errors import DataError, SettingsError
from utils.formats.read import read_poses
from utils.geometry.augment import View, views_of
from utils.keypoints.metrics import PoseScores
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import read_json

ROOT = Path(__file__).parents[2]


def write_settings(folder: Path, **changes: dict) -> Path:
    from tasks.example import tiny_backbone

    shutil.copytree(drawn_animals(), folder / "animals", dirs_exist_ok=True)
    tree = yaml.safe_load(SETTINGS.format(folder=folder, backbone=tiny_backbone()))
    tree["train"] |= {"epochs": 2, "optimizer": "adamw"}
    tree["keypoints"] |= {"min_score": 0.0, "formats": ["csv", "json", "coco", "labelme", "video"]}
    tree["inference"]["inputs"] = ["images/val_*.png", "chase.mp4"]
    for phase in ("verify", "evaluate", "inference"):
        tree.setdefault(phase, {})["enable"] = True
    for section, values in changes.items():
        tree.setdefault(section, {}).update(values)
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which all phases have run."""
    folder = tmp_path_factory.mktemp("foxes")
    assert main.main([str(write_settings(folder))]) == 0
    return folder


def latest(folder: Path) -> Path:
    return folder / "runs" / "animals" / "latest"


def test_training_evaluate_and_the_written_files_give_the_same_score(finished):
    trained = json.loads((latest(finished) / "train.json").read_text())["metrics"]["weighted_PCK"]
    evaluated = read_json(latest(finished) / "evaluate_val" / "metrics.json")["metrics"]
    assert trained == pytest.approx(evaluated["weighted_PCK"], abs=1e-3)
    truth = read_poses(finished / "animals" / "annotations", root=finished / "animals")["val"]
    scores = PoseScores(7, truth.skeletons["fox"].flip_idx)
    for picture in truth.pictures:
        [frame] = read_json(latest(finished) / "predictions" / f"{picture.path.stem}.json")["frames"]
        true = [(animal.keypoints, animal.box_xyxy, animal.area, animal.is_crowd) for animal in picture.instances]
        scores.update(true, [(pose_array(found), found["score"]) for found in frame["instances"]], picture.id)
    computed = scores.compute()
    for name in ("weighted_PCK", "PCK@16px", "mean_error_px", "OKS_AP"):
        assert computed[name] == pytest.approx(evaluated[name], abs=1e-3), name


def test_every_format_is_written_and_can_be_read(finished):
    folder = latest(finished) / "predictions"
    names = {path.name for path in folder.iterdir()}
    assert {"predictions.csv", "predictions_coco.json", "chase.json", "chase_overlay.mp4"} <= names
    assert len(read_json(folder / "chase.json")["frames"]) == 4
    assert "labelme" not in {path.suffix for path in folder.iterdir()}
    drawn = read_json(folder / "val_000.labelme.json")
    assert (folder / drawn["imagePath"]).resolve() == (finished / "animals" / "images" / "val_000.png").resolve()


def test_a_second_run_does_nothing(finished):
    assert main.main([str(finished / "config.yml")]) == 0
    phases = {row["phase"]: row["status"] for row in read_json(finished / "runs" / "status.json")["phases"]}
    assert {phases[f"animals.{name}"] for name in ("prepare", "train", "evaluate", "inference")} == {"up to date"}


def test_two_ranks_give_the_weights_and_scores_of_one(finished, tmp_path, forks):
    config = write_settings(tmp_path, resources={"distributed": True, "dist_backend": "gloo"})
    codes, outputs = ends_of(forks.start_ranks(2, ROOT / "main.py", config, env=os.environ))
    assert codes == [0, 0], outputs
    one, two = (load_checkpoint(latest(folder) / "checkpoints" / "last.safetensors") for folder in (finished, tmp_path))
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, atol=1e-4, rtol=1e-3)
    scores = [read_json(latest(folder) / "evaluate_val" / "metrics.json")["metrics"] for folder in (finished, tmp_path)]
    assert scores[0]["weighted_PCK"] == pytest.approx(scores[1]["weighted_PCK"], abs=1e-3)


def test_training_in_two_pieces_gives_bitwise_the_weights_of_one(finished, tmp_path):
    from tasks import kinds
    from tasks.context import Context
    from tasks.keypoints.task import KeypointsTask
    from tasks.phases.train import Training
    from tasks.phases.training_state import training_fingerprint
    from tasks.prepared import prepared_items
    from tasks.stores import open_store
    from utils.logging import VerbosityLogger

    settings = main.load_settings(finished / "config.yml", (), kinds()).tasks["animals"]

    def start(folder: Path) -> Training:
        task = KeypointsTask("animals", settings)
        store = open_store(settings, "train")
        train, val = (prepared_items(task, store, split, "test") for split in ("train", "val"))
        task.objective.fit_statistics([entry for item in train for entry in item.entries])
        context = Context(VerbosityLogger("error"), folder)
        return Training(task, context, store, train, val, training_fingerprint(task, train, val))

    first = start(tmp_path)
    first.start()
    first.train_one_epoch()
    first.end_epoch()
    second = start(tmp_path)
    second.run()
    whole = load_checkpoint(latest(finished) / "checkpoints" / "last.safetensors").tensors
    pieces = load_checkpoint(tmp_path / "checkpoints" / "last.safetensors").tensors
    assert all(torch.equal(tensor, pieces[name]) for name, tensor in whole.items())


def test_two_maxima_of_one_blurred_centre_make_one_animal():
    """Centres are taught as Gaussians of three cells: two maxima nearer than two of them are noise, not two animals."""
    decoder = Decoder(4.0, (0, 1), KeypointsConfig(), True, 5)
    maps = {name: torch.full((1, channels, 40, 60), -9.0) for name, channels in (("heatmaps", 2), ("centre", 1))}
    maps["offsets"] = torch.zeros(1, 4, 40, 60)
    maps["heatmaps"][0, 0, 10, 6], maps["heatmaps"][0, 1, 10, 18] = 3.0, 3.0
    maps["offsets"][0, 0, 10, 6], maps["offsets"][0, 2, 10, 18] = 4.0, -4.0  # they vote for cells 10 and 14
    maps["centre"][0, 0, 10, 10], maps["centre"][0, 0, 10, 14] = 2.0, 2.2
    [[animal]] = decoder.decode(maps)
    assert np.isfinite(animal.keypoints).all()
    maps["centre"][0, 0, 10, 10], maps["centre"][0, 0, 10, 3] = -9.0, 2.0  # eleven cells apart they are two
    maps["offsets"][0, 0, 10, 6] = -3.0
    assert len(decoder.decode(maps)[0]) == 2


def test_maps_of_views_are_laid_back_upon_each_other():
    """A map drawn for each view of a picture merges to the plain picture's map: cells, sides and vectors."""
    generator = torch.Generator().manual_seed(0)
    decoder = Decoder(4.0, (1, 0, 2), KeypointsConfig(), True, 3)
    plain = {
        "heatmaps": torch.randn(3, 6, 8, generator=generator),
        "centre": torch.randn(1, 6, 8, generator=generator),
        "offsets": torch.randn(6, 6, 8, generator=generator),
    }
    views = views_of(hflip=True, vflip=True)
    for view in views:
        order = [1, 0, 2] if view.flip else [0, 1, 2]
        vectors = view.apply(plain["offsets"]).unflatten(0, (3, 2))[order].movedim(1, -1)
        seen = {
            "heatmaps": view.apply(plain["heatmaps"])[order],
            "centre": view.apply(plain["centre"]),
            "offsets": view.vectors(vectors).movedim(-1, 1).flatten(0, 1),
        }
        merged = decoder.merge([plain, seen], [views[0], view])
        for name, expected in plain.items():
            torch.testing.assert_close(merged[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("view", [View(True, 0), View(False, 2), View(True, 2)])
def test_picture_and_points_move_together_and_back(view, tmp_path):
    task, _ = animals_example(tmp_path)
    sample = next(task.source.samples(task.source.items("train")[0]))
    moved = task.source.apply_view(sample, view)
    order = list(task.labels.mirror_swap) if view.flip else list(range(7))
    before, after = sample.arrays["keypoints"], moved.arrays["keypoints"][:, order]
    seen = before[..., 2] > 0
    np.testing.assert_allclose(after[seen][:, :2], view.points(before[seen][:, :2], (96, 128)), atol=1e-3)
    assert np.array_equal(moved.arrays["image"], view.apply(sample.arrays["image"]))
    back = task.source.apply_view(moved, view.invert())
    np.testing.assert_allclose(back.arrays["keypoints"], sample.arrays["keypoints"], atol=1e-3)
    assert np.array_equal(back.arrays["image"], sample.arrays["image"])


def test_stored_variations_are_the_same_in_prepare_and_training(tmp_path):
    varied = "dataset.augmentations={enable: true, rotate90: false, stored_variations: 2, rotation_degrees: 20.0}"
    task, _ = animals_example(tmp_path, varied)
    sample = next(task.source.samples(task.source.items("train")[0]))
    views = task.source.views("train")
    assert len(views) == 6
    first, again = (task.source.apply_view(sample, views[-1]).arrays for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["image"], task.source.apply_view(sample, views[-2]).arrays["image"])
    other, _ = animals_example(tmp_path, varied, "resources.seed=5")
    assert other.source.views("train") == views
    assert np.array_equal(other.source.apply_view(sample, views[-1]).arrays["image"], first["image"])


def test_the_size_of_targets_follows_the_curriculum(tmp_path):
    from tasks.sample import Progress

    task, _ = animals_example(tmp_path, "keypoints={short_side: 96, sigma: 3.0, sigma_end: 1.0}")
    sample = next(task.source.samples(task.source.items("train")[0]))
    spots = [
        float(
            task.objective.collate(collate_samples(task, [sample]), [task.objective.encode(sample, Progress(epoch, 3))])
            .target["heatmaps"]
            .sum()
        )
        for epoch in range(3)
    ]
    assert spots[0] > 1.5 * spots[1] > 2 * spots[2] > 0


def test_what_reads_ahead_sees_the_curriculum(tmp_path, monkeypatch):
    from tasks.keypoints.objective import KeypointsObjective

    seen = set()
    encode = KeypointsObjective.encode

    def spy(objective, sample, progress):
        target = encode(objective, sample, progress)
        seen.add((threading.current_thread() is threading.main_thread(), target.sigma))
        return target

    monkeypatch.setattr(KeypointsObjective, "encode", spy)
    settings = write_settings(tmp_path, keypoints={"sigma": 3.0, "sigma_end": 1.0}, train={"num_workers": 2})
    assert main.main([str(settings), "train.epochs=3", "--only", "animals.prepare,animals.train"]) == 0
    assert {(False, 3.0), (False, 2.0), (False, 1.0)} <= seen


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data.yaml", "kpt_shape: [2, 3]\nnames: [a]\nkpt_names: {0: [nose, nose]}\ntrain: images", "is a duplicate"),
        ("data.yaml", "train: images\nnames: [a]\nkpt_shape: [x, 3]", "kpt_shape"),
        ("labels.json", '{"images": [', "labels.json"),
        ("labels.txt", "no/such/picture.png", "labels.txt"),
    ],
)
def test_labels_that_cannot_be_read_end_with_one_line_and_3(tmp_path, capfd, name, text, message):
    config = write_settings(tmp_path)
    (tmp_path / "animals" / name).write_text(text)
    assert main.main([str(config), f"paths.label_path={name}"]) in (2, 3)
    errors = [line for line in "".join(capfd.readouterr()).splitlines() if "[ERROR]" in line]
    assert len(errors) == 1, errors
    assert message in errors[0]


def test_settings_without_use_are_refused(tmp_path, capsys):
    config = write_settings(tmp_path, tasks={"animals": {"kind": "keypoints", "train": {"crop_size": 64}}})
    assert main.main([str(config)]) == 2
    assert "tasks.animals.train.crop_size: unknown key" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["yolo", "labelme", "coco", "deeplabcut", "cvat", "fiftyone"])
def test_prepare_converts_labels_once_and_divided_as_the_splits(tmp_path, format, caplog):
    task, _ = animals_example(tmp_path, f"dataset.convert_to={{format: {format}, folder: {tmp_path}/copy}}")
    caplog.set_level("INFO")
    task.source.prepare_data()
    assert "converting to" in caplog.text
    copied, whole = read_poses(tmp_path / "copy"), task.source.split_sets()
    for split, part in whole.items():
        theirs = {picture.path.stem: picture for picture in copied[split].pictures}
        for picture in part.pictures:
            ours = np.concatenate([animal.keypoints for animal in picture.instances])
            found = np.concatenate([animal.keypoints for animal in theirs[picture.path.stem].instances])
            seen = ours[:, 2] > 0
            np.testing.assert_allclose(found[seen, :2], ours[seen, :2], rtol=1e-6)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*")}
    task.source.prepare_data()
    assert "holds these labels as" in caplog.text
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*")}


def test_coco_with_a_folder_per_split_has_what_other_programs_look_for(tmp_path):
    asked = f"dataset.convert_to={{format: coco, layout: folders, mode: segmentation, folder: {tmp_path}/copy}}"
    task, _ = animals_example(tmp_path, asked)
    task.source.prepare_data()
    for name in (
        "train/annotations.json",
        "valid/annotations.json",
        "annotations_train.json",
        "annotations_valid.json",
    ):
        assert "keypoints" not in read_json(tmp_path / "copy" / name)["annotations"][0], name
    assert len(list((tmp_path / "copy" / "train" / "JPEGImages").iterdir())) == 8
    assert (tmp_path / "copy" / "data.yaml").exists()


def test_outlines_without_points_are_written_in_another_format_and_not_learnt(tmp_path, capfd):
    import cv2

    shape = {"label": "cup", "shape_type": "polygon", "points": [[2, 3], [20, 3], [20, 15]], "group_id": None}
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((24, 32, 3), 40 * number, np.uint8))
        said = {"imagePath": f"{number}.png", "shapes": [shape], "imageHeight": 24, "imageWidth": 32}
        (tmp_path / f"{number}.json").write_text(json.dumps(said))
    places = {"processed_dir": "store", "runs_root": "runs", "splits_dir": "splits"}
    tree = {
        "paths": {"data_root": str(tmp_path), "label_path": "."}
        | {name: f"{tmp_path}/out/{place}" for name, place in places.items()},
        "dataset": {"convert_to": {"format": "coco", "mode": "segmentation", "folder": f"{tmp_path}/out/coco"}},
        "prepare": {"enable": True},
        "train": {"val_fraction": 0.3},
        "tasks": {"cups": {"kind": "keypoints", "keypoints": {"format": "labelme"}}},
    }
    path = tmp_path / "cups.yml"
    path.write_text(yaml.safe_dump(tree))
    assert main.main([str(path)]) == 0
    [cup] = read_json(tmp_path / "out" / "coco" / "annotations" / "val.json")["annotations"]
    assert cup["segmentation"] == [[2, 3, 20, 3, 20, 15]]
    capfd.readouterr()
    assert main.main([str(path), "train.enable=true"]) == 3
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "no keypoint is labelled, only boxes and outlines" in said


def test_a_picture_with_an_unreadable_row_teaches_nothing_until_it_is_mended(tmp_path, caplog):
    from tasks.phases import verify
    from utils.formats.yolo.write import write_yolo

    task, context = animals_example(tmp_path)
    write_yolo(task.source.split_sets(), tmp_path / "yolo")
    row = next((tmp_path / "yolo" / "labels" / "train").glob("*.txt"))
    row.write_text(row.read_text().replace(" ", " nan ", 1))
    paths = f"paths={{data_root: {tmp_path}/yolo, label_path: data.yaml, processed_dir: {tmp_path}/store2}}"
    broken, context = animals_example(tmp_path, paths)
    assert len(broken.source.items("train")) == len(task.source.items("train")) - 1
    assert "left out until the labels are corrected" in caplog.text
    with pytest.raises(DataError, match="1 findings"):
        verify.run(broken, context)


def test_new_settings_are_written_after_a_look_and_never_over_others(tmp_path, capsys):
    target, source = tmp_path / "new.yml", drawn_animals() / "annotations"
    assert main.main([str(target), "--new-config", str(source), "small_data"]) == 0
    assert "data: 12 pictures, 0 of them without an animal" in capsys.readouterr().out
    assert main.main([str(target), "--check"]) == 0
    before = target.read_text()
    assert main.main([str(target), "--new-config", str(source), "none"]) == 2
    assert target.read_text() == before
    assert main.main([str(tmp_path / "b.yml"), "--new-config", str(source), "smal"]) == 2
    assert main.main([str(tmp_path / "b.yml"), "--new-config", str(tmp_path / "nothing"), "none"]) == 3
    assert not (tmp_path / "b.yml").exists()


@pytest.mark.parametrize("profile", ["baseline", "aggressive_s", "small_data"])
def test_a_profile_trains(tmp_path, profile):
    changed = [f"profile={profile}", "train={epochs: 1, batch_size: 4}", "dataset.augmentations.stored_variations=2"]
    if profile == "baseline":
        changed.pop()
    task, context = animals_example(tmp_path, *changed)
    from tasks.phases import load_phase

    load_phase("prepare")(task, context)
    assert load_phase("train")(task, context).metrics["weighted_PCK"] >= 0


@pytest.mark.parametrize("name", ["val_000.json", "val_000.labelme.json", "predictions.csv", "predictions_coco.json"])
def test_results_never_replace_a_persons_files(tmp_path, name):
    formats = "keypoints.formats=[csv, json, coco, labelme]"
    task, _ = animals_example(tmp_path, formats, f"inference.output_dir={tmp_path}/animals/images")
    task.check_inputs()
    own = tmp_path / "animals" / "images" / name
    own.write_text('{"shapes": [], "made_by": "me"}')
    with pytest.raises(SettingsError, match=f"{name}: already exists"):
        task.preflight(["inference"])
    assert own.read_text() == '{"shapes": [], "made_by": "me"}'


def test_results_in_a_named_folder_are_replaced_by_later_runs(tmp_path):
    out = tmp_path / "animals" / "images"
    config = write_settings(tmp_path, inference={"output_dir": str(out), "inputs": [str(out), "chase.mp4"]})
    assert main.main([str(config), "train.epochs=1"]) == 0
    assert {"chase_overlay.mp4", "val_000.labelme.json", "predictions.csv"} <= {path.name for path in out.iterdir()}
    assert main.main([str(config), "train.epochs=1", "keypoints.min_score=0.1"]) == 0
    (out / "val_001.json").unlink()  # what remains is no longer claimed by it
    assert main.main([str(config), "train.epochs=1", "keypoints.min_score=0.2"]) == 2


def test_results_that_would_share_a_name_are_refused(tmp_path):
    task, _ = animals_example(tmp_path, "keypoints.formats=[coco]", "inference.inputs=images/predictions_coco.png")
    images = tmp_path / "animals" / "images"
    shutil.copy(images / "val_000.png", images / "predictions_coco.png")
    with pytest.raises(DataError, match=r"predictions_coco.json is also that of all inputs together"):
        task.preflight(["inference"])


def change_labels(folder: Path, split: str, change) -> None:
    """Let a function change the tree of a split's COCO file."""
    path = folder / "animals" / "annotations" / f"{split}.json"
    tree = read_json(path)
    change(tree)
    path.write_text(json.dumps(tree))


def exchange_names(tree: dict) -> None:
    names = tree["categories"][0]["keypoints"]
    names[0], names[5] = names[5], names[0]


def drop_keypoint(tree: dict) -> None:
    tree["categories"][0] |= {"keypoints": tree["categories"][0]["keypoints"][:6], "skeleton": []}
    tree["categories"][0].pop("flip_idx", None)
    for animal in tree["annotations"]:
        animal["keypoints"] = animal["keypoints"][:18]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (exchange_names, "keypoint 1 is 'snout' in train and .* in val"),
        (drop_keypoint, "7 keypoints in train and 6 in"),
    ],
)
def test_splits_that_disagree_on_a_category_are_refused(tmp_path, change, message):
    task, _ = animals_example(tmp_path)
    change_labels(tmp_path, "val", change)
    with pytest.raises(DataError, match=f"category 'fox': {message}"):
        task.preflight(["prepare"])


def test_what_readers_skip_is_told_once_with_verify_and_without(tmp_path, caplog):
    task, _ = animals_example(tmp_path)
    change_labels(tmp_path, "train", lambda tree: tree["images"].clear())
    change_labels(tmp_path, "train", lambda tree: tree["annotations"].clear())
    change_labels(tmp_path, "val", lambda tree: tree["annotations"][0].update(keypoints=[1, 2]))
    task.preflight(["prepare", "verify"])
    [line] = [record.message for record in caplog.records if "problems in the labels" in record.message]
    assert line.startswith("2 problems in the labels: ")  # and train is left out
    assert "expected 21 keypoint values" in line
    assert "which verify lists" not in line, "both are named"
    found = [finding for split in ("train", "val", "test") for finding in task.source.audit(task.source.items(split))]
    assert ["expected 21 keypoint values" in str(finding) for finding in found if finding.blocks] == [True]


def test_training_without_a_labelled_keypoint_is_refused(tmp_path):
    from tasks.phases import load_phase

    task, context = animals_example(tmp_path)
    change_labels(tmp_path, "train", lambda tree: [animal.update(keypoints=[0] * 21) for animal in tree["annotations"]])
    load_phase("prepare")(task, context)
    with pytest.raises(DataError, match="no labelled keypoint in train: all 8 samples"):
        load_phase("train")(task, context)


@pytest.mark.parametrize("split", ["val", "test"])
def test_pictures_that_train_and_judge_are_refused(tmp_path, split):
    (tmp_path / "a.txt").write_text("images/val_001\nimages/train_003\n")
    task, _ = animals_example(tmp_path, f"dataset.splits.{split}_list={tmp_path}/a.txt")
    assert len(task.source.items("train")) == 8
    with pytest.raises(DataError, match=r"a\.txt: images/train_003 is in the train split too"):
        task.source.items(split)


def claimed_png(height: int, width: int) -> bytes:
    """A small PNG whose header claims another size."""
    import struct
    import zlib

    import cv2

    data = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    chunk = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"not a (picture|video) that can be read: it is an empty file"),
        (b"no picture", r"not a (picture|video) that can be read: it is a text file"),
        (claimed_png(60000, 60000), "60000 x 60000 pixels, expected at most 178956970"),
        (claimed_png(4000, 6000)[:60], "cannot be decoded"),
    ],
)
@pytest.mark.parametrize("name", ["x.png", "v.mp4"])
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path, content, message, name):
    from tasks.labelled import decode_picture
    from utils.formats.types import AnnotatedPicture

    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        decode_picture(AnnotatedPicture("x", tmp_path / name, None, ()))


WRONG_BOXES = {
    "bbox": [{"bbox": [0, 0, 1e9, 1e9]}, {"bbox": [0, 0, 1e300, 20]}],
    "outline": [
        {"bbox": None, "segmentation": [[5, 5, 5, 5, 5, 5]]},
        {"bbox": None, "segmentation": [[1, 5, 9, 5, 4, 5]]},
    ],
}


@pytest.mark.parametrize("mode", ["whole", "per_instance"])
@pytest.mark.parametrize("change", [change for changes in WRONG_BOXES.values() for change in changes])
def test_boxes_without_area_or_end_are_findings_and_teach_nothing(tmp_path, caplog, mode, change):
    from tasks.phases import load_phase, verify

    task, context = animals_example(tmp_path, f"keypoints.instance_mode={mode}")
    change_labels(tmp_path, "train", lambda tree: tree["annotations"][0].update(change))
    task.preflight(["prepare", "train"])
    assert "1 problem in the labels" in caplog.text
    assert len(task.source.items("train")) == 7
    load_phase("prepare")(task, context)
    with pytest.raises(DataError, match="1 findings"):
        verify.run(task, context)
    assert "animal 1: its box" in read_json(context.folder.parent / "verify.json")["lines"][0]


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([[10, 10], [10, 10]], "has no area"),
        ([[10, 10], [90, 10]], "has no area"),
        ([[0, 0], [1e9, 9]], "3 times as wide"),
    ],
)
def test_prompts_without_area_or_end_are_refused_before_work(tmp_path, corners, message):
    asked = ("keypoints.instance_mode=per_instance", f"keypoints.prompts={tmp_path}/prompts")
    task, _ = animals_example(tmp_path, *asked, "inference.inputs=images/val_000.png")
    (tmp_path / "prompts").mkdir()
    shutil.copy(tmp_path / "animals" / "images" / "val_000.png", tmp_path / "prompts" / "val_000.png")
    shape = {"label": "fox", "points": corners, "shape_type": "rectangle", "group_id": 1}
    content = {"shapes": [shape], "imagePath": "val_000.png"}
    (tmp_path / "prompts" / "val_000.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"keypoints.prompts: .*val_000: animal 1: its box .*{message}"):
        task.preflight(["inference"])


def test_videos_in_folders_and_globs_are_inputs(tmp_path):
    from tasks.result_files import is_overlay
    from utils.raster.inputs import find_inputs

    def names(*sources):
        paths = [f"{tmp_path}/{source}" for source in sources]
        return [path.stem for path in find_inputs(paths, is_result=is_overlay)]

    video, picture = drawn_animals() / "chase.mp4", drawn_animals() / "images" / "val_000.png"
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    for target in ("deep/chase.mp4", "deep/.hidden/b.mp4", "chase_overlay.mp4", "other_overlay.mp4"):
        shutil.copy(video, tmp_path / target)
    (tmp_path / "chase.json").write_text('{"made_by": "dinolith", "files": ["chase_overlay.mp4"]}')
    assert names("deep") == ["chase"]  # without a picture
    assert names("") == ["chase", "other_overlay"]
    shutil.copy(picture, tmp_path / "deep" / "val_000.png")
    assert names("") == ["chase", "other_overlay", "val_000"]
    assert names("d*") == ["chase", "val_000"]
    assert names("*.mp4") == ["other_overlay"]
    assert names("deep/*", "deep/chase.mp4") == ["chase", "val_000"]
    assert names("chase_overlay.mp4") == ["chase_overlay"]  # named itself
    (tmp_path / "day[1]").mkdir()
    shutil.copy(video, tmp_path / "day[1]" / "hunt.mp4")
    assert names("day[1]") == ["hunt"]  # a folder of that name, no pattern
    (tmp_path / "other_overlay.mp4").unlink()
    with pytest.raises(DataError, match="only videos that were drawn here"):
        names("*.mp4")


def test_options_that_a_head_does_not_have_are_refused_before_the_sample_is_drawn(tmp_path):
    drawn = f"dataset.sample={{enable: true, folder: {tmp_path}/animals}}"
    task, _ = animals_example(tmp_path, "model.head_options={layer: 3}", drawn)
    with pytest.raises(SettingsError, match=r"model\.head_options\.layer: unknown key"):
        task.preflight(["prepare", "train"])


def test_new_settings_of_a_folder_in_yolo_format_find_its_pictures(tmp_path):
    from utils.formats.yolo.write import write_yolo

    task, _ = animals_example(tmp_path)
    write_yolo(task.source.split_sets(), tmp_path / "yolo")
    target = tmp_path / "new.yml"
    assert main.main([str(target), "--new-config", str(tmp_path / "yolo"), "none"]) == 0
    assert main.main([str(target), "--check"]) == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_keypoint_is_refused_before_training(tmp_path, split):
    from tasks.phases import prepare, train

    task, context = animals_example(tmp_path)
    for item in task.source.items(split):
        for animal in item.picture.instances:
            animal.keypoints[:, 2] = 0
    prepare.run(task, context)
    with pytest.raises(DataError, match=f"no labelled keypoint in {split}"):
        train.run(task, context)


def test_the_decoder_acts_where_points_are_grouped():
    maps = {name: torch.full((1, channels, 40, 60), -9.0) for name, channels in (("heatmaps", 1), ("centre", 1))}
    maps["offsets"] = torch.zeros(1, 2, 40, 60)
    maps["heatmaps"][0, 0, 10, 5:8] = torch.tensor([1.0, 3.0, 2.0])
    maps["centre"][0, 0, 10, 6] = 3.0
    maps["heatmaps"][0, 0, 30, 50] = maps["centre"][0, 0, 30, 50] = 2.0  # an animal of its own, far away
    places = {}
    for decoder in ("quadratic", "soft_argmax"):
        animals = Decoder(4.0, (0,), KeypointsConfig(decoder=decoder), True, 5).decode(maps)[0]
        places[decoder] = [animal.keypoints[0, :2].tolist() for animal in animals]
    weights = np.exp([1.0, 3.0, 2.0])
    mean = float((weights * [5.5, 6.5, 7.5]).sum() / weights.sum())
    np.testing.assert_allclose(places["soft_argmax"], [[4 * mean, 42], [202, 122]], atol=0.01)
    assert abs(places["quadratic"][0][0] - 4 * mean) > 0.05


def test_another_number_of_tolerances_than_keypoints_is_refused_before_features_are_computed(tmp_path):
    task, _ = animals_example(tmp_path, "keypoints.oks_sigmas=[0.1]")
    with pytest.raises(SettingsError, match=r"keypoints\.oks_sigmas: expected one number, or one per keypoint"):
        task.preflight(("prepare", "train"))
