import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import Field

import config
import main
from config import InferenceConfig, ModelConfig, Section, TaskConfig, TrainConfig, load_settings, parse_settings
from models import HEADS, HeadName
from tasks import TASKS, kinds
from tasks.source import Source
from tasks.task import Task
from utils.errors import SettingsError
from utils.runtime.setting_classes import schema_of
from utils.runtime.setting_files import CONFIG_VARIABLE, find_config

ROOT = Path(__file__).parent.parent
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
    settings = parse_settings(DINOV3SEG, (), kinds()).tasks["segmentation"]
    assert settings.enabled_phases == ("prepare", "verify", "train")
    assert settings.train.loss.aux_weight == 0.4
    assert settings.device("prepare") == "cuda"


def test_example_configs_are_valid():
    root = Path(__file__).parent.parent
    for path in [root / "config.example.yml", *sorted((root / "docs" / "configs").glob("*.yml"))]:
        assert load_settings(path, (), kinds()).tasks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochz: 3}", "train.epochz: unknown key, did you mean 'epochs'?"),
        ("trian: {}", "trian: unknown key, did you mean 'train'?"),
        ("train: {epochs: three}", "train.epochs: expected int, got str 'three'"),
        ("train: {epochs: 0}", "train.epochs: expected greater than or equal to 1, got int 0"),
        ("train: {enable: on}", "train.enable: expected true or false, got str 'on' (write true or false)"),
        ("train: 3", "train: expected a section, got int 3"),
        ("train: {epochs: 1, epochs: 2}", "line 1: duplicate key 'epochs'"),
        ("{01: a, 1: b}", "line 1: duplicate key '1' in one section, as '01' is the same; keep one of them"),
        ("{a: {1: a, +1: b}}", "duplicate key '+1' in one section, as '1' is the same"),
        ("{-0: a, 0: b}", "duplicate key '0' in one section, as '-0' is the same"),
        ("{[1, 2]: a, 02: b}", "duplicate key '02' in one section, as '2' is the same"),
        ("{01: a, '1': b}", "duplicate key '1' in one section, as '01' is the same"),
        ("{1.0: a, 1: b}", "duplicate key '1' in one section, as '1.0' is the same"),
        ("train: {epochs: 1", "line 1: not valid YAML"),
        ("- 1", "expected sections such as 'train:', got list"),
        ("tasks: {}", "tasks: expected a section per task"),
        ("tasks: {a: {}, b: null}", "tasks.b: expected a section per task"),
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
        (
            "dataset: {percentiles: [99.0, 1.0]}",
            "dataset.percentiles: expected a first value below the second, got list [99.0, 1.0]",
        ),
    ],
)
def test_mistakes_are_told_where_and_how(text, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_settings(text, (), kinds())


def test_all_mistakes_of_a_file_come_at_once():
    text = "train: {epochz: 3, muon_lr: fast}\nmodel: {head: 3}\ntasks: {a: {}, b: {prepare: {tile_size: -1}}}"
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, (), kinds())
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "model.head",
        "tasks.b.prepare.tile_size",
        "train.epochz",
        "train.muon_lr",
    ]


def test_scientific_notation_is_a_number():
    assert parse_settings("train: {adamw_lr: 1e-3}", (), kinds()).shared.train.adamw_lr == 1e-3


def test_a_task_overrides_the_shared_sections_key_by_key():
    text = "train: {epochs: 5, batch_size: 2}\ntasks: {a: {}, b: {train: {epochs: 9}}}"
    tasks = parse_settings(text, (), kinds()).tasks
    assert [(task.train.epochs, task.train.batch_size) for task in tasks.values()] == [(5, 2), (9, 2)]


def test_command_line_beats_file():
    settings = parse_settings("train: {epochs: 5}", ["train.epochs=7", "model.layers=[0, -1]"], kinds())
    assert (settings.shared.train.epochs, settings.shared.model.layers) == (7, [0, -1])


def test_search_order(tmp_path, monkeypatch):
    named, variable, above = tmp_path / "a.yml", tmp_path / "b.yml", tmp_path / "config.yml"
    for path in (named, variable, above):
        path.write_text("{}")
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.setenv(CONFIG_VARIABLE, str(variable))
    assert find_config(str(named)) == named
    assert find_config() == variable
    monkeypatch.delenv(CONFIG_VARIABLE)
    assert find_config() == above
    with pytest.raises(SettingsError, match=r"no such settings file \(named by the command line\)"):
        find_config("missing.yml")


def test_the_schema_names_every_section():
    assert set(config.PHASES) | {"tasks", "paths", "resources"} <= set(schema_of(kinds())["properties"])


def test_command_line_beats_file_beats_safe_mode_beats_profile_beats_default(tmp_path):
    (tmp_path / "own.yml").write_text(
        "train: {epochs: 7, batch_size: 32, patience: 3, muon_lr: 0.5}\nverify: {workers: 3}"
    )

    def read(text: str, *overrides: str):
        return parse_settings(text, overrides, kinds()).tasks["a"]

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
        ("train: {crop_size: 64}", "own.yml: train.crop_size: unknown key, did you mean"),
        (None, "own.yml: cannot be read as text"),
    ],
)
def test_bad_profiles_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.yml").write_text(content)
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_settings(f"profile: {tmp_path}/own.yml\ntasks: {{a: {{kind: keypoints}}}}", (), kinds())


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("tasks: {a: {kind: [segmentation]}}", None, "tasks.a.kind: expected text, got list"),
        ("kind: {x: 1}", None, "kind: expected text, got dict"),
        ("dataset: {label_mapping: {5: b}}", "dataset.label_mapping.05=a", "the key '05' is the number 5; write it so"),
        ("dataset: {label_mapping: {5: b}}", "dataset.label_mapping.+5=a", "the key '+5' is the number 5; write it so"),
        ("{}", "dataset.label_mapping.[1, 2]=a", "a key of the command line is one word or number, got '[1, 2]'"),
        ("train: {epochs: 3}", "tasks.x.train.epochs=1", "unknown task 'x'; known: segmentation"),
        ("tasks: {quick: {}, slow: {}}", "tasks.quik.train.epochs=1", "unknown task 'quik', did you mean 'quick'?"),
        (
            "{inference: {enable: true, output_dir: out}, tasks: {a: {inference: {output_dir: ./out}}, b: {}}}",
            None,
            "tasks.b.inference.output_dir: out holds the results of task a too",
        ),
        (
            "{train: {enable: true, weights_dir: w}, tasks: {a: {}, b: {}}}",
            None,
            "tasks.b.train.weights_dir: w (dpt) holds the weights of task a too",
        ),
        (
            "{kind: keypoints, dataset: {augmentations: {enable: true, stored_variations: 2, brightness: 0.1}}, "
            "keypoints: {augment_from: 0.9}}",
            "keypoints.augment_until=0.1",
            "keypoints.augment_from: 0.9 is not below keypoints.augment_until (0.1), so that no picture is ever varied",
        ),
        (
            "{kind: keypoints}",
            "keypoints.prompts=boxes",
            "keypoints.prompts: read with keypoints.instance_mode: per_instance only",
        ),
    ],
)
def test_settings_that_would_lose_or_misread_something_are_refused(text, override, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_settings(text, [override] if override else [], kinds())


def test_the_command_line_reaches_tasks_that_set_a_key_themselves():
    text = "tasks: {quick: {kind: segmentation, model: {head: linear}}, other: {kind: segmentation}}"
    settings = parse_settings(text, ["model.head=unet"], kinds())
    assert {name: task.model.head for name, task in settings.tasks.items()} == {"quick": "unet", "other": "unet"}


ALL = ("maps", "animals", "more")
TWO = """
train: {epochs: 9, batch_size: 3}
tasks:
  maps:
    dataset: {classes: [a, b], label_mapping: {1: a, 2: b}}
    train: {epochs: 5, loss: {ce_weight: 2.0, dice_weight: 3.0}}
    inference: {input_tif: a.tif}
  animals: {kind: keypoints, train: {epochs: 7}, inference: {inputs: [a.png, b.png]}, keypoints: {formats: [csv]}}
  more: {kind: distill, distill: {probe: null}, train: }
"""


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("train.epochs=1", lambda task: task.train.epochs, {"maps": 1, "animals": 1, "more": 1}),
        ("tasks.maps.train.epochs=1", lambda task: task.train.epochs, {"maps": 1, "animals": 7, "more": 9}),
        ("inference.inputs=[x.png]", lambda task: task.inference.inputs, {"maps": ["x.png"], "animals": ["x.png"]}),
        ("inference.input_tif=x.png", lambda task: task.inference.inputs, {"maps": "x.png", "animals": "x.png"}),
        ("keypoints.formats=[json]", lambda task: task.keypoints.formats, {"animals": ["json"]}),
        ("train.loss={ce_weight: 4.0}", lambda task: task.train.loss.dice_weight, {"maps": 1.0}),
        ("train.loss.ce_weight=4.0", lambda task: task.train.loss.dice_weight, {"maps": 3.0}),
        ("train={patience: 2}", lambda task: (task.train.epochs, task.train.patience), dict.fromkeys(ALL, (30, 2))),
        ("dataset.label_mapping.1=b", lambda task: task.dataset.label_mapping, {"maps": {"1": "b", 2: "b"}}),
        ("tasks.maps.dataset.label_mapping.1=b", lambda task: task.dataset.label_mapping, {"maps": {1: "b", 2: "b"}}),
        ("distill.probe={config: x}", lambda task: task.distill.probe.config, {"more": "x"}),
        ("distill.probe.config=x", lambda task: task.distill.probe.config, {"more": "x"}),
        ("train={loss: {ce_weight: 4.0}}", lambda task: task.train.loss.ce_weight, {"maps": 4.0}),
        ("resources.safe_mode=true", lambda task: task.prepare.batch_size, dict.fromkeys(ALL, 1)),
    ],
)  # fmt: skip
def test_the_command_line_reaches_every_task_whose_kind_has_the_key(override, read, expected):
    tasks = parse_settings(TWO, [override], kinds()).tasks
    assert {name: read(tasks[name]) for name in expected} == expected


def test_an_empty_section_of_a_task_hides_nothing_of_the_file_or_of_the_command_line():
    text = "train: {epochs: 9}\ntasks: {maps: {train: }}"
    assert parse_settings(text, (), kinds()).shared.train.epochs == 9
    assert parse_settings(text, ["train.patience=2"], kinds()).shared.train.patience == 2
    assert parse_settings("train:", ["train.epochs=2"], kinds()).shared.train.epochs == 2


def test_a_profile_on_the_command_line_lies_below_the_tasks_own_keys(tmp_path):
    (tmp_path / "own.yml").write_text("train: {epochs: 4, patience: 6}")
    text = "tasks: {a: {kind: keypoints, profile: small_data, train: {epochs: 5}}}"
    task = parse_settings(text, [f"profile={tmp_path}/own.yml"], kinds()).shared
    assert (task.train.epochs, task.train.patience) == (5, 6)


@pytest.mark.parametrize("turned", [False, True])
def test_the_more_special_entry_of_the_command_line_counts_wherever_it_stands(turned):
    entries = [
        "train.epochs=1",
        "tasks.animals.train.epochs=2",
        "train={batch_size: 4}",
        "tasks.animals.train={epochs: 6}",
    ]
    tasks = parse_settings(TWO, entries[::-1] if turned else entries, kinds()).tasks
    assert [task.train.epochs for task in tasks.values()] == [1, 2, 1]
    assert [task.train.batch_size for task in tasks.values()] == [4, 4, 4]
    assert parse_settings(TWO, ["train.epochs=1", "train.epochs=3"], kinds()).shared.train.epochs == 3


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            TWO,
            ["keypoints.formats=[json]", "tasks.animals.keypoints.formats=[csv]"],
            "keypoints.formats=[json]: reaches no task, as tasks.animals.keypoints.formats comes before it",
        ),
        (
            "kind: keypoints",
            ["train.epochs=1", "tasks.keypoints.train={epochs: 2}"],
            "train.epochs=1: reaches no task, as tasks.keypoints.train.epochs comes before it",
        ),
        (
            TWO,
            ["tasks.animals.resources.omp_threads=1"],
            "tasks.animals.resources.omp_threads: counts for the whole call, which takes that of the first task, maps",
        ),
        (TWO, ["tasks.more.logging={level: debug}"], "tasks.more.logging.level: counts for the whole call"),
        (TWO, ["distill.prob=1"], "distill.prob: unknown key, did you mean 'probe'?"),
    ],
)  # fmt: skip
def test_what_reaches_no_task_is_never_silent(text, overrides, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_settings(text, overrides, kinds())


def test_settings_of_the_call_may_stand_in_the_first_task_or_be_equal():
    text = "tasks: {a: {logging: {level: debug}}, b: {logging: {level: debug}}, c: {}}"
    assert parse_settings(text, (), kinds()).shared.logging.level == "debug"


def test_tasks_named_by_numbers_are_reached():
    settings = parse_settings("tasks: {1: {train: {epochs: 5}}, 2: {}}", ["tasks.1.train.epochs=3"], kinds())
    assert {name: task.train.epochs for name, task in settings.tasks.items()} == {"1": 3, "2": 30}


@pytest.mark.parametrize("kind", sorted(kinds()))
@pytest.mark.parametrize("key", ["prepare.workers", "verify.workers", "train.num_workers", "resources.omp_threads"])
def test_numbers_of_threads_are_bounded(kind, key):
    read = parse_settings(f"kind: {kind}", [f"{key}=1024"], kinds()).shared
    part, name = key.split(".")
    assert getattr(getattr(read, part), name) == 1024
    with pytest.raises(SettingsError, match=rf"^{re.escape(key)}: expected .*1024"):
        parse_settings(f"kind: {kind}", [f"{key}=1025"], kinds())


MIXED = "tasks: {maps: {kind: segmentation}, animals: {kind: keypoints}}"


def test_a_shared_setting_counts_for_the_kinds_that_have_it_and_is_left_out_for_the_others():
    text = f"train: {{crop_size: 64, features: online, epochs: 3}}\nkeypoints: {{short_side: 98}}\n{MIXED}"
    tasks = parse_settings(text, ["prepare.overlap=0.5"], kinds()).tasks
    assert (tasks["maps"].train.crop_size, tasks["maps"].prepare.overlap) == (64, 0.5)
    assert tasks["animals"].keypoints.short_side == 98
    assert [task.train.epochs for task in tasks.values()] == [3, 3]
    assert not hasattr(tasks["animals"].train, "crop_size")
    assert not hasattr(tasks["maps"], "keypoints")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("kind: keypoints\ntrain: {crop_size: 64}", ["train.crop_size: unknown key"]),
        ("tasks: {a: {kind: keypoints, train: {crop_size: 64}}}", ["tasks.a.train.crop_size: unknown key"]),
        ("distill: {crop: 64}\n" + MIXED, ["distill: unknown key"]),
        (
            "train: {crop_sise: 64}\n" + MIXED,
            ["train.crop_sise: unknown key, did you mean 'crop_size'? all "],
        ),
        (
            "distil: {a: 6}\ntasks: {a: {kind: distill, paths: {label_path: x}, model: {head: v}}, b: {kind: nope}}",
            [
                "distil: unknown key, did you mean 'distill'?",
                "tasks.a.model.head: unknown head 'v'; known: convnext, dinov2, vit",
                "tasks.a.paths.label_path: unknown key; known keys: ",
                "tasks.b.kind: unknown kind 'nope'; known: detection, distill, keypoints, segmentation",
            ],
        ),
        (
            "kind: keypoints\ndataset: {convert_to: {format: coco, folder: x, layuot: folders}}",
            ["dataset.convert_to.layuot: unknown key, did you mean 'layout'? known keys: folder, format, layout, mode"],
        ),
    ],
)
def test_what_a_kind_has_no_use_for_is_an_unknown_key_there(text, lines):
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, (), kinds())
    came = str(caught.value).splitlines()
    assert len(came) == len(lines), came
    assert all(line.startswith(start) for line, start in zip(came, lines, strict=True)), came


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_an_unknown_head_is_refused_when_settings_are_read(kind, tmp_path):
    with pytest.raises(SettingsError, match=r"^model\.head: unknown head 'liner'.* known: "):
        parse_settings(f"kind: {kind}\nmodel: {{head: liner}}", (), kinds())


def test_settings_of_all_kinds_load_without_torch():
    code = "import sys, tasks, models; tasks.kinds(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("inference: {inputs: a.png}", [], "a.png"),
        ("inference: {input_tif: a.png}", ["inference.inputs=b.png"], "b.png"),
        ("inference: {inputs: a.png}", ["inference.input_tif=b.png"], "b.png"),
        ("inference: {input_tif: a.png}\ntasks: {x: {inference: {inputs: b.png}}}", [], "b.png"),
        ("tasks: {x: {inference: {inputs: a.png}}}", ["tasks.x.inference.inputs=[b.png]"], ["b.png"]),
        ("tasks: {x: {inference: {input_tif: a.png}}}", ["inference.inputs=b.png"], "b.png"),
        ("inference: {inputs: a.png}", ["inference={input_tif: b.png}"], "b.png"),
    ],
)
def test_input_tif_is_another_name_of_inputs(text, overrides, expected):
    read = parse_settings(text, overrides, kinds()).shared.inference
    assert (read.inputs, read.input_tif) == (expected, None)


@pytest.mark.parametrize("text", ["inference: {BOTH}", "tasks: {x: {inference: {BOTH}}}"])
def test_only_one_of_the_names_may_be_given(text):
    with pytest.raises(SettingsError, match=r"inference\.input_tif: is another name of inference\.inputs"):
        parse_settings(text.replace("BOTH", "inputs: a.png, input_tif: b.png"), (), kinds())


@pytest.mark.parametrize("prefix", ["", "tasks.x."])
@pytest.mark.parametrize("names", [("inputs", "input_tif"), ("input_tif", "inputs")])
def test_both_names_on_one_command_line_are_an_error(names, prefix):
    overrides = [f"{prefix}inference.{name}={name}.png" for name in names]
    with pytest.raises(SettingsError, match=f"inference.{names[1]}={names[1]}.png: is another name of .*{names[0]}, "):
        parse_settings("tasks: {x: {}}", overrides, kinds())


def test_mps_is_a_device_and_must_be_there(monkeypatch):
    from tasks.runs import choose_device

    setting = parse_settings("resources: {device: mps}", (), kinds()).shared.resources.device
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert choose_device(setting).type == "mps"
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SettingsError, match="mps asked for"):
        choose_device(setting)


class ToyModel(ModelConfig):
    head: Annotated[str, HeadName("toy")] = "dots"


class ToySection(Section):
    size: int = Field(5, description="what only toys have")


class ToySettings(TaskConfig):
    """Settings of a kind that has nothing to train and to verify."""

    safe_mode: ClassVar[dict] = {"toy": {"size": 2}}
    kind: Literal["toy"] = "toy"
    model: ToyModel = ToyModel()
    train: ClassVar[None] = None
    verify: ClassVar[None] = None
    inference: InferenceConfig = InferenceConfig()
    toy: ToySection = ToySection()


class ToySource(Source):
    def items(self, split):
        return []

    def views(self, split):
        return []

    def cache_key(self):
        return {}


ToySource.__abstractmethods__ = frozenset()


class ToyTask(Task):
    kind = "toy"
    phases = ("prepare", "evaluate", "inference")
    primary = "score"

    def check(self):
        return [f"a toy with head {self.settings.model.head}"]

    source = ToySource("t", ToySettings())


ToyTask.__abstractmethods__ = frozenset()


@pytest.fixture
def toy(monkeypatch):
    """All that a new kind of task adds outside its folder: a line in TASKS and one in HEADS."""
    monkeypatch.setitem(TASKS, "toy", (f"{__name__}:ToySettings", f"{__name__}:ToyTask"))
    monkeypatch.setitem(HEADS, "toy", {"dots": f"{__name__}:ToyTask"})


def test_a_new_kind_needs_two_lines_outside_its_folder(toy, tmp_path, capsys):
    text = f"paths: {{runs_root: {tmp_path}, processed_dir: {tmp_path}/maps}}\n"
    text += "train: {crop_size: 32, features: online}\ninference: {batch_size: 3}"
    text += "\ntasks: {t: {kind: toy, resources: {safe_mode: true}, toy: {size: 3}, prepare: {enable: true}}, maps: {}}"
    tasks = parse_settings(text, (), kinds()).tasks
    assert (tasks["t"].inference.batch_size, tasks["t"].prepare.batch_size, tasks["t"].toy.size) == (3, 1, 3)
    assert (tasks["t"].enabled_phases, tasks["maps"].train.crop_size) == (("prepare",), 32)
    (tmp_path / "config.yml").write_text(text)
    assert main.main([str(tmp_path / "config.yml"), "--check"]) == 0
    said = capsys.readouterr().out
    assert "t: a toy with head dots" in said
    assert "t: prepare: up to date" in said
    assert "ToySettings" in schema_of(kinds())["$defs"]
    with pytest.raises(SettingsError, match=r"tasks\.t\.train: unknown key"):
        parse_settings("tasks: {t: {kind: toy, train: {epochs: 3}}}", (), kinds())
    with pytest.raises(SettingsError, match=r"^train: unknown key"):
        parse_settings("{kind: toy, train: {epochs: 3}}", (), kinds())
    with pytest.raises(SettingsError, match=r"^tasks\.t\.model\.head: unknown head 'dpt'; known: dots"):
        parse_settings("tasks: {t: {kind: toy, model: {head: dpt}}}", (), kinds())


def properties(tree: dict) -> Iterator[tuple[str, dict]]:
    for name, place in (("", tree), *tree["$defs"].items()):
        yield from ((f"{name}.{key}", entry) for key, entry in place.get("properties", {}).items())


def test_every_property_of_the_schema_has_a_description_and_choices_are_listed():
    tree = schema_of(kinds())
    Draft202012Validator.check_schema(tree)
    assert tree["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert not [name for name, entry in properties(tree) if not entry.get("description", "").strip()]
    assert not [
        name for name, entry in properties(tree) if ">>>" in entry["description"] or "\n" in entry["description"]
    ]
    assert tree["properties"]["kind"]["enum"] == sorted(TASKS)
    for kind, heads in HEADS.items():
        assert tree["$defs"][f"{kind.capitalize()}Model"]["properties"]["head"]["enum"] == sorted(heads)
    assert set(tree["$defs"]["Model"]["properties"]["head"]["enum"]) == {
        name for heads in HEADS.values() for name in heads
    }


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("docs/configs/*.yml")), ROOT / "config.example.yml"], ids=str)
def test_editors_find_no_fault_with_settings_that_run(path):
    tree = yaml.safe_load(path.read_text())
    assert [error.message for error in Draft202012Validator(schema_of(kinds())).iter_errors(tree)] == []


@pytest.mark.parametrize(
    "text", ["{model: {head: liner}}", "{train: {epoch: 3}}", "{kind: pose}", "{train: {epochs: many}}"]
)
def test_editors_mark_what_the_command_refuses(text):
    assert not Draft202012Validator(schema_of(kinds())).is_valid(yaml.safe_load(text))
    with pytest.raises(SettingsError):
        parse_settings(text, (), kinds())


def test_the_schema_knows_the_settings_of_each_kind():
    tree = schema_of(kinds())
    heads = tree["$defs"]["KeypointsModel"]["properties"]["head"]["default"]
    assert (heads, tree["$defs"]["DistillTrain"]["properties"]["ema_decay"]["default"]) == ("conv", 0.999)
    assert "crop_size" not in tree["$defs"]["DistillTrain"]["properties"]
    top = tree["$defs"][tree["properties"]["train"]["$ref"].rpartition("/")[2]]["properties"]
    assert {"crop_size", "epochs", "loss"} <= set(top)
    assert "default" not in top["ema_decay"], "kinds differ in it"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "train: {epochs: " + "9" * 299 + "}",
            "train.epochs: expected a whole number of at most 9007199254740992, got",
        ),
        ("train: {adamw_lr: 1e300}", "train.adamw_lr: expected a number of at most"),
        ("train: {epochs: " + "x" * 100_000 + "}", r"train.epochs: expected int, got str 'x{150}"),
        (r'paths: {runs_root: "a\0b"}', "a character that no name can have"),
        ("train: {epochs: 2024-05-01}", "train.epochs: expected int, got str '2024-05-01'"),
    ],
)
def test_hostile_values_are_one_short_line(text, words):
    with pytest.raises(SettingsError, match=words) as caught:
        parse_settings(text, (), kinds())
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("section", ["", "train:\n", "tasks:\n  coral:\n    train:\n"])
def test_of_very_many_mistakes_the_first_are_listed(section):
    indent = " " * 6 if section else ""
    text = section + "\n".join(f"{indent}k{number}: 1" for number in range(20_000))
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, (), kinds())
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (21, "and more mistakes; mend these first")


def test_keys_cannot_forge_lines(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text('"a\\n[INFO] done\\e[2J": 1')
    with pytest.raises(SettingsError) as caught:
        load_settings(path, (), kinds())
    assert str(caught.value).startswith(rf"{path}: a\n[INFO] done\x1b[2J: unknown key")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("make", [lambda path: path.write_text("train: !!int x"), lambda path: os.mkfifo(path)])
def test_a_profile_is_read_by_the_same_rules(make, tmp_path):
    make(tmp_path / "quick.yml")
    with pytest.raises(SettingsError, match=r"quick\.yml: (line 1: 'x' is no int|.*a pipe; expected a file)"):
        parse_settings(f"profile: {tmp_path}/quick.yml", (), kinds())


@pytest.mark.parametrize("name", ["inputs", "input_tif"])
@pytest.mark.parametrize("text", ["inference: {%s: 3}", "tasks: {reef: {inference: {%s: 3}}}"])
def test_errors_name_the_inputs_as_the_file_does(name, text):
    mistake = rf"^(tasks\.reef\.)?inference\.{name}: expected text or a list, got int 3$"
    with pytest.raises(SettingsError, match=mistake):
        parse_settings(text % name, (), kinds())


def test_a_near_key_is_named_in_place_of_all():
    with pytest.raises(SettingsError) as refused:
        parse_settings("train: {val_bach_size: 4, zzz: 1}", (), kinds())
    near, far = str(refused.value).splitlines()
    advice = r"did you mean 'val_batch_size'\? all (\d+) keys are in docs/settings\.md"
    assert int(re.fullmatch(rf"train\.val_bach_size: unknown key, {advice}", near)[1]) == far.count(",") + 1
    assert far.startswith("train.zzz: unknown key; known keys: adamw_lr, batch_size, ")
