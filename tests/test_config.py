import re
from pathlib import Path

import pytest

import config
from config import TrainConfig, find_config, load_settings, parse_settings, schema
from tasks import TASKS
from utils.errors import SettingsError

KINDS = ("segmentation", "keypoints")

DINOV3SEG = """
resources: {seed: 1337, omp_threads: 4, matmul_precision: high, distributed: false, dist_backend: nccl}
logging: {level: info, timestamps: true, file: logs/run.log}
paths: {raw_images_dir: /path/to/imagery, label_path: /path/to/labels.tif, processed_dir: /path/to/cache}
dataset:
  augmentations: {enable: true, hflip: true, vflip: true, rotate90: true}
  splits: {train_list: splits/train.txt, val_list: splits/val.txt}
model:
  backbone: facebook/dinov3-vitl16-pretrain-sat493m
  layers: [5, 11, 17, 23]
  head: unet_v2
  num_classes: 2
  dino_channels: 1024
prepare: {enable: true, tile_size: 512, device: cuda}
verify: {enable: true, workers: 8}
train:
  enable: true
  processed_dir: /path/to/cache
  weights_dir: weights
  batch_size: 4
  epochs: 30
  muon_lr: 0.02
  adamw_lr: 0.001
  momentum: 0.95
  patience: 10
  val_fraction: 0.2
  num_workers: 4
  grad_accum_steps: 1
  compile: false
  ema_decay: 0.0
  loss: {ce_weight: 1.0, dice_weight: 1.0, aux_weight: 0.4}
inference:
  enable: false
  input_tif: /path/to/scene.tif
  output_tif: test/output_prediction.tif
  checkpoint: weights/unet_v2_best.pth
  tile_size: 512
  overlap: 0.25
  tta: {horizontal_flip: true, vertical_flip: false}
"""


def test_the_published_flat_form_is_valid():
    settings = parse_settings(DINOV3SEG).tasks["segmentation"]
    assert settings.enabled_phases == ("prepare", "verify", "train")
    assert settings.train.loss.aux_weight == 0.4
    assert settings.device("prepare") == "cuda"


def test_example_configs_are_valid():
    root = Path(__file__).parent.parent
    for path in [root / "config.example.yml", *sorted((root / "docs" / "configs").glob("*.yml"))]:
        assert load_settings(path, (), tuple(TASKS)).tasks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochz: 3}", "train.epochz: unknown key, did you mean 'epochs'?"),
        ("trian: {}", "trian: unknown key, did you mean 'train'?"),
        ("train: {epochs: three}", "train.epochs: expected int, got str 'three'"),
        ("train: {epochs: 0}", "train.epochs: expected greater than or equal to 1, got int 0"),
        ("train: {enable: on}", "train.enable: expected true or false, got str 'on' (write true or false)"),
        ("train: 3", "train: expected a section, got int 3"),
        ("train: {epochs: 1, epochs: 2}", "line 1: key 'epochs' stands twice"),
        ("train: {epochs: 1", "line 1: not valid YAML"),
        ("- 1", "expected sections such as 'train:', got list"),
        ("tasks: {}", "tasks: expected a section per task"),
        ("tasks: {a: {kind: keypoint}}", "tasks.a.kind: unknown kind 'keypoint', did you mean 'keypoints'?"),
        ("tasks: {a: {train: {epoch: 1}}}", "tasks.a.train.epoch: unknown key, did you mean 'epochs'?"),
        (
            "model: {freeze: false}",
            "model.freeze: fine-tuned blocks have no stored features; set train.features: online",
        ),
        (
            "dataset: {augmentations: {enable: true, brightness: 0.1}}",
            "dataset.augmentations.brightness: stored features",
        ),
        ("{dataset: {classes: [a]}, model: {num_classes: 2}}", "model.num_classes: 2, but dataset.classes names 1"),
        ("dataset: {percentiles: [99.0, 1.0]}", "percentiles: the first value must be below the second"),
    ],
)
def test_mistakes_are_told_where_and_how(text, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_settings(text, kinds=KINDS)


def test_all_mistakes_of_a_file_come_at_once():
    text = "train: {epochz: 3, muon_lr: fast}\nmodel: {head: 3}\ntasks: {a: {}, b: {prepare: {tile_size: -1}}}"
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "model.head",
        "tasks.b.prepare.tile_size",
        "train.epochz",
        "train.muon_lr",
    ]


def test_scientific_notation_is_a_number():
    assert parse_settings("train: {adamw_lr: 1e-3}").shared.train.adamw_lr == 1e-3


def test_a_task_overrides_the_shared_sections_key_by_key():
    text = "train: {epochs: 5, batch_size: 2}\ntasks: {a: {}, b: {train: {epochs: 9}}}"
    tasks = parse_settings(text).tasks
    assert [(task.train.epochs, task.train.batch_size) for task in tasks.values()] == [(5, 2), (9, 2)]


def test_command_line_beats_file():
    settings = parse_settings("train: {epochs: 5}", ["train.epochs=7", "model.layers=[0, -1]"])
    assert (settings.shared.train.epochs, settings.shared.model.layers) == (7, [0, -1])


def test_search_order(tmp_path, monkeypatch):
    named, variable, above = tmp_path / "a.yml", tmp_path / "b.yml", tmp_path / "config.yml"
    for path in (named, variable, above):
        path.write_text("{}")
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.setenv(config.CONFIG_VARIABLE, str(variable))
    assert find_config(str(named)) == named
    assert find_config() == variable
    monkeypatch.delenv(config.CONFIG_VARIABLE)
    assert find_config() == above
    with pytest.raises(SettingsError, match=r"no such settings file \(named by the command line\)"):
        find_config("missing.yml")


def test_the_schema_names_every_section():
    assert set(config.PHASES) | {"tasks", "paths", "resources"} <= set(schema()["properties"])


def test_command_line_beats_file_beats_safe_mode_beats_profile_beats_default(tmp_path):
    (tmp_path / "own.yml").write_text(
        "train: {epochs: 7, batch_size: 32, patience: 3, muon_lr: 0.5}\nverify: {workers: 3}"
    )

    def read(text: str, *overrides: str):
        return parse_settings(text, overrides, ("keypoints",)).tasks["a"]

    text = f"profile: {tmp_path}/own.yml\nresources: {{safe_mode: true}}\ntrain: {{patience: 4, muon_lr: 0.4}}"
    task = read(text + "\ntasks: {a: {kind: keypoints}}", "train.muon_lr=0.3")
    assert (task.train.muon_lr, task.train.patience, task.train.batch_size, task.train.epochs) == (0.3, 4, 2, 7)
    assert (task.keypoints.short_side, task.train.weight_decay) == (378, TrainConfig().weight_decay)
    own = read("tasks: {a: {kind: keypoints, profile: small_data, train: {patience: 5}}}")
    assert (own.train.patience, own.train.batch_size) == (5, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epochz: 3}", "own.yml: train.epochz: unknown key, did you mean 'epochs'?"),
        ("kind: keypoints", "own.yml: kind: a profile of kind keypoints cannot hold it; drop it"),
        ("train: {crop_size: 64}", "own.yml: train.crop_size: a profile of kind keypoints cannot hold it"),
        (None, "own.yml: cannot be read as text"),
    ],
)
def test_bad_profiles_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.yml").write_text(content)
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_settings(f"profile: {tmp_path}/own.yml\ntasks: {{a: {{kind: keypoints}}}}", (), ("keypoints",))


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("tasks: {a: {kind: [segmentation]}}", None, "tasks.a.kind: expected text, got list"),
        ("kind: {x: 1}", None, "kind: expected text, got dict"),
        ("train: {epochs: 3}", "tasks.x.train.epochs=1", "unknown task 'x'; known: segmentation"),
        ("tasks: {quick: {}, slow: {}}", "tasks.quik.train.epochs=1", "unknown task 'quik', did you mean 'quick'?"),
        (
            "{inference: {enable: true, output_dir: out}, tasks: {a: {}, b: {}}}",
            None,
            "tasks.b.inference.output_dir: out holds the results of task a too",
        ),
        (
            "{train: {enable: true, weights_dir: w}, tasks: {a: {}, b: {}}}",
            None,
            "tasks.b.train.weights_dir: w (dpt) holds the weights of task a too",
        ),
    ],
)
def test_settings_that_would_lose_or_misread_something_are_refused(text, override, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_settings(text, [override] if override else [], KINDS)


def test_the_command_line_reaches_tasks_that_set_a_key_themselves():
    text = "tasks: {quick: {kind: segmentation, model: {head: linear}}, other: {kind: segmentation}}"
    settings = parse_settings(text, ["model.head=unet"], KINDS)
    assert {name: task.model.head for name, task in settings.tasks.items()} == {"quick": "unet", "other": "unet"}
