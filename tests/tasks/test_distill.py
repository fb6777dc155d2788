"""Distillation through main.py on drawn pictures with a tiny teacher: scores, ranks, resumption, export, bad input."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import main
from config import load_settings
from models.backbone import load_backbone
from models.backbones.random_backbone import write_random_backbone
from tasks import kinds
from tasks.context import Context
from tasks.distill.example import SETTINGS, draw_blots, drawn_pictures, student_example, student_task
from tasks.distill.task import DistillTask
from tasks.example import SETTINGS as LABELLED
from tasks.example import tiny_backbone, write_pictures
from tasks.phases import evaluate, prepare, train
from tasks.phases.prediction import score
from tasks.prepared import PreparedReader, prepared_items
from tasks.runs import BEST, LAST
from tasks.sample import Progress
from tasks.splits import read_list
from tasks.stores import open_store
from tests.processes import ends_of
from tests.utils.raster.test_photos import UPRIGHT, save
from utils.data import SampleRef
from utils.errors import DataError, Interrupted, SettingsError
from utils.logging import VerbosityLogger
from utils.raster.files import write_raster
from utils.raster.tiling import Window
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import read_json

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def write_settings(folder: Path, **changes: dict) -> Path:
    """The example's settings as a file, with every phase and a probe, beside the example's pictures."""
    shutil.copytree(drawn_pictures(), folder / "pictures", dirs_exist_ok=True)
    write_pictures(folder / "labelled")
    (folder / "labelled.yml").write_text(LABELLED.format(folder=folder / "labelled", backbone=tiny_backbone()))
    tree = yaml.safe_load(SETTINGS.format(folder=folder, backbone=tiny_backbone()))
    # Muon orthogonalises in bfloat16, which turns the rounding of a sum over ranks into differences that show
    tree["train"] |= {"epochs": 12, "optimizer": "adamw", "adamw_lr": 0.01, "ema_decay": 0.9}
    tree["dataset"] = {"augmentations": {"enable": True, "stored_views": 2}}
    tree["distill"] |= {"probe": {"config": str(folder / "labelled.yml")}, "loss": {"relation": 0.5}}
    for phase in ("verify", "evaluate", "export"):
        tree.setdefault(phase, {})["enable"] = True
    for section, values in changes.items():
        tree.setdefault(section, {}).update(values)
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, forks) -> Path:
    """A folder in which all phases have run, in a process of their own."""
    folder = tmp_path_factory.mktemp("student")
    codes, outputs = ends_of([forks.start(ROOT / "main.py", write_settings(folder), env=os.environ)])
    assert codes == [0], outputs
    return folder


def latest(folder: Path) -> Path:
    return folder / "runs" / "student" / "latest"


def metrics_of(folder: Path) -> dict:
    return read_json(latest(folder) / "evaluate_val" / "metrics.json")["metrics"]


def task_of(folder: Path, *overrides: str) -> DistillTask:
    settings = load_settings(folder / "config.yml", overrides, kinds()).tasks["student"]
    return DistillTask("student", settings)


def context_of(folder: Path) -> Context:
    return Context(VerbosityLogger("error"), folder)


# ---------------------------------------------------------------------------------------------------------------------
# The whole chain


def test_a_student_learns_what_a_random_one_does_not_know(finished):
    found = metrics_of(finished)
    task = task_of(finished)
    store = open_store(task.settings, "train")
    val = prepared_items(task, store, "val", "test")
    fresh = score(task, task.build_model().eval(), val, store, "cpu", 4, context_of(finished))
    assert abs(fresh["mean_cosine"]) < 0.2
    assert found["mean_cosine"] > fresh["mean_cosine"] + 0.25
    assert found["explained_variance"] > 0.1 > fresh["explained_variance"]
    for name, scores in found["per_block"].items():
        assert scores["cosine"] > fresh["per_block"][name]["cosine"] + 0.2, name
        assert -1 <= scores["raw_cosine"] <= 1


def test_training_and_evaluate_give_the_same_score(finished):
    trained = read_json(latest(finished) / "train.json")["metrics"]["mean_cosine"]
    assert trained == pytest.approx(metrics_of(finished)["mean_cosine"], abs=1e-9)


def test_stored_maps_and_computed_ones_give_the_same_score(finished):
    task = task_of(finished)
    store = open_store(task.settings, "train")
    restored, model, _ = evaluate.restore(task, None, context_of(latest(finished).resolve()), "evaluate")
    val = prepared_items(task, store, "val", "test")
    live = score(restored, model.eval(), val, None, "cpu", 4, context_of(finished))
    assert live["mean_cosine"] == pytest.approx(metrics_of(finished)["mean_cosine"], abs=1e-6)


def test_the_probe_names_three_models_and_pictures_are_drawn(finished):
    probe = metrics_of(finished)["probe"]
    assert set(probe) == {"teacher", "student", "random", "closed"}
    assert all(0 < probe[name] <= 1 for name in ("teacher", "student", "random"))
    folder = latest(finished) / "evaluate_val"
    assert (folder / "blocks.csv").read_text().startswith("block,cosine")
    assert len(list(folder.glob("*.png"))) == 2


def test_a_second_run_does_nothing_and_another_probe_scores_again(finished):
    assert main.main([str(finished / "config.yml"), "--only", "student.prepare,student.train,student.evaluate"]) == 0
    phases = {row["phase"]: row["status"] for row in read_json(finished / "runs" / "status.json")["phases"]}
    assert set(phases.values()) == {"up to date"}
    changed = evaluate.evaluation_fingerprint(
        task_of(finished, "distill.probe.overrides=[prepare.tile_size=16]"), None, "val"
    )
    assert changed != evaluate.evaluation_fingerprint(task_of(finished), None, "val")


def test_two_ranks_give_the_weights_and_scores_of_one(finished, tmp_path, forks):
    config = write_settings(tmp_path, resources={"distributed": True, "dist_backend": "gloo"})
    codes, outputs = ends_of(forks.start_ranks(2, ROOT / "main.py", config, env=os.environ))
    assert codes == [0, 0], outputs
    one, two = (load_checkpoint(latest(folder) / "checkpoints" / "last.safetensors") for folder in (finished, tmp_path))
    assert set(one.tensors) == set(two.tensors)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, atol=1e-4, rtol=1e-3)
    assert metrics_of(tmp_path)["cells"] == metrics_of(finished)["cells"]
    for name in ("mean_cosine", "raw_cosine", "explained_variance"):
        assert metrics_of(tmp_path)[name] == pytest.approx(metrics_of(finished)[name], abs=1e-5), name


def stopping_after(context: Context, steps: int) -> Context:
    """A context that asks to stop when so many steps were begun."""
    asked = iter(range(steps))
    return replace(context, stop_requested=lambda: None if next(asked, None) is not None else 15)


def test_a_resumed_training_ends_bitwise_as_an_unbroken_one(tmp_path):
    folder = tmp_path
    write_settings(folder, train={"epochs": 3, "optimizer": "muon"})
    whole, cut = context_of(folder / "whole" / "run"), context_of(folder / "cut" / "run")
    prepare.run(task_of(folder), whole)
    train.run(task_of(folder), whole)
    for steps in (3, 11, 2):
        with pytest.raises(Interrupted):
            train.run(task_of(folder), stopping_after(cut, steps))
    assert train.run(task_of(folder), cut).status == "done"
    for name in (BEST, LAST):
        one, two = (load_checkpoint(where.folder / "checkpoints" / f"{name}.safetensors") for where in (whole, cut))
        assert all(torch.equal(one.tensors[key], two.tensors[key]) for key in one.tensors), name
        assert len(one.tensors) > 20
    assert (whole.folder / "results.csv").read_text() == (cut.folder / "results.csv").read_text()


def test_shares_of_a_batch_have_the_gradient_of_the_whole(finished):
    """What ranks and micro-batches rely on: sums over counts of all, sizes and stretches drawn for each crop."""
    task = task_of(finished)
    store = open_store(task.settings, "train")
    prepared = prepared_items(task, store, "train", "test")
    task.objective.fit_statistics([entry for item in prepared for entry in item.entries])
    reader = PreparedReader(task, store, prepared)
    refs = [
        SampleRef(position, view) for position, view in ((0, "identity"), (7, "hflip"), (12, "identity"), (3, "hflip"))
    ]
    refs = [ref if ref.view in reader.entries[ref.position].records else SampleRef(ref.position) for ref in refs]
    model = task.build_model().train()
    whole = reader.read(refs, Progress(2, 9))
    assert len(set(whole.target["scale"].tolist())) > 1, "several sizes, or this shows nothing"
    counts = task.objective.counts(whole)

    def gradient(parts: list[list[SampleRef]]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            batch = reader.read(part, Progress(2, 9))
            sums = task.objective.loss(model(batch), batch, Progress(2, 9))
            torch.stack([sums[name] / counts[name] for name in sums]).sum().backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    together = gradient([refs])
    for parts in ([refs[:1], refs[1:]], [refs[:2], refs[2:], []]):
        torch.testing.assert_close(gradient(parts), together, atol=1e-5, rtol=1e-3)


def test_another_epoch_draws_other_sizes_and_the_same_epoch_the_same(finished):
    task = task_of(finished)
    store = open_store(task.settings, "train")
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    refs = [SampleRef(position) for position in range(12)]
    drawn = [reader.read(refs, Progress(epoch, 9)).target for epoch in (0, 0, 1)]
    assert torch.equal(drawn[0]["stretch"], drawn[1]["stretch"])
    assert torch.equal(drawn[0]["scale"], drawn[1]["scale"])
    assert not torch.equal(drawn[0]["scale"], drawn[2]["scale"])
    assert len(set(drawn[0]["stretch"][:, 0].tolist())) == len(refs)


def test_channels_are_standardised_as_measured(finished):
    task = task_of(finished)
    store = open_store(task.settings, "train")
    prepared = prepared_items(task, store, "train", "test")
    task.objective.fit_statistics([entry for item in prepared for entry in item.entries])
    reader = PreparedReader(task, store, prepared)
    model = task.build_model().train()
    targets = [model(reader.read([SampleRef(position)]))["target_1"] for position in range(len(reader.entries))]
    joined = torch.cat([target.transpose(0, 1).flatten(1) for target in targets], dim=1)
    torch.testing.assert_close(joined.mean(dim=1), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(joined.std(dim=1), torch.ones(8), atol=1e-2, rtol=0)
    kept = load_checkpoint(latest(finished) / "checkpoints" / "best.safetensors").tensors
    torch.testing.assert_close(kept["student.projections.1.mean"], model.projections[1].mean)


# ---------------------------------------------------------------------------------------------------------------------
# Export


def test_an_exported_student_is_a_backbone_that_gives_the_students_maps(finished):
    folder = latest(finished) / "export"
    backbone = load_backbone(str(folder), [0, 1], precision="fp32")
    _, model, _ = evaluate.restore(task_of(finished), None, context_of(latest(finished).resolve()), "export")
    images = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (2, 3, 48, 40), dtype=np.uint8))
    with torch.no_grad():
        pairs = list(zip(backbone(images), model.student.backbone(images), strict=True))
    for ours, theirs in pairs:
        assert float((ours - theirs).norm() / theirs.norm()) < 5e-3


def test_a_model_card_tells_where_a_student_comes_from_and_no_path_of_this_machine(finished):
    card = (latest(finished) / "export" / "README.md").read_text()
    for word in ("parameters", "multiply-adds", "digest", "licence", "Seed 1337", "| 12 ", "Linear probe", "explained"):
        assert word in card, word
    assert str(finished) not in card
    assert str(Path(tiny_backbone()).parent) not in card


def test_an_export_is_the_same_byte_for_byte(finished, tmp_path):
    for name in ("one", "two"):
        path = finished / "config.yml"
        assert main.main([str(path), "--only", "student.export", f"export.output_dir={tmp_path / name}"]) == 0
    for name in ("README.md", "config.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_an_export_spares_files_of_others(finished, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main.main([str(finished / "config.yml"), "--only", "student.export", f"export.output_dir={tmp_path}"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def windows_of(task: DistillTask, split: str) -> dict[str, list[Window]]:
    """Ground of each picture, in its own pixels, that the crops of a split lie in."""
    found: dict[str, list[Window]] = {}
    for item in task.source.items(split):
        found.setdefault(item.picture.name, []).append(item.area)
    return found


def test_a_single_large_raster_is_divided_into_ground_that_trains_and_ground_that_judges(tmp_path):
    write_raster(tmp_path / "pictures" / "big.tif", draw_blots(512, 640, seed=3))
    task, _ = student_example(
        tmp_path, "distill={block: null, crop: 32, crops: 3}", f"paths.raw_images_dir={tmp_path}/pictures/big.tif"
    )
    task.source.prepare_data()
    train_ground, val_ground = windows_of(task, "train")["big"], windows_of(task, "val")["big"]
    assert len(train_ground) + len(val_ground) >= 20
    assert not any(one.intersection(other) for one in train_ground for other in val_ground)
    assert sum(area.height * area.width for area in train_ground + val_ground) == 512 * 640
    for item in task.source.items("train"):
        samples = list(task.source.samples(item))
        assert len(samples) == task.source.count_samples(item)
        for sample in (sample for sample in samples if sample.id.startswith(f"{item.id}/1_")):
            place = sample.id.rpartition("/1_")[2]
            y, x = (int(part[1:]) for part in place.split("_"))
            assert Window(y, x, 32, 32).intersection(item.area) == Window(y, x, 32, 32), "no pixel of a neighbour"


def test_no_scale_averages_pixels_of_a_neighbouring_block(tmp_path):
    """Blocks of one colour each: a crop that shows two colours has looked over the edge."""
    task, _ = student_example(
        tmp_path,
        f"paths.raw_images_dir={tmp_path}/quilt.tif",
        "distill={crop: 32, crops: 4, block: 67, zooms: [1.0, 0.71, 0.5, 0.33]}",
    )
    write_raster(tmp_path / "quilt.tif", np.zeros((400, 460, 3), np.uint8))
    picture = np.zeros((400, 460, 3), np.uint8)
    areas = [item.area for item in task.source.units.values()]
    for index, area in enumerate(areas):
        picture[area.rows, area.columns] = (10 + 5 * index, 255 - 5 * index, 40 + 90 * (index % 3))
    write_raster(tmp_path / "quilt.tif", picture)
    scales = set()
    for item in task.source.units.values():
        for sample in task.source.samples(item):
            scales.add(sample.id.rpartition("/")[2].partition("_")[0])
            assert len(np.unique(sample.arrays["image"].reshape(-1, 3), axis=0)) == 1, sample.id
    assert len(areas) == 42
    assert len(scales) >= 3


def test_frames_that_judge_are_others_than_those_that_train(tmp_path):
    task, _ = student_example(tmp_path, f"paths.raw_images_dir={tmp_path}/pictures/clip.mp4", "distill.frame_step=1")
    task.source.prepare_data()
    frames = {
        split: {frame for item in task.source.items(split) for frame, _ in task.source._frames(item)}
        for split in ("train", "val")
    }
    assert frames["train"] | frames["val"] == set(range(12))
    assert not frames["train"] & frames["val"]
    short, _ = student_example(tmp_path, "distill={max_frames: 5, frame_step: 1, crop: 32}")
    assert max(item.frames[1] for item in short.source.units.values() if item.frames) == 5


def test_crops_lie_where_the_items_name_alone_puts_them(tmp_path):
    first, second = (student_example(tmp_path, f"resources.seed={seed}")[0] for seed in (1, 2))
    item = first.source.units["scene"]
    ids = [sample.id for sample in first.source.samples(item)]
    assert ids == [sample.id for sample in second.source.samples(item)]
    assert ids == [sample.id for sample in first.source.samples(item)]
    assert len(ids) > 4
    other = replace(item, id="scene_b")
    assert [name.partition("/")[2] for name in ids] != [
        sample.id.partition("/")[2] for sample in first.source.samples(other)
    ]


def test_crops_without_data_are_left_out_and_others_are_looked_for(tmp_path):
    picture = draw_blots(256, 256, seed=1)
    picture[:, :128] = 0
    write_raster(tmp_path / "half.tif", picture, nodata=0)
    task, _ = student_example(
        tmp_path, f"paths.raw_images_dir={tmp_path}/half.tif", "distill={crop: 32, zooms: [1.0], crops: 8, block: 256}"
    )
    samples = list(task.source.samples(task.source.units["half"]))
    assert len(samples) == 8
    assert all(sample.arrays["valid"].mean() > 0.7 for sample in samples)


def test_a_zoom_averages_ground(tmp_path):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[::2] = 200
    write_raster(tmp_path / "stripes.tif", picture)
    task, _ = student_example(
        tmp_path, f"paths.raw_images_dir={tmp_path}/stripes.tif", "distill={crop: 32, zooms: [0.5], block: 64}"
    )
    [sample] = task.source.samples(task.source.units["stripes"])
    assert set(sample.arrays["image"].ravel().tolist()) == {100}


def test_values_of_a_sensor_become_8_bits_and_three_files_one_picture(tmp_path):
    generator = np.random.default_rng(0)
    for index, name in enumerate(("red", "green", "blue")):
        values = (generator.integers(0, 3000, (64, 64)) + 1000 * index).astype(np.uint16)
        write_raster(tmp_path / "bands" / f"{name}.tif", values)
    stack = [f"{tmp_path}/bands/{name}.tif" for name in ("red", "green", "blue")]
    changes = {"crop": 32, "zooms": [1.0], "block": 64, "stacks": [stack]}
    task, _ = student_example(tmp_path, f"distill={json.dumps(changes)}", "paths.raw_images_dir=null")
    [(name, item)] = task.source.units.items()
    images = np.stack([sample.arrays["image"] for sample in task.source.samples(item)])
    assert images.shape[1:] == (32, 32, 3)
    assert images.dtype == np.uint8
    assert 100 < images[..., 0].mean() < 155, "each band is spread over its own values"
    assert 100 < images[..., 2].mean() < 155
    assert images.std() > 50


def test_small_pictures_are_enlarged_to_a_crop_or_left_out_and_told(tmp_path, caplog):
    write_raster(tmp_path / "some" / "half.png", draw_blots(20, 40, seed=1))
    write_raster(tmp_path / "some" / "tiny.png", draw_blots(12, 40, seed=1))
    write_raster(tmp_path / "some" / "full.png", draw_blots(40, 40, seed=2))
    task, _ = student_example(tmp_path, f"paths.raw_images_dir={tmp_path}/some")
    task.source.prepare_data()
    assert sorted(task.source.files.pictures) == ["full", "half"]
    assert "1 pictures, such as tiny, are smaller than half of distill.crop" in caplog.text
    assert next(task.source.samples(task.source.units["half"])).arrays["image"].shape == (32, 32, 3)


# ---------------------------------------------------------------------------------------------------------------------
# Other teachers and students, online features


@pytest.mark.parametrize("student", ["vit", "convnext", "dinov2"])
@pytest.mark.parametrize("family", ["dinov3_vit", "dinov3_convnext"])
def test_any_student_learns_from_any_family(family, student, tmp_path):
    teacher = write_random_backbone(tmp_path / "teacher", family, width=8, depth=2, patch_size=16)
    options = {
        "vit": {"width": 16, "depth": 2, "heads": 2, "patch_size": 16},
        "convnext": {"widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "dinov2": {"width": 16, "depth": 2, "heads": 2, "patch_size": 16},
    }
    model = {
        "head": student,
        "head_options": options[student],
        "backbone": str(teacher),
        "layers": [0, -1],
        "precision": "fp32",
    }
    task, context = student_example(
        tmp_path, f"model={json.dumps(model)}", "train.epochs=2", "distill.student_scales=[1.0, 2.0]"
    )
    prepare.run(task, context)
    first, second = [row["train_loss"] for row in rows_of(train_and_read(task, context))]
    assert float(second) < float(first)
    assert task.teacher_side == 32


INHERITING = {"width": 8, "depth": 1, "heads": 2, "mlp_ratio": 2, "patch_size": 8, "inherit": [1]}


def test_a_student_that_begins_as_its_teacher_is_ahead_from_the_first_step(tmp_path):
    scores = {}
    for name, options in (("inherited", INHERITING), ("random", {**INHERITING, "inherit": None})):
        changed = ("model.head=dinov2", f"model.head_options={json.dumps(options)}", "train.adamw_lr=1e-5")
        task, context = student_example(tmp_path / name, *changed, "train.optimizer=adamw")
        prepare.run(task, context)
        scores[name] = train.run(task, context).metrics["mean_cosine"]
    assert scores["inherited"] > scores["random"] + 0.2


def test_two_ranks_and_a_resumed_training_begin_as_the_teacher_too(tmp_path, forks):
    model = {"head": "dinov2", "head_options": INHERITING}
    changes = {"model": model, "train": {"epochs": 2, "adamw_lr": 0.001}, "export": {"enable": False}}
    quick = {"verify": {"enable": False}, "evaluate": {"enable": False}}
    one, two, cut = (tmp_path / name for name in ("one", "two", "cut"))
    for folder in (one, cut):
        write_settings(folder, **changes, **quick)
        prepare.run(task_of(folder), context_of(folder / "run"))
    train.run(task_of(one), context_of(one / "run"))
    with pytest.raises(Interrupted):
        train.run(task_of(cut), stopping_after(context_of(cut / "run"), 5))
    train.run(task_of(cut), context_of(cut / "run"))
    config = write_settings(two, **changes, **quick, resources={"distributed": True, "dist_backend": "gloo"})
    codes, outputs = ends_of(forks.start_ranks(2, ROOT / "main.py", config, env=os.environ))
    assert codes == [0, 0], outputs
    whole, resumed = (load_checkpoint(folder / "run/checkpoints/last.safetensors").tensors for folder in (one, cut))
    shared = load_checkpoint(latest(two) / "checkpoints" / "last.safetensors").tensors
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name
        if not name.endswith("k_proj.bias"):  # softmax is blind to it: its gradient is rounding, which Adam scales up
            torch.testing.assert_close(shared[name], tensor, atol=1e-4, rtol=1e-3)


def train_and_read(task: DistillTask, context: Context) -> Path:
    train.run(task, context)
    return context.folder / "results.csv"


def rows_of(path: Path) -> list[dict[str, str]]:
    from utils.report.tables import read_csv

    return read_csv(path)


def test_features_that_are_computed_online_are_varied_for_both(tmp_path):
    varied = "dataset.augmentations={enable: true, brightness: 0.5, contrast: 0.3}"
    task, context = student_example(tmp_path, "train={features: online, epochs: 2, val_fraction: 0.2}", varied)
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    prepared = prepared_items(task, store, "train", "test")
    reader = PreparedReader(task, store, prepared)
    early, late = (reader.read([SampleRef(0)], Progress(epoch, 2)) for epoch in (0, 1))
    assert early.feature_maps is None
    assert not torch.equal(early.arrays["image"], late.arrays["image"])
    task.objective.fit_statistics([entry for item in prepared for entry in item.entries])
    assert len(task.objective.statistics) == 2
    model = task.build_model().train()
    assert not torch.allclose(model(early)["target_1"], model(late)["target_1"]), "the teacher sees the variation"
    assert np.isfinite(train.run(task, context).metrics["mean_cosine"])


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.layers=[0, 5]"], "layers: block 5 does not exist; there are 2 blocks"),
        (["distill.crop=36"], "distill.crop: 36 is not a multiple of 8, the patch of the student; take 32 or 40"),
        (["distill.probe.config=/no/such.yml"], "distill.probe.config: /no/such.yml: no such settings file"),
        (["paths.raw_images_dir=/no/such/folder"], "/no/such/folder: no such file or folder"),
        (["paths.raw_images_dir=null"], "paths.raw_images_dir: not set; name pictures and videos"),
        (["model.head=dpt"], "unknown head 'dpt'; known: convnext, dinov2, vit"),
        (["model.head_options.layers=[0, 0]"], "layers: [0, 0] leaves out the last of 2 blocks"),
        (["model.head_options.inherit=[0, 1]"], "the teacher is a dinov2, the student a dinov3_vit; take a student of"),
        (["distill.loss={cosine: 0, smooth_l1: 0}"], "distill.loss: all weights are 0"),
        (["inference.enable=true"], "inference: unknown key; known keys: "),
        (["tasks.student.dataset.classes=[a]"], "dataset.classes: unknown key; known keys: "),
        (["distill.stacks=[[a.tif, b.tif]]"], "three files make a picture"),
    ],
)
def test_what_cannot_work_is_told_before_work(overrides, message, finished, tmp_path, capfd):
    shutil.copy(finished / "config.yml", tmp_path / "config.yml")
    words = [f"paths.runs_root={tmp_path}/runs", "train.epochs=1"]
    code = main.main([str(tmp_path / "config.yml"), *words, *overrides])
    told = capfd.readouterr()
    assert code in (SettingsError.exit_code, DataError.exit_code)
    assert message in told.out + told.err
    assert not list((tmp_path / "runs").rglob("results.csv"))


def test_an_empty_folder_and_pictures_that_are_all_too_small_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    task, _ = student_example(tmp_path, f"paths.raw_images_dir={tmp_path}/empty")
    with pytest.raises(DataError, match="no scene in"):
        task.preflight(["prepare"])
    task, _ = student_example(tmp_path, "distill={crop: 512}")
    with pytest.raises(DataError, match=r"all 5 pictures are smaller than half of distill\.crop"):
        task.source.prepare_data()


def test_a_picture_alone_that_cannot_be_divided_is_told(tmp_path):
    task, _ = student_example(tmp_path, f"paths.raw_images_dir={tmp_path}/pictures/photo_0.png", "distill.block=64")
    with pytest.raises(DataError, match=r"only 1 item \(photo_0\)"):
        task.source.prepare_data()


def test_what_trains_must_not_judge(tmp_path):
    task, _ = student_example(tmp_path)
    task.source.prepare_data()
    folder = tmp_path / "splits"
    (folder / "student_val.txt").write_text("clip\n")
    with pytest.raises(DataError, match=r"clip@f\d+:\d+ is in the train split too"):
        task.source.items("val")


def test_lists_of_a_person_may_name_pictures_and_those_of_prepare_follow_the_items(tmp_path, caplog):
    task, _ = student_example(tmp_path)
    task.source.prepare_data()
    lists = [tmp_path / "splits" / f"student_{split}.txt" for split in ("train", "val")]
    drawn = lists[0].read_text()
    other, _ = student_example(tmp_path, "distill.frame_step=3")
    other.source.prepare_data()
    assert lists[0].read_text() != drawn, "drawn anew, as the stretches of the video are others"
    assert len(other.source.items("train")) + len(other.source.items("val")) == len(other.source.units)
    caplog.clear()
    # who writes lists leaves val_fraction out
    other, _ = student_example(tmp_path, "distill.frame_step=3", "train={enable: true, epochs: 1, batch_size: 4}")
    lists[0].write_text("clip\nscene\nphoto_0\n")
    lists[1].write_text("photo_1\nphoto_2\n")
    other.source.prepare_data()
    assert "no split list" not in caplog.text
    assert [item.id for item in other.source.items("val")] == ["photo_1", "photo_2"]
    assert len(other.source.items("train")) == 4 + 2
    lists[1].write_text("photo_1\n")
    other.source.prepare_data()
    assert "1 pictures, such as photo_2, are in no split list" in caplog.text


def test_a_damaged_picture_is_a_finding_of_verify(tmp_path):
    task, _ = student_example(tmp_path)
    path = tmp_path / "pictures" / "photo_1.png"
    path.write_bytes(path.read_bytes()[:-200])
    [finding] = task.source.audit(task.source.units.values())
    assert finding.where == "photo_1"
    assert finding.blocks


def test_a_checkpoint_of_another_kind_or_crop_is_refused(finished):
    path = latest(finished) / "checkpoints" / "best.safetensors"
    with pytest.raises(DataError, match=r"holds crop 32, but distill\.crop asks for 64"):
        evaluate.restore(task_of(finished, "distill.crop=64"), str(path), context_of(finished), "evaluate")
    settings = load_settings(finished / "labelled.yml", (), kinds()).tasks["segmentation"]
    from tasks.segmentation.task import SegmentationTask

    with pytest.raises(DataError, match="a checkpoint of 'distill', not of 'segmentation'"):
        evaluate.restore(SegmentationTask("a", settings), str(path), context_of(finished), "evaluate")


# ---------------------------------------------------------------------------------------------------------------------
# The committed settings


def embedded_task(*overrides: str) -> DistillTask:
    words = [f"paths.data_root={DATA}", *overrides]
    settings = load_settings(ROOT / "docs" / "configs" / "distill_embedded.yml", words, kinds()).tasks["embedded"]
    return DistillTask("embedded", settings)


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not in {DATA}")
def test_the_shipped_backbone_learns_from_no_picture_that_judges(tmp_path):
    source = embedded_task(f"paths.processed_dir={tmp_path}").source
    sources = {path.resolve() for paths in source.files.find_groups().values() for path in paths}
    assert len(sources) > 200
    judged = set()
    for name in ("kp_openfield", "kp_mirror_mouse"):
        for picture in read_json(DATA / name / "annotations" / "val.json")["images"]:
            judged.add((DATA / name / "images" / picture["file_name"]).resolve())
    for split in ("val", "test"):
        for scene in read_list(ROOT / "splits" / f"geo_buildings_{split}.txt"):
            judged.add((DATA / "geo_buildings" / "scenes" / f"{scene}.tif").resolve())
    assert len(judged) == 24 + 18 + 3
    assert all(path.exists() for path in judged)
    assert not sources & judged
    forbidden = ("kp_salmon", "kp_mousepose_formats", "kp_bee", "mot_text", "labelme_examples", "photo_coco")
    assert not [path for path in sources if set(forbidden) & set(path.parts)]
    assert not [path for path in sources if path.stem.endswith("_mask") or {"mask", "masks"} & set(path.parts)]
    for name in ("kp_openfield", "kp_mirror_mouse"):
        assert not [path for path in sources if name in path.parts and path.suffix == ".mp4"], (
            "its val frames are in it"
        )
    assert max(item.frames[1] for item in source.units.values() if item.frames) <= 800, (
        "later frames of the flies judge"
    )


def test_an_export_never_replaces_a_backbone_that_it_did_not_make(tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_backbone(), teacher)
    before = (teacher / "model.safetensors").read_bytes()
    task, _ = student_example(tmp_path, f"model.backbone={teacher}", f"export.output_dir={teacher}")
    with pytest.raises(DataError, match="does not belong to an exported backbone"):
        task.preflight(["export"])
    assert (teacher / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_photos_are_turned_as_viewers_show_them(tmp_path, suffix):
    for orientation in range(1, 9):
        save(tmp_path / f"{orientation}.{suffix}", UPRIGHT, orientation)
    files = student_task(f"paths.raw_images_dir={tmp_path}").source.files
    assert {picture.size for picture in files.pictures.values()} == {UPRIGHT.shape[:2]}
    for picture in files.pictures.values():
        image, _ = files.open(picture.paths, 1.0).read(Window(0, 0, *picture.size))
        assert np.abs(image.astype(int) - UPRIGHT).max() <= 6
