"""Files of a backbone: their digest, licence and normalisation, and everything that can be wrong with them."""

import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file

from config import ModelConfig
from models.backbone import load_backbone
from models.backbones.info import describe_backbone
from models.backbones.random_backbone import write_backbone_folder, write_random_backbone
from models.backbones.weights import (
    EMBEDDED_FOLDER,
    FAMILIES,
    SAT493M,
    digest_weights,
    find_backbone_folder,
    read_licence,
)
from tasks.features import FeatureService
from utils.errors import DataError
from utils.store.feature_store import FeatureStore


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {name: write_random_backbone(root / name, name, width=16, depth=3, heads=2) for name in FAMILIES}


@pytest.fixture
def copy(folders, tmp_path):
    """A backbone that a test may damage."""
    return Path(shutil.copytree(folders["dinov2"], tmp_path / "copy"))


def edit_json(path, **changes):
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_digest_follows_weights_and_architecture_but_not_how_they_are_stored(copy):
    before = digest_weights(copy)
    tensors = load_file(copy / "model.safetensors")
    edit_json(copy / "config.json", transformers_version="9.9", torch_dtype="float16", _name_or_path="elsewhere")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, copy / shard, {"format": "pt"})
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (copy / "model.safetensors").unlink()
    assert digest_weights(copy) == before
    assert load_backbone(str(copy), [0]).info.digest == before
    edit_json(copy / "config.json", layer_norm_eps=1e-3)
    assert digest_weights(copy) != before
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match=r"shards .* missing: model-00002"):
        load_backbone(str(copy), [0])


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_no_flipped_bit_of_an_exported_backbone_is_used(folders, tmp_path, name):
    """Drawn bits: the backbone is refused, or what it says of itself and its weights are the same."""
    config = json.loads((folders["dinov2"] / "config.json").read_text())
    tensors = load_file(folders["dinov2"] / "model.safetensors")
    folder = write_backbone_folder(tmp_path / "exported", config, tensors, state_digest=True)
    written, draw, refused = describe_backbone(str(folder), [0]), random.Random(0), 0
    size = (folder / name).stat().st_size
    for bit in [draw.randrange(8 * size) for _ in range(60)]:
        flip(folder / name, bit)
        try:
            found = describe_backbone(str(folder), [0])
            # where the name of the stated digest is hurt, the digest differs from the one that checkpoints hold
            assert found == written or found.digest != written.digest, f"bit {bit}"
            refused += found != written
        except DataError:
            refused += 1
        flip(folder / name, bit)
    assert refused > 40
    assert describe_backbone(str(folder), [0]) == written


def test_weights_that_change_under_the_same_size_and_time_are_refused(copy, tmp_path):
    features = lambda: FeatureService(  # noqa: E731
        ModelConfig(backbone=str(copy), layers=[0]), FeatureStore(tmp_path / "store"), "fp16", torch.device("cpu")
    )
    assert features().backbone.info.digest == features().info.digest
    before = (copy / "model.safetensors").stat()
    flip(copy / "model.safetensors", 8 * before.st_size - 9)
    os.utime(copy / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = features()
    assert changed.info.layers == (0,)
    with pytest.raises(DataError, match=r"copy: its files have the size and time .*, but other bytes \(digest"):
        changed.backbone  # noqa: B018


def test_one_changed_bit_changes_the_digest(copy):
    before = digest_weights(copy)
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert digest_weights(copy) != before


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-4.0\n---\ntext", "cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("no header", "unknown"),
        ("---\n: [\n---\n", "unknown"),
    ],
)
def test_licence_is_what_the_card_says(copy, card, licence):
    (copy / "README.md").write_text(card)
    assert load_backbone(str(copy), [0]).info.licence == licence


def test_licence_of_known_ids_without_a_card(tmp_path):
    assert read_licence("facebook/dinov3-vits16-pretrain-lvd1689m", tmp_path) == "dinov3-license"
    assert read_licence("facebook/dinov2-with-registers-small", tmp_path) == "apache-2.0"


def test_normalization_comes_from_the_file_or_the_table_or_is_an_error(copy):
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": [0.5, 0.25, 0], "image_std": [1, 0.5, 2], "rescale_factor": 1 / 255}))
    backbone = load_backbone(str(copy), [0])
    assert (backbone.info.mean, backbone.info.std) == ((0.5, 0.25, 0), (1, 0.5, 2))
    white = backbone.normalize(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([0.5, 1.5, 0.5]))
    path.write_text(json.dumps({"image_mean": [127.5] * 3, "image_std": [51] * 3, "do_rescale": False}))
    assert load_backbone(str(copy), [0]).info.mean == (0.5, 0.5, 0.5)
    path.write_text(json.dumps({"image_mean": 0.5, "image_std": [1, 1, 1]}))
    with pytest.raises(DataError, match=r"expected image_mean and image_std of three numbers, got 0\.5"):
        load_backbone(str(copy), [0])
    path.unlink()
    with pytest.raises(DataError, match=r"mean and deviation of the weights are unknown; add the file"):
        load_backbone(str(copy), [0])
    edit_json(copy / "config.json", _name_or_path="facebook/dinov3-vit7b16-pretrain-sat493m")
    assert load_backbone(str(copy), [0]).info.mean == SAT493M[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "unknown model_type 'vit'; known: dinov2, dinov2_with_registers, dinov3_convnext"),
        ({"model_type": None}, "unknown model_type None"),
        ({"model_type": "dinov3_vit"}, "does not fit architectures"),
        ({"hidden_size": "wide"}, "not a configuration of dinov2"),
        ({"num_channels": 4}, "takes 4 channels"),
        ({"patch_size": [4, 2]}, "expected square ones"),
        ({"num_hidden_layers": 4}, r"missing: encoder.layer.3.* \(18 tensors\)"),
        ({"num_hidden_layers": 2}, r"unexpected: encoder.layer.2.* \(18 tensors\)"),
        ({"mlp_ratio": 4}, "mismatched: .* instead of"),
        ({"model_type": "dinov2_with_registers", "architectures": None}, "missing: embeddings.register_tokens"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(copy, changes, message):
    edit_json(copy / "config.json", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_backbone(str(copy), [0])
    assert str(copy) in str(caught.value)


def test_weights_that_are_cut_off_are_refused(copy):
    path = copy / "model.safetensors"
    content = path.read_bytes()
    headers = [len(header).to_bytes(8, "little") + header for header in (b"x" * 40, b'{"a": {"dtype": "F16"}}', b"[]")]
    for damaged in (content[:-1], content[:100], content[:5], b"", content + b"x", *headers):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"model\.safetensors: cut off or not a safetensors file \("):
            load_backbone(str(copy), [0])


def test_pickled_missing_and_unreadable_files_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_backbone(str(copy), [0])
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match=r"expected model.safetensors .* found none"):
        load_backbone(str(copy), [0])
    (copy / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load_backbone(str(copy), [0])
    (copy / "config.json").write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object, got list"):
        load_backbone(str(copy), [0])
    (copy / "config.json").unlink()
    with pytest.raises(DataError, match=r"expected config.json, found none"):
        load_backbone(str(copy), [0])


@pytest.mark.parametrize("source", ["/no/such", "./no/such", "../x", "a/b/c", "", "a b"])
def test_a_path_that_is_no_folder_never_asks_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").touch()
    with pytest.raises(DataError, match="no such folder"):
        find_backbone_folder(source)


def test_transformers_is_quiet_and_its_settings_come_back(copy, capfd):
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    load_backbone(str(copy), [0])
    edit_json(copy / "config.json", num_hidden_layers=2)
    with pytest.raises(DataError):
        load_backbone(str(copy), [0])
    assert capfd.readouterr() == ("", "")
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: one open repository, one gated, none else."""

    folder = EMBEDDED_FOLDER
    requests: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        type(self).requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        repository = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        if repository not in ("some/open", "some/gated"):
            return self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": n, "size": len(f), "oid": f"{i:040x}"}
                for i, (n, f) in enumerate(files.items())
            ]
            return self.answer(200, tree)
        if path.startswith("/api/"):
            return self.answer(
                200, {"id": repository, "sha": "a" * 40, "siblings": [{"rfilename": name} for name in files]}
            )
        if repository == "some/gated":
            return self.answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        name = path.split("/")[-1]
        return self.answer(200, files[name], {"ETag": f'"{name}"', "X-Repo-Commit": "a" * 40})

    def answer(self, status, content, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


ASK = """
import json, sys
from models.backbones.weights import find_backbone_folder
answers = {}
for source in sys.argv[1:]:
    try:
        answers[source] = str(find_backbone_folder(source))
    except ValueError as error:
        answers[source] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


def ask_hub(sources, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    result = subprocess.run(
        [sys.executable, "-c", ASK, *sources],
        env=clean | environment | {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stderr == ""  # no progress bars where nobody watches
    return json.loads(result.stdout)


def test_the_hub_is_asked_once_and_says_what_to_do_when_it_refuses(tmp_path):
    Hub.requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    answers = ask_hub(["some/open", "some/gated", "some/missing", "some/open"], **environment)
    server.shutdown()
    server.server_close()
    assert digest_weights(Path(answers["some/open"])) == digest_weights(EMBEDDED_FOLDER)
    assert "accept the licence at https://huggingface.co/some/gated, then set HF_TOKEN" in answers["some/gated"]
    assert "nor a repository that the hub shows" in answers["some/missing"]
    # The second question, and the next process without a hub, are answered by the cache.
    fetched = [request for request in Hub.requests if request.startswith("GET /some/open/")]
    assert sum(request.endswith("/model.safetensors") for request in fetched) == 1
    offline = ask_hub(["some/open", "some/gated"], **environment, HF_HUB_OFFLINE="1")
    assert offline["some/open"] == answers["some/open"]
    assert "DataError" in offline["some/gated"]
    assert "unset HF_HUB_OFFLINE, or give a folder" in offline["some/gated"]


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 10**9), ("hidden_size", 2**31)])
def test_sizes_that_no_backbone_has_are_refused_before_anything_is_built(tmp_path, key, value):
    from models.backbone import load_backbone

    folder = write_random_backbone(tmp_path / "b", "dinov2", width=8, depth=2, patch_size=4)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(DataError, match=f"{key} of config.json is {value}, expected at most"):
        load_backbone(str(folder), [-1])
