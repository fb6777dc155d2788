"""Give every reader damaged and hostile files, and count what is not answered by one line of error.

    python -m benchmarks.fuzz --seconds 600
    python -m benchmarks.fuzz --seconds 30 --seed 1
    python -m benchmarks.fuzz --only rasters --tries 1000
    python -m benchmarks.fuzz --again labels:123456

Whole files of every kind are written once and changed at random: bits, bytes, pieces, and values of JSON and YAML. A
try reads one changed file as a run does. It ends well when the file is read, or refused by an error of this program;
anything else counts: tracebacks (and crashes), more than 5 seconds of computing, more than a gigabyte of memory, and
requests that reach a listener of this machine whose address stands in the files. The exit code is 1 if anything
counted. The same seed gives the same tries; `--again` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT_S = 5.0  # of computing, for one try
SILENCE_S = 60.0  # after which a process is ended: it waits for something
LIMIT_BYTES = 2**30
MOST_BYTES = 2**34  # of addresses, so that a try cannot take the machine down
FAULTS = ("tracebacks", "hangs", "memory", "requests")
HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**299, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), "", " ", "\0", "\n[INFO] forged", "\x1b[2J", "..", "../../../etc/passwd"),
    *("/dev/zero", "/proc/self/mem", "a" * 100_000, "http://{host}/a", "/vsicurl/http://{host}/a.tif"),
    *("<VRTDataset/>", "\ud800", "é" * 300, "%s%n{0}", "NaN", "1e999", "0x10", "2001-99-99", "9" * 400),
    *([], {}, [[]], {"": {}}, [None], {"a": [{"b": 1}]}, [0] * 1000),
]
TOKENS = [
    *(b"\0", b"\xff" * 8, b"\x80", b"\n", b"\r\n", b"{", b"}", b"[", b"]", b",", b'"', b"'", b":", b"-", b"<", b">"),
    *(b"&a ", b"*a", b"!!int ", b"!!python/object:os.system ", b"<<: ", b"\\u0000", b"\\ud800", b"1e400", b"9" * 400),
    *(b"NaN", b"-0", b"null", b"http://{host}/a", b"/vsicurl/http://{host}/a", b"<VRTDataset>", b"[" * 300),
    *(b"../" * 9, b"\xef\xbb\xbf", b"\xfe\xff"),
]


@dataclass
class Target:
    """A reader, whole files of its kind, and how it is called with a changed copy."""

    name: str
    weight: float
    originals: list[Path]  # files, or folders of which one file is changed
    read: Callable[[Path, random.Random], Any]
    structured: bool = True


@dataclass
class Count:
    """What was found."""

    tries: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    seen: dict[str, str] = field(default_factory=dict)  # kind of fault -> an example

    def add(self, kind: str, where: str, text: str) -> None:
        """Count a fault, and print it when it is the first of its kind."""
        self.faults[kind] += 1
        key = f"{kind}: {text.strip().splitlines()[-1][:160]}"
        if key not in self.seen:
            self.seen[key] = where
            print(f"{where}: {kind}\n{text.rstrip()}", flush=True)


# --- changes ---------------------------------------------------------------------------------------------------------


def change_bytes(data: bytes, chance: random.Random, host: str) -> bytes:
    """Change bits, bytes and pieces of a file, most often near its start, where headers are."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        near = chance.random() < 0.6
        place = chance.randrange(max(min(len(changed), 600) if near else len(changed), 1))
        action = chance.randrange(8)
        if action == 0 and changed:
            changed[place % len(changed)] ^= 1 << chance.randrange(8)
        elif action == 1 and changed:
            changed[place % len(changed)] = chance.randrange(256)
        elif action == 2:
            del changed[place : place + chance.choice((1, 2, 8, 200, len(changed)))]
        elif action == 3:
            changed[place:place] = chance.choice(TOKENS).replace(b"{host}", host.encode())
        elif action == 4:
            start = chance.randrange(len(changed) + 1)
            changed[place:place] = changed[start : start + chance.randrange(64)]
        elif action == 5:
            width = chance.choice((1, 2, 4, 8))
            value = chance.choice((0, 1, 2**7, 2**15, 2**31, 2**63 - 1, 2**64 - 1, chance.randrange(2**64)))
            order = chance.choice(("little", "big"))
            changed[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, order)
        elif action == 6:
            changed[place : place + chance.randrange(32)] = bytes(
                chance.randrange(256) for _ in range(chance.randrange(32))
            )
        else:
            number = bytes(changed).find(chance.choice(b"0123456789"), place)
            if number >= 0:
                changed[number : number + 1] = str(chance.choice((0, -1, 2**31, 10**20, 1e300))).encode()
    return bytes(changed)


def change_tree(tree: Any, chance: random.Random, host: str) -> Any:
    """Put a hostile value somewhere into a tree of JSON or YAML, or take, move, repeat or wrap a part of it."""
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    if not places:
        return hostile_value(chance, host)
    for _ in range(chance.choice((1, 1, 2, 5))):
        node, key = chance.choice(places)
        if (isinstance(node, dict) and key not in node) or (isinstance(node, list) and key >= len(node)):
            continue
        action = chance.randrange(7)
        if action < 3:
            node[key] = hostile_value(chance, host)
        elif action == 3:
            del node[key]
        elif action == 4:
            other, where = chance.choice(places)
            there = where in other if isinstance(other, dict) else where < len(other)
            node[key] = json.loads(json.dumps(other[where])) if there else None
        elif action == 5 and isinstance(node, dict):
            node[str(hostile_value(chance, host))[:300]] = node.pop(key)
        else:
            node[key] = [node[key]] * chance.choice((1, 2, 50)) if chance.random() < 0.5 else {"a": node[key]}
    return tree


def hostile_value(chance: random.Random, host: str) -> Any:
    """A value that nobody expects."""
    value = chance.choice(HOSTILE)
    return value.replace("{host}", host) if isinstance(value, str) else json.loads(json.dumps(value))


def changed_copy(target: Target, chance: random.Random, folder: Path, host: str) -> Path:
    """Copy a file, or a folder, of which one file is changed or goes."""
    original = chance.choice(target.originals)
    copy = folder / original.name
    if original.is_dir():
        shutil.copytree(original, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size < 2**20)
        texts = [path for path in files if path.suffix in (".json", ".yaml", ".csv", ".txt")]
        path = chance.choice(texts if texts and chance.random() < 0.9 else files)
    else:
        for beside in original.parent.glob(f"{original.stem}.*"):
            shutil.copy(beside, folder)
        path = copy
    data = path.read_bytes()
    if chance.random() < 0.01:
        path.unlink()
    elif path.suffix in (".json", ".geojson") and chance.random() < 0.7:
        tree = change_tree(json.loads(data), chance, host)
        path.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
    elif path.suffix == ".safetensors" and chance.random() < 0.7:
        path.write_bytes(change_safetensors(data, chance, host))
    elif path.suffix in (".yml", ".yaml") and chance.random() < 0.5:
        path.write_text(change_yaml(data.decode(), chance, host), encoding="utf-8", errors="surrogatepass")
    else:
        path.write_bytes(change_bytes(data, chance, host))
    return copy


def change_safetensors(data: bytes, chance: random.Random, host: str) -> bytes:
    """Change the header, also the description in it, so that the file is whole but for that."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    described = header.get("__metadata__", {})
    if described.get("dinolith") and chance.random() < 0.8:
        envelope = change_tree(json.loads(described["dinolith"]), chance, host)
        with contextlib.suppress(TypeError, KeyError, AttributeError):
            envelope["digest"] = resealed(envelope, header, data[8 + length :])
        described["dinolith"] = json.dumps(envelope)
    else:
        header = change_tree(header, chance, host)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def resealed(envelope: Any, header: dict, tensors: bytes) -> str:
    """The digest that makes a changed description look like one that was written so: what lies behind it is tried."""
    from safetensors.torch import load

    from utils.runtime.checkpoints import _digest

    text = json.dumps({key: value for key, value in header.items() if key != "__metadata__"}).encode()
    loaded = load(len(text).to_bytes(8, "little") + text + tensors)
    return _digest(envelope["version"], envelope["kind"], envelope["content"], loaded)


def change_yaml(text: str, chance: random.Random, host: str) -> str:
    """Change the values of a YAML file."""
    import yaml

    return yaml.safe_dump(change_tree(yaml.safe_load(text), chance, host), allow_unicode=True)


# --- targets ---------------------------------------------------------------------------------------------------------


def make_targets(folder: Path, only: str | None) -> list[Target]:
    """Write whole files of every kind, once for all processes."""
    makers = {
        "settings": settings_target,
        "labels": labels_target,
        "vectors": vectors_target,
        "rasters": rasters_target,
        "checkpoints": checkpoints_target,
        "backbones": backbones_target,
    }
    if only is not None and only not in makers:
        raise SystemExit(f"--only {only}: expected one of {', '.join(makers)}")
    return [make(folder) for name, make in makers.items() if only in (None, name)]


def settings_target(folder: Path) -> Target:
    """Settings files as they ship, profiles and overrides."""
    from config import load_settings
    from tasks import kinds

    root = Path(__file__).parent.parent
    (folder / "settings").mkdir(exist_ok=True)
    example = (root / "config.example.yml").read_text().split("\n\n")  # whole, and in parts that are read sooner
    for number, text in enumerate(["\n\n".join(example), *example]):
        (folder / "settings" / f"{number}.yml").write_text(text)
    keys = (
        "train.epochs",
        "dataset.classes",
        "inference.inputs",
        "tasks.a.train",
        "model.head_options.lr",
        "profile",
        "kind",
    )

    def read(path: Path, chance: random.Random) -> Any:
        value = chance.choice(HOSTILE)
        overrides = [f"{chance.choice(keys)}={value}"] if chance.random() < 0.3 else []
        if chance.random() < 0.05:
            overrides.append(f"profile={path}")
        return load_settings(path, [text.replace("\0", "") for text in overrides], kinds())

    return Target("settings", 3, sorted((folder / "settings").iterdir()), read)


def labels_target(folder: Path) -> Target:
    """Annotations of every format, with the pictures that they name, and split lists."""
    from tasks.splits import read_list
    from utils.formats.coco.write import write_coco
    from utils.formats.cvat.write import write_cvat
    from utils.formats.deeplabcut.write import write_deeplabcut
    from utils.formats.fiftyone.write import write_fiftyone
    from utils.formats.labelme.write import write_labelme
    from utils.formats.read import read_annotations, read_boxes, read_poses
    from utils.formats.tables.write import write_tables
    from utils.formats.voc.write import write_voc
    from utils.formats.yolo.write import write_yolo
    from utils.samples.files import write_foxes

    sample, made = folder / "foxes", folder / "labels"
    write_foxes(sample, train=3, val=2, frames=2, size=(128, 128))
    if not made.exists():
        sets = read_poses(sample)
        writers = (write_coco, write_yolo, write_labelme, write_deeplabcut, write_voc, write_tables)
        for write in (*writers, write_cvat, write_fiftyone):
            write(sets, made / write.__name__)
        (made / "lists").mkdir()
        (made / "lists" / "train.txt").write_text("# a list\na\nb/c\nd@e\n")

    def read(path: Path, chance: random.Random) -> Any:
        if path.name == "lists":
            return [read_list(name) for name in path.iterdir()]
        return (
            read_boxes(path) if chance.random() < 0.3 else read_annotations(path, need_keypoints=chance.random() < 0.5)
        )

    return Target("labels", 6, sorted(made.iterdir()), read)


def vectors_target(folder: Path) -> Target:
    """Vector files of the usual formats."""
    import numpy as np
    import shapely

    from utils.raster.drivers import vector_library
    from utils.raster.vector_files import read_features, read_layer_info, write_features

    made = folder / "vectors"
    if not made.exists():
        shapes = [shapely.box(500_000 + x, 5_400_000, 500_010 + x, 5_400_010) for x in range(0, 60, 20)]
        for name in ("a.gpkg", "b.geojson", "c.fgb"):
            write_features(made / name, shapes, crs="EPSG:32632", kind=["a", "b", "c"], size=[1, 2, 3])
        for name, driver in (("d.shp", None), ("e.kml", "LIBKML"), ("f.gml", "GML"), ("g.tab", "MapInfo File")):
            options = {"geometry_type": "Polygon", "crs": "EPSG:4326", "driver": driver}
            degrees = shapely.to_wkb([shapely.box(x, 1, x + 1, 2) for x in range(3)])
            vector_library().raw.write(made / name, degrees, [np.array([1, 2, 3])], ["kind"], **options)

    def read(path: Path, chance: random.Random) -> Any:
        info = read_layer_info(path, None)
        attribute = chance.choice((None, *info.fields))
        return read_features(path, None, attribute, chance.choice((None, info.bounds)))

    return Target("vectors", 5, [path for path in sorted(made.iterdir()) if path.suffix in _VECTORS], read)


_VECTORS = (".gpkg", ".geojson", ".fgb", ".shp", ".kml", ".gml", ".tab")


def rasters_target(folder: Path) -> Target:
    """Rasters, pictures and virtual rasters, read as scenes, as labels and as pictures."""
    import numpy as np
    import rasterio
    import rasterio.shutil

    from utils.media.picture_sizes import picture_size
    from utils.raster.files import RasterFile, check_scene, write_raster
    from utils.raster.scenes import RasterScene
    from utils.raster.tiling import Window

    made = folder / "rasters"
    if not made.exists():
        pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
        place = {"crs": "EPSG:32632", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 5e6)}
        options = {"tiled": True, "blockxsize": 16, "blockysize": 16}
        write_raster(made / "a.tif", pixels, compress="deflate", **options, **place)
        write_raster(made / "b.tif", pixels[..., 0].astype(np.float32), nodata=-9, compress="lzw", predictor=3, **place)
        write_raster(
            made / "c.tif", pixels[..., :1] // 60, palette={value: (value, 0, 9, 255) for value in range(5)}, **place
        )
        write_raster(made / "d.tif", pixels, compress="jpeg", photometric="YCBCR", **options)
        for name in ("e.png", "f.jpg", "g.webp", "h.bmp", "i.jp2", "j.gif"):
            write_raster(made / name, pixels[..., :1] if name == "j.gif" else pixels)
        rasterio.shutil.copy(made / "a.tif", made / "k.vrt", driver="VRT")
        (made / "a.tif.aux.xml").write_text('<PAMDataset><Metadata><MDI key="a">b</MDI></Metadata></PAMDataset>')

    def read(path: Path, chance: random.Random) -> Any:
        way = chance.randrange(4)
        if way == 0:
            return picture_size(path)
        if way == 1:
            return check_scene(path)
        if way == 2:
            header = RasterFile(path).header
            window = Window(0, 0, min(header.grid.height, 32), min(header.grid.width, 32))
            return RasterFile(path).read(window, [len(header.dtypes)])
        scene = RasterScene(path)
        return scene.read(Window(0, 0, min(scene.height, 32), min(scene.width, 32)))

    return Target("rasters", 6, [path for path in sorted(made.iterdir()) if path.suffix != ".xml"], read)


def checkpoints_target(folder: Path) -> Target:
    """Checkpoints of the kinds of task, of which a task is made, and states of training."""
    import torch

    from config import parse_settings
    from tasks import kinds
    from tasks.trained import TrainedTask
    from utils.runtime.checkpoints import load_training_state, save_training_state

    made = folder / "checkpoints"
    if not made.exists():
        made.mkdir()
        write_checkpoints(made)
        save_training_state(made / "state.safetensors", {"model": {"a": torch.ones(3)}, "step": 3, "best": [0.5, None]})

    def read(path: Path, chance: random.Random) -> Any:
        if path.stem == "state":
            return load_training_state(path)
        settings = parse_settings("{}", [f"kind={path.stem}"], kinds()).shared
        return TrainedTask.load(path, settings)

    return Target("checkpoints", 2, sorted(made.glob("*.safetensors")), read)


def write_checkpoints(made: Path) -> None:
    """Write a checkpoint of each kind that predicts, of an untrained model: its description is what counts."""
    from tasks.example import example_task
    from tasks.keypoints.example import animals_example
    from utils.runtime.checkpoints import save_checkpoint

    for make, kind in ((example_task, "segmentation"), (animals_example, "keypoints")):
        task, _ = make(made.parent / f"data_{kind}")
        task.source.prepare_data()
        task.setup()
        model = task.build_model()
        save_checkpoint(made / f"{kind}.safetensors", model.state_dict(), task.describe())


def backbones_target(folder: Path) -> Target:
    """Folders of backbones of each family."""
    from models.backbone import load_backbone
    from models.backbones.random_backbone import write_random_backbone

    made = folder / "backbones"
    for family in ("dinov2", "dinov3_vit", "dinov3_convnext"):
        if not (made / family).exists():
            write_random_backbone(made / family, family, width=8, depth=2, patch_size=4)

    def read(path: Path, chance: random.Random) -> Any:
        return load_backbone(str(path), [-1], precision="fp32")

    return Target("backbones", 1, sorted(made.iterdir()), read)


# --- the process that tries, and the one that counts -----------------------------------------------------------------


def try_one(target: Target, seed: int, host: str) -> tuple[float, int, str]:
    """One try: seconds of computing, the most memory it had, and a traceback or nothing."""
    from utils.errors import DinolithError

    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, contextlib.chdir(name):
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the highest mark of memory starts anew
        found = ""
        path = changed_copy(target, chance, Path(name), host)
        start = time.process_time()
        try:
            target.read(path, chance)
        except DinolithError as error:
            if any(sign in str(error) for sign in "\x1b\0\r") or len(str(error)) > 50_000:
                found = f"an error that cannot be printed: {str(error)[:200]!r}"
        except BaseException:  # SystemExit and the like too
            found = traceback.format_exc()
        return time.process_time() - start, highest_memory(), found


def highest_memory() -> int:
    """The most memory in bytes that this process had in use since the mark was set back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def work(folder: Path, only: str | None, host: str) -> None:
    """Read names and seeds of tries from standard input, and write what came of each to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    warnings.simplefilter("ignore")
    import logging

    from utils.errors import DinolithError

    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print
    targets = {target.name: target for target in make_targets(folder, only)}
    for target in targets.values():  # imports are no part of a try
        for original in target.originals:
            with contextlib.suppress(DinolithError):  # a part of the settings may need another
                target.read(original, random.Random(0))
    answers.write(json.dumps([target.name for target in targets.values()]) + "\n")
    answers.flush()
    for line in sys.stdin:
        name, seed = line.split(":")
        answers.write(json.dumps(try_one(targets[name], int(seed), host)) + "\n")
        answers.flush()


class Worker:
    """A process that tries; a new one takes its place when it dies or waits."""

    def __init__(self, folder: Path, only: str | None, host: str):
        command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", str(folder), "--host", host]
        command += ["--only", only] if only else []
        errors = open(folder / f"errors_{os.getpid()}_{id(self)}.txt", "wb")  # noqa: SIM115 - the process keeps it
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        errors.close()
        self.errors = Path(errors.name)
        if self.answer(600) is None:
            raise RuntimeError(f"the fuzzer's own process does not start:\n{self.errors.read_text()[-4000:]}")

    def answer(self, patience_s: float) -> Any:
        """The next answer; None when the process died or is silent for too long."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], patience_s)
        line = self.process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def ask(self, name: str, seed: int) -> tuple[list | None, str]:
        """What came of a try; else why there is no answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}:{seed}\n")
        self.process.stdin.flush()
        answer = self.answer(SILENCE_S)
        if answer is not None:
            return answer, ""
        if self.process.poll() is None:
            self.end()
            return None, "hangs"
        return None, "tracebacks"

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """An address of this machine, and what was sent to it."""
    received: list[bytes] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                received.append(connection.recv(200))
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", received
        server.shutdown(socket.SHUT_RDWR)


def run_tries(
    folder: Path, only: str | None, seed: int, seconds: float, tries: int, host: str, received: list, count: Count
) -> None:
    """Try until the time or the number is used up; several of these run side by side, each with its own seeds."""
    worker = Worker(folder, only, host)
    chance, end = random.Random(seed), time.monotonic() + seconds
    targets = make_targets(folder, only)
    names, weights = [target.name for target in targets], [target.weight for target in targets]
    done = 0
    while time.monotonic() < end and done < tries:
        name, number = chance.choices(names, weights)[0], chance.randrange(2**40)
        requests = len(received)
        answer, fault = worker.ask(name, number)
        done += 1
        count.tries[name] += 1
        where = f"{name}:{number}"
        if answer is None:
            count.add(
                fault,
                where,
                f"no answer: the process {'waited' if fault == 'hangs' else 'crashed'}\n"
                + worker.errors.read_text(errors="replace")[-1500:],
            )
            worker = Worker(folder, only, host)
            continue
        computing_s, memory, trace = answer
        if trace:
            count.add("tracebacks", where, trace)
        if computing_s > LIMIT_S:
            count.add("hangs", where, f"{name}: more than {LIMIT_S:g} s\n")
        if memory > LIMIT_BYTES:
            count.add("memory", where, f"{name}: {memory / 2**30:.1f} GiB\n")
            worker.end()  # what it keeps would count again
            worker = Worker(folder, only, host)
        if len(received) > requests:
            count.add("requests", where, f"{name}: {received[-1][:80]!r}\n")
    worker.end()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long to try, at most")
    parser.add_argument("--tries", type=int, default=10**9, help="how many tries, at most")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--only", help="settings, labels, vectors, rasters, checkpoints or backbones")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", metavar="NAME:NUMBER", help="repeat one try in this process")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--host", default="127.0.0.1:9", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.worker:
        work(given.worker, given.only, given.host)
        return 0
    count = Count()
    with tempfile.TemporaryDirectory() as name, listener() as (host, received):
        if given.again:
            only, _, number = given.again.partition(":")
            outcome = try_one(make_targets(Path(name), only)[0], int(number), host)
            print(*outcome, sep="\n")
            return int(bool(outcome[2]))
        make_targets(Path(name), given.only)
        each = -(-given.tries // given.processes)
        threads = [
            threading.Thread(
                target=run_tries,
                args=(Path(name), given.only, given.seed * 1000 + index, given.seconds, each, host, received, count),
            )
            for index in range(given.processes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    tries = ", ".join(f"{name} {number}" for name, number in sorted(count.tries.items()))
    print(f"{count.tries.total()} tries ({tries})")
    print(", ".join(f"{kind} {count.faults[kind]}" for kind in FAULTS))
    return int(count.faults.total() > 0 or not count.tries)


if __name__ == "__main__":
    sys.exit(main())
