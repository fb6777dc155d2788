import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from utils.errors import DataError
from utils.store.buffers import ALIGNMENT
from utils.store.encoding import encode_features
from utils.store.feature_store import FeatureStore, record_key
from utils.store.plan import Plan
from utils.store.shards import read_shard

PROCESSES = multiprocessing.get_context("fork")
TORCH_TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
TORCH_TYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint16, torch.uint32]


def key_of(index):
    return record_key(index=index)


def random_tensor(shape, dtype, generator):
    values = torch.randint(0, 100, shape, generator=generator)
    return values % 2 == 0 if dtype == torch.bool else values.to(dtype)


def fill(store, count, shape=(3, 4), **options):
    """Store `count` records whose array holds their index; give their keys."""
    keys = [key_of(index) for index in range(count)]
    with store.writer(**options) as writer:
        for index, key in enumerate(keys):
            writer.put(key, {"x": np.full(shape, index, np.int32), "y": np.array([index], np.uint8)}, {"index": index})
    return keys


def shards_of(store):
    return sorted((store.folder / "shards").glob("*.safetensors"))


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def start_process(function, *arguments):
    process = PROCESSES.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


# --- there and back


def test_any_types_and_shapes_come_back_exactly(store):
    generator = torch.Generator().manual_seed(0)
    chance = random.Random(0)
    records = {}
    with store.writer(max_shard_bytes=4096) as writer:
        for index in range(40):
            arrays = {}
            for number in range(chance.randint(1, 6)):
                shape = tuple(chance.choice([0, 1, 2, 3, 5, 16]) for _ in range(chance.randint(0, 4)))
                arrays[f"array_{number}"] = random_tensor(shape, chance.choice(TORCH_TYPES), generator)
            records[key_of(index)] = arrays
            writer.put(key_of(index), arrays, {"index": index, "mean": [0.1, 0.2]})
    opened = FeatureStore(store.folder, create=False)
    assert len(opened) == 40
    assert not list(opened.verify())
    for index, (key, arrays) in enumerate(records.items()):
        found, batch = opened.read(key), opened.read_batch([key, key])
        assert opened.metadata(key) == {"index": index, "mean": [0.1, 0.2]}
        assert opened.describe(key) == {name: (tuple(value.shape), value.dtype) for name, value in found.items()}
        assert found.keys() == batch.keys() == arrays.keys()
        for name, value in arrays.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
            assert torch.equal(batch[name], torch.stack([value, value]))


def test_numpy_arrays_of_any_memory_order_come_back(store):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    frozen = base.copy()
    frozen.flags.writeable = False
    arrays = {"flipped": base[::-1, :, ::2], "turned": base.transpose(2, 0, 1), "frozen": frozen, "scalar": np.array(3)}
    with store.writer() as writer:
        writer.put(key_of(0), arrays)
    for name, value in store.read(key_of(0)).items():
        assert value.numpy().shape == arrays[name].shape
        assert np.array_equal(value.numpy(), arrays[name])


def test_the_caller_may_reuse_its_memory_after_put(store):
    buffer = torch.zeros(1000)
    with store.writer() as writer:
        for index in range(5):
            writer.put(key_of(index), {"x": buffer.fill_(index)})
    assert store.read_batch([key_of(index) for index in range(5)])["x"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_read_batch_equals_stacked_reads_in_any_order(store):
    keys = fill(store, 20, max_shard_bytes=300)
    assert len(shards_of(store)) > 3
    order = random.Random(1).choices(keys, k=33)
    batch = store.read_batch(order)
    singles = [store.read(key) for key in order]
    for name in ("x", "y"):
        assert torch.equal(batch[name], torch.stack([single[name] for single in singles]))
    threaded = FeatureStore(store.folder, create=False, threads=3).read_batch(order)
    assert all(torch.equal(threaded[name], batch[name]) for name in batch)


def test_read_batch_reads_only_the_names_asked_for_in_their_order(store):
    arrays = {name: torch.full((64,), index, dtype=torch.uint8) for index, name in enumerate("abcde")}
    with store.writer() as writer:
        writer.put(key_of(0), arrays)
    batch = store.read_batch([key_of(0)], names=["e", "a", "c", "b"])
    assert list(batch) == ["e", "a", "c", "b"]
    assert [tensor[0, 0].item() for tensor in batch.values()] == [4, 0, 2, 1]


def test_records_begin_at_aligned_positions_and_lie_together(store):
    fill(store, 7, shape=(5, 5))
    records = read_shard(shards_of(store)[0])
    assert all(record.offset % ALIGNMENT == 0 for record in records)
    assert [record.offset + record.size for record in records[:-1]] == [record.offset for record in records[1:]]


def test_other_safetensors_tools_open_the_shards(store):
    arrays = {"odd": torch.arange(3, dtype=torch.uint8), "wide": torch.ones(5, dtype=torch.float64)}
    with store.writer() as writer:
        for index in range(3):
            writer.put(key_of(index), {**arrays, "half": torch.full((3, 1), index).half()}, {"index": index})
    loaded = load_file(shards_of(store)[0])
    assert loaded[f"{key_of(2)}/half"].tolist() == [[2], [2], [2]]
    assert torch.equal(loaded[f"{key_of(1)}/wide"], arrays["wide"])
    with safe_open(shards_of(store)[0], framework="np") as file:
        assert json.loads(file.metadata()[key_of(1)]) == {"index": 1}
        assert file.get_tensor(f"{key_of(0)}/odd").tolist() == [0, 1, 2]


# --- memory


def test_memory_returns_to_the_next_batch_but_never_while_somebody_holds_a_part(store):
    keys = fill(store, 4, shape=(200, 200))
    first = store.read_batch(keys[:2])["x"]
    address, part = first.data_ptr(), first[1, 0, :3]
    del first
    second = store.read_batch(keys[2:])["x"]
    assert second.data_ptr() != address
    assert part.tolist() == [1, 1, 1]
    del part
    assert store.read_batch(keys[:2])["x"].data_ptr() == address


def test_open_files_are_bounded(tmp_path):
    store = FeatureStore(tmp_path, open_files=2)
    keys = fill(store, 12, max_shard_bytes=1)
    store.read_batch(keys)
    targets = [
        os.readlink(f"/proc/self/fd/{name}")
        for name in os.listdir("/proc/self/fd")
        if name.isdigit() and os.path.islink(f"/proc/self/fd/{name}")
    ]
    assert sum(str(tmp_path) in target for target in targets) == 2


def test_int8_maps_are_stored_small_and_read_as_float32(store):
    maps = [torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(index)) for index in range(3)]
    encoded = [encode_features(value, "int8") for value in maps]
    with store.writer() as writer:
        for index, value in enumerate(encoded):
            writer.put(key_of(index), {"map_0": value, "raw": torch.tensor([[-3]], dtype=torch.int8)})
    assert store.read(key_of(1))["map_0"].dtype == torch.float32
    assert torch.equal(store.read(key_of(1))["map_0"], encoded[1].decode())
    batch = store.read_batch([key_of(2), key_of(0), key_of(1)])
    assert torch.equal(batch["map_0"], torch.stack([encoded[index].decode() for index in (2, 0, 1)]))
    assert batch["raw"].dtype == torch.int8
    assert batch["raw"].flatten().tolist() == [-3, -3, -3]
    assert list(batch) == list(store.describe(key_of(0)))


# --- keys and mistakes of callers


def test_every_part_changes_the_key_and_their_order_does_not():
    parts = {"pixels": "ab", "layers": [2, 5], "precision": "bf16", "view": "hflip", "size": 512}
    changed = [{**parts, "pixels": "ac"}, {**parts, "layers": [5, 2]}, {**parts, "size": "512"}, {**parts, "x": None}]
    assert len({record_key(**value) for value in [parts, *changed]}) == 5
    assert record_key(**dict(reversed(parts.items()))) == record_key(**parts)
    with pytest.raises(ValueError, match="part 'size' of a record's key must be a JSON value, got int64"):
        record_key(size=np.int64(3))


def test_mistakes_of_callers_are_named(store):
    with store.writer() as writer:
        writer.put(key_of(0), {"x": torch.zeros(2), "y": torch.zeros(1)})
        writer.put(key_of(1), {"x": torch.zeros(3)})
        writer.put(key_of(2), {"x": torch.zeros(2)})
        with pytest.raises(ValueError, match="a key must be 8 to 128 lower-case hexadecimal digits, got 'ABC'"):
            writer.put("ABC", {"x": torch.zeros(1)})
        with pytest.raises(ValueError, match=r"a word of letters, digits and _, got 'map.0'"):
            writer.put(key_of(3), {"map.0": torch.zeros(1)})
        with pytest.raises(ValueError, match=r"array 'x' has type torch.complex64, which cannot be stored"):
            writer.put(key_of(3), {"x": torch.zeros(1, dtype=torch.complex64)})
        with pytest.raises(ValueError, match="it has no arrays"):
            writer.put(key_of(3), {})
    assert len(store) == 3
    assert store.missing([key_of(9), key_of(0), key_of(9)]) == [key_of(9)]
    with pytest.raises(DataError, match=f"no record {key_of(9)} among 3; run the prepare phase"):
        store.read_batch([key_of(0), key_of(9)])
    with pytest.raises(DataError, match=r"cannot be stacked: 'x' is F32 \(2,\) and F32 \(3,\)"):
        store.read_batch([key_of(0), key_of(1)], names=["x"])
    with pytest.raises(DataError, match=r"cannot be stacked: 'y' is F32 \(1,\) and absent"):
        store.read_batch([key_of(0), key_of(2)])
    assert store.read_batch([key_of(0), key_of(2)], names=["x"])["x"].shape == (2, 2)
    with pytest.raises(ValueError, match="the record has no array 'z'; it has: x, y"):
        store.read_batch([key_of(0)], names=["z"])
    with pytest.raises(ValueError, match="at least one key"):
        store.read_batch([])


def test_a_store_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="no feature store there; run the prepare phase first"):
        FeatureStore(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    FeatureStore(tmp_path)
    (tmp_path / "store.json").write_text('{"format": "dinolith-features", "version": 3}')
    with pytest.raises(
        DataError, match="expected format dinolith-features, version 2, got dinolith-features, version 3"
    ):
        FeatureStore(tmp_path)
    (tmp_path / "store.json").write_text('{"format": "dinolith-features", "version": 1}')
    with pytest.raises(DataError, match=f"version 1 of the format, .*; remove {tmp_path}, prepare makes all of it"):
        FeatureStore(tmp_path)
    (tmp_path / "store.json").write_text("[")
    with pytest.raises(DataError, match=r"store.json: damaged"):
        FeatureStore(tmp_path)


# --- damage


def test_flipped_bits_anywhere_in_a_shard_are_found(store):
    keys = fill(store, 2)
    shard = shards_of(store)[0]
    whole = shard.read_bytes()
    for position in [*range(0, 130), *range(130, len(whole), 7)]:
        shard.write_bytes(whole)
        flip(shard, position, position % 8)
        problems = list(FeatureStore(store.folder, create=False).verify())
        assert problems, f"byte {position} of {len(whole)}"
        assert {problem.subject for problem in problems} <= {*keys, f"shards/{shard.name}"}
    shard.write_bytes(whole)
    assert not list(FeatureStore(store.folder, create=False).verify())


def test_a_flipped_bit_harms_one_record_which_is_then_made_again(store):
    keys = fill(store, 5)
    record = read_shard(shards_of(store)[0])[3]
    flip(shards_of(store)[0], record.offset + 7)
    (problem,) = store.verify()
    assert f"record {keys[3]}: the checksum of x does not match, bits have changed" in problem.message
    assert (problem.kind, problem.key) == ("checksum", keys[3])
    assert not list(store.verify(rehash=False))
    assert [found.kind for found in store.verify(keys=[keys[3], keys[0], "00ff00ff"])] == ["checksum", "missing"]
    store.set_aside(problem.subject, problem.message)
    assert store.missing(keys) == [keys[3]]
    assert not list(store.verify())
    (note,) = (store.folder / "aside").iterdir()
    assert json.loads(note.read_text())["reason"] == problem.message
    with store.writer() as writer:
        writer.put(keys[3], {"x": np.full((3, 4), 33, np.int32), "y": np.array([33], np.uint8)})
    for opened in (store, FeatureStore(store.folder, create=False)):
        assert opened.read_batch(keys)["x"][:, 0, 0].tolist() == [0, 1, 2, 33, 4]
        assert not list(opened.verify())


def test_no_flipped_bit_of_a_shard_is_read(store):
    """Drawn bits of header and data: a record is missing or refused, or it is read as it was written."""
    keys = fill(store, 4, shape=(8, 8))
    shard = shards_of(store)[0]
    written = {key: (store.read(key), store.metadata(key)) for key in keys}
    draw = random.Random(0)
    refused = 0
    for bit in [draw.randrange(8 * shard.stat().st_size) for _ in range(400)]:
        flip(shard, bit // 8, bit % 8)
        opened = FeatureStore(store.folder, create=False)
        for key, (arrays, metadata) in written.items():
            try:
                found = opened.read(key)
            except DataError:
                refused += 1
                continue
            assert opened.metadata(key) == metadata
            assert found.keys() == arrays.keys()
            assert all(torch.equal(found[name], array) for name, array in arrays.items()), f"bit {bit}"
        flip(shard, bit // 8, bit % 8)
    assert refused > 400


@pytest.mark.parametrize("threads", [1, 2])
def test_every_read_compares_what_it_reads_with_its_checksum(store, threads):
    maps = encode_features(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), "int8")
    keys = [key_of(index) for index in range(3)]
    with store.writer() as writer:
        for key in keys:
            writer.put(key, {"wide": torch.ones(16), "map_0": maps, "bytes": torch.zeros(5, dtype=torch.uint8)})
    opened = FeatureStore(store.folder, create=False, threads=threads)
    whole = opened.read_batch(keys)
    record = read_shard(shards_of(store)[0])[1]
    assert [field.name for field in record.layout] == ["wide", "map_0.scale", "map_0", "bytes", ".pad"]
    for field in record.layout:
        flip(shards_of(store)[0], record.offset + field.start + field.size // 2, 3)
        public = field.name.removesuffix(".scale")
        for name in ("wide", "map_0", "bytes"):
            if name == public:
                with pytest.raises(DataError, match=rf"record {keys[1]}: the checksum of {field.name} does not match"):
                    opened.read_batch(keys, [name])
            else:  # what is not read does no harm
                assert torch.equal(opened.read_batch(keys, [name])[name], whole[name])
        assert torch.equal(opened.read_batch([keys[0], keys[2]])["map_0"], whole["map_0"][::2])
        flip(shards_of(store)[0], record.offset + field.start + field.size // 2, 3)


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_truncated_shard_is_reported_and_never_used(store, left):
    keys = fill(store, 6, max_shard_bytes=400)
    shard = store.folder / "shards" / store._record(keys[0]).shard
    lost = {record.key for record in read_shard(shard)}
    shard.write_bytes(shard.read_bytes()[:left])
    (problem,) = store.verify()
    assert (problem.kind, problem.file) == ("truncated", f"shards/{shard.name}")
    opened = FeatureStore(store.folder)
    assert set(opened.missing(keys)) == lost
    opened.set_aside(problem.subject, problem.message)
    assert not list(opened.verify())
    assert fill(opened, 6) == keys
    assert opened.read_batch(keys)["x"][:, 0, 0].tolist() == list(range(6))


def test_a_shard_that_shrinks_while_it_is_open_is_an_error_not_garbage(store):
    keys = fill(store, 3, shape=(1000,))
    store.read_batch(keys)
    os.truncate(shards_of(store)[0], shards_of(store)[0].stat().st_size - 4200)
    assert store.read(keys[0])["x"][0].item() == 0
    with pytest.raises(DataError, match=r"cannot read record \w+ \(the file ends \d+ bytes early\)"):
        store.read_batch(keys)


def test_foreign_files_are_reported_and_leave_the_store_usable(store):
    keys = fill(store, 2)
    folder = store.folder / "shards"
    (folder / "notes.txt").write_text("mine")
    (folder / "folder.safetensors").mkdir()
    (folder / "a.safetensors").write_bytes(b"\xff" * 100)
    (folder / "b.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "c.safetensors").write_bytes((20).to_bytes(8, "little") + b'{"__metadata__":[1]}')
    save_file({"x": torch.zeros(1)}, folder / "d.safetensors", {"format": "pt"})
    opened = FeatureStore(store.folder)
    kinds = {problem.file: problem.kind for problem in opened.verify()}
    assert kinds == {
        "shards/notes.txt": "foreign",
        "shards/folder.safetensors": "foreign",
        "shards/a.safetensors": "truncated",
        "shards/b.safetensors": "foreign",
        "shards/c.safetensors": "header",
        "shards/d.safetensors": "foreign",
    }
    for problem in list(opened.verify()):
        opened.set_aside(problem.subject, problem.message)
    assert not list(opened.verify())
    assert opened.read_batch(keys)["y"].flatten().tolist() == [0, 1]
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="cannot set aside 'shards/nothing': no record or file of that name"):
        opened.set_aside("shards/nothing", "")


def test_what_one_process_sets_aside_another_stops_using(store):
    keys = fill(store, 2)
    other = FeatureStore(store.folder, create=False)
    store.set_aside(keys[0], "blurred")
    assert other.has(keys[0])
    assert other.refresh() == 1
    assert other.missing(keys) == [keys[0]]


def test_setting_aside_covers_every_copy(store):
    other = FeatureStore(store.folder)
    keys = fill(store, 1)
    fill(other, 1)
    assert len(shards_of(store)) == 2
    assert store.refresh() == 1
    store.set_aside(keys[0], "wrong")
    assert not store.has(keys[0])
    assert not FeatureStore(store.folder).has(keys[0])


# --- writing


def test_put_leaves_alone_what_is_there(store):
    fill(store, 3)
    before = shards_of(store)
    fill(store, 3)
    assert shards_of(store) == before


def test_shards_keep_to_their_size_and_large_records_get_their_own(store):
    with store.writer(max_shard_bytes=10_000) as writer:
        for index, size in enumerate([3000, 3000, 3000, 3000, 50_000, 100]):
            writer.put(key_of(index), {"x": np.zeros(size, np.uint8)})
    assert sorted(len(read_shard(path)) for path in shards_of(store)) == [1, 1, 1, 3]


def test_the_end_of_the_block_makes_records_visible_to_others(store):
    with store.writer() as writer:
        writer.put(key_of(0), {"x": torch.ones(1)})
        assert not FeatureStore(store.folder, create=False).has(key_of(0))
    assert FeatureStore(store.folder, create=False).has(key_of(0))
    assert store.has(key_of(0))
    with pytest.raises(RuntimeError, match="use it in a `with` block"):
        writer.put(key_of(1), {"x": torch.ones(1)})


def interrupt_after_put(store):
    with store.writer() as writer:
        writer.put(key_of(0), {"x": torch.ones(1)})
        raise KeyboardInterrupt


def test_an_exception_in_the_block_keeps_what_was_put(store):
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_put(store)
    assert FeatureStore(store.folder).keys() == [key_of(0)]


def write_on_a_full_disk(folder, answer):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        with FeatureStore(folder).writer(max_shard_bytes=50_000, queue_records=2) as writer:
            for index in range(40):
                writer.put(key_of(index), {"x": np.zeros(20_000 if index < 6 else 70_000, np.uint8)})
    except DataError as error:
        answer.send(str(error))


def test_a_full_disk_is_told_and_keeps_what_was_finished(tmp_path):
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = start_process(write_on_a_full_disk, tmp_path, sender)
    assert receiver.poll(60)
    message = receiver.recv()
    process.join()
    assert f"{tmp_path}: File too large while writing a shard of 70.0 kB; " in message
    assert "6 records of this run are finished and kept: free space or move the store, and run again" in message
    store = FeatureStore(tmp_path)
    assert not store.missing(key_of(index) for index in range(6))
    assert not list(store.verify())
    assert not list((tmp_path / "shards").glob(".*"))


def write_range(folder, start, stop):
    with FeatureStore(folder).writer(max_shard_bytes=100_000) as writer:
        for index in range(start, stop):
            writer.put(key_of(index), {"x": np.full(20_000, index, np.int32)})


def test_a_killed_writer_leaves_a_usable_store(tmp_path):
    process = start_process(write_range, tmp_path, 0, 1_000_000)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("shards/*.safetensors"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (tmp_path / "shards" / ".dead-1-x.safetensors.partial").write_bytes(b"left behind")
    store = FeatureStore(tmp_path)
    assert not list((tmp_path / "shards").glob(".*"))
    assert len(store) >= 5
    assert not list(store.verify())
    values = [store.read(key_of(index))["x"] for index in range(len(store))]
    assert all((value == index).all() for index, value in enumerate(values))


def test_the_temporary_file_of_a_living_writer_stays(store):
    from utils.store.shards import _create_locked

    path = store.folder / "shards" / ".host-1-x.safetensors.partial"
    handle = _create_locked(path)
    FeatureStore(store.folder)
    assert path.exists()
    os.close(handle)
    FeatureStore(store.folder, create=False)
    assert path.exists()
    FeatureStore(store.folder)
    assert not path.exists()


def test_two_processes_write_at_once(tmp_path):
    processes = [start_process(write_range, tmp_path, start, start + 30) for start in (0, 15)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    store = FeatureStore(tmp_path)
    assert len(store) == 45
    assert not list(store.verify())
    batch = store.read_batch([key_of(index) for index in range(45)])["x"]
    assert (batch == torch.arange(45)[:, None]).all()


def test_threads_write_and_read_at_once(store):
    def work(start):
        for ten in range(start, start + 40, 10):
            with store.writer(max_shard_bytes=2000) as writer:
                for index in range(ten, ten + 10):
                    writer.put(key_of(index), {"x": np.full((300,), index)})
            store.refresh()
            there = store.keys()
            wrong.extend(key for key in there if not (store.read(key)["x"] == values[key]).all())

    wrong, values = [], {key_of(index): index for index in range(80)}
    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 40, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(store.keys()) == sorted(values)


# --- other processes


class _Reads:
    def __init__(self, store, keys):
        self.store, self.keys = store, keys

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, position):
        return self.store.read(self.keys[position])["x"][0, 0].item()


def test_worker_processes_read_from_a_store_that_is_in_use(store):
    keys = fill(store, 8)
    store.read_batch(keys)  # opens files and takes locks in this process
    loader = DataLoader(_Reads(store, keys), batch_size=4, num_workers=2, multiprocessing_context="fork")
    assert torch.cat([batch for batch in loader]).tolist() == list(range(8))


def test_a_forked_child_does_not_inherit_a_held_lock(store):
    keys = fill(store, 2)
    with store.reader.process.lock, store.reader.process.pool.lock, store.reader.process.files.lock:
        child = os.fork()
        if not child:
            ok = store.refresh() == 2 and store.read_batch(keys)["y"].tolist() == [[0], [1]]
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_pickling_keeps_the_index(store):
    keys = fill(store, 3)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read(keys[2])["y"].tolist() == [2]


# --- planning, compacting, manifests


def test_a_plan_that_does_not_fit_is_refused_with_advice():
    plan = Plan(10, 1000, 1500, "here")
    plan.refuse_if_full(500)
    with pytest.raises(DataError, match=r"10 records need 1.0 kB, free are 1.5 kB .*another disk.*fewer views.*int8"):
        plan.refuse_if_full(501)
    Plan(0, 0, 0, "here").refuse_if_full()


def test_manifests_come_back_and_notice_flipped_bits(store):
    value = {"samples": [["a", 0.1], None], "größe": 3}
    store.manifests.write("00ff00ff", [1])
    store.manifests.write("00ff00ff", value)
    assert store.manifests.read("00ff00ff") == value
    assert store.manifests.read("11ff00ff") is None
    path = store.folder / "manifests" / "00ff00ff.json"
    whole = path.read_bytes()
    for position in range(len(whole) - 1):  # the last byte is the end of the line
        path.write_bytes(whole)
        flip(path, position)
        with pytest.raises(DataError, match="bits have changed; remove the file and run the prepare phase"):
            store.manifests.read("00ff00ff")
    (problem,) = store.verify()
    assert (problem.kind, problem.subject) == ("manifest", "manifests/00ff00ff.json")
    store.set_aside(problem.subject, problem.message)
    assert store.manifests.read("00ff00ff") is None
    assert not list(store.verify())
    assert len(list((store.folder / "aside").iterdir())) == 2
    with pytest.raises(ValueError, match="expected a JSON value"):
        store.manifests.write("00ff00ff", {1, 2})
