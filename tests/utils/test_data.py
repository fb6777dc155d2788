from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from utils.data import Entry, PrecomputedDataset, SampleRef
from utils.errors import DataError
from utils.geometry.augment import View
from utils.geometry.fields import STANDARD_FIELDS, Boxes, Image, Points, Values, collate
from utils.store.encoding import encode_features
from utils.store.feature_store import FeatureStore, record_key

VIEWS = ["identity", "hflip", "rot90"]
FIELDS = {**STANDARD_FIELDS, "elevation": Image(), "bounds": Values()}


def make_sample(index, height, width, channels=3):
    generator = np.random.default_rng(index)
    return {
        "image": generator.integers(0, 256, (height, width, channels), dtype=np.uint8),
        "label": generator.integers(0, 5, (height, width), dtype=np.uint8),
        "valid": generator.random((height, width)) < 0.8,
        "elevation": generator.random((height, width, 1), dtype=np.float32),
        "bounds": generator.random(4),
    }


def make_maps(index, view_name, dtype):
    generator = torch.Generator().manual_seed(100 * index + VIEWS.index(view_name))
    return {
        f"map_{number}": encode_features(torch.randn(4 + number, 2, 3, generator=generator), dtype)
        for number in range(11)
    }


def make_dataset(folder, count=4, height=6, width=6, dtype="fp16", **options):
    store, entries = FeatureStore(folder), []
    with store.writer(max_shard_bytes=5000) as writer:
        for index in range(count):
            entry = Entry(f"tile_{index}", record_key(sample=index), {})
            writer.put(entry.sample_key, make_sample(index, height, width))
            for name in VIEWS:
                entry.records[name] = {"backbone": record_key(features=index, view=name)}
                writer.put(entry.records[name]["backbone"], make_maps(index, name, dtype))
            entries.append(entry)
    return PrecomputedDataset(store, entries, fields=FIELDS, **options)


@pytest.mark.parametrize("view_name", VIEWS)
def test_an_item_is_laid_down_in_its_view_and_has_that_views_own_maps(tmp_path, view_name):
    dataset = make_dataset(tmp_path, height=4, width=6)
    assert len(dataset) == 4
    item, sample, view = dataset[2, view_name], make_sample(2, 4, 6), View.from_name(view_name)
    for name in ("image", "elevation"):
        assert np.array_equal(item[name].permute(1, 2, 0).numpy(), view.apply(sample[name]))
    for name in ("label", "valid"):
        assert np.array_equal(item[name].numpy(), view.apply(sample[name]))
    assert item["valid"].dtype == torch.bool
    assert np.array_equal(item["bounds"].numpy(), sample["bounds"])
    assert (item["sample_id"], item["view"]) == ("tile_2", view_name)
    expected = list(make_maps(2, view_name, "fp16").values())
    assert len(item["feature_maps"]) == 11
    assert all(torch.equal(*pair) for pair in zip(item["feature_maps"], expected, strict=True))


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_batch_equals_its_items(tmp_path, dtype):
    dataset = make_dataset(tmp_path, dtype=dtype)
    requests = [(3, "rot90"), (0, "identity"), (3, "hflip"), (1, "identity"), (3, "rot90")]
    batch, items = dataset.read(requests), [dataset[request] for request in requests]
    for name in ("image", "label", "valid", "elevation", "bounds"):
        assert torch.equal(batch[name], torch.stack([item[name] for item in items]))
        assert batch[name].is_contiguous()
    for number, stacked in enumerate(batch["feature_maps"]):
        assert torch.equal(stacked, torch.stack([item["feature_maps"][number] for item in items]))
    assert batch["sample_id"] == [item["sample_id"] for item in items]
    assert batch["view"] == [name for _, name in requests]
    assert batch["image"].shape == (5, 3, 6, 6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_any_number_of_channels_is_put_first(channels, dtype):
    image = torch.randint(0, 100, (3, 5, 7, channels), generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = image.permute(0, 3, 1, 2)
    for rows in (image, list(image.numpy())):
        stacked = collate(FIELDS, {"image": rows})[0]["image"]
        assert torch.equal(stacked, expected)
        assert stacked.is_contiguous()


def test_a_batch_of_nothing_has_the_shapes_of_the_others(tmp_path):
    dataset = make_dataset(tmp_path)
    empty, full = dataset.read([]), dataset.read([(0, "identity")])
    assert empty.keys() == full.keys()
    for name in ("image", "label", "valid", "bounds"):
        assert empty[name].shape == (0, *full[name].shape[1:])
        assert empty[name].dtype == full[name].dtype
    assert [maps.shape for maps in empty["feature_maps"]] == [(0, 4 + number, 2, 3) for number in range(11)]
    assert empty["sample_id"] == []
    with pytest.raises(DataError, match="the data set has no samples"):
        PrecomputedDataset(dataset.store, []).read([])


def test_a_view_that_is_not_stored_is_named_unless_no_features_are_used(tmp_path):
    dataset = make_dataset(tmp_path)
    with pytest.raises(DataError, match="sample tile_1: no features of view 'vflip' are stored; stored: identity, hfl"):
        dataset.read([(0, "identity"), (1, "vflip")])
    with pytest.raises(ValueError, match="unknown view 'upside'"):
        dataset.read([(0, "upside")])
    plain = PrecomputedDataset(dataset.store, dataset.entries, use_features=False, fields=FIELDS)
    item = plain[1, "vflip"]
    assert item["feature_maps"] == []
    assert np.array_equal(item["label"].numpy(), make_sample(1, 6, 6)["label"][::-1])


def test_pictures_of_several_sizes_are_padded_together_and_valid_says_where(tmp_path):
    """The second picture is turned by a quarter: 6 x 4 beside 4 x 6 pixels."""
    dataset = make_dataset(tmp_path, height=4, width=6, use_features=False)
    assert dataset.read([(0, "rot90"), (1, "rot90")])["image"].shape == (2, 3, 6, 4)
    batch, plain, turned = (
        dataset.read(asked) for asked in ([(0, "hflip"), (1, "rot90")], [(0, "hflip")], [(1, "rot90")])
    )
    assert batch["image"].shape == (2, 3, 6, 6)
    for name, fill in (("image", None), ("label", 255), ("valid", False)):
        assert torch.equal(batch[name][0, ..., :4, :], plain[name][0])
        assert torch.equal(batch[name][1, ..., :4], turned[name][0])
        if fill is not None:
            assert (batch[name][0, 4:] == fill).all()
            assert (batch[name][1, :, 4:] == fill).all()
    assert torch.equal(batch["image"][1, ..., 4:], turned["image"][0][..., [2, 1]]), "the picture is reflected"


def test_maps_of_padded_pictures_are_padded_by_cells(tmp_path):
    """Pictures of 4 x 6 and 8 x 5 pixels have maps of 1 x 2 and 2 x 2 cells of 4 pixels."""
    store, sizes = FeatureStore(tmp_path), [(4, 6), (8, 5)]
    maps = [torch.rand(3, 1, 2), torch.rand(3, 2, 2)]
    with store.writer() as writer:
        for index, size in enumerate(sizes):
            writer.put(f"{index:08x}", {"image": torch.zeros(*size, 3, dtype=torch.uint8)})
            writer.put(f"{index + 9:08x}", {"map_0": maps[index]})
    entries = [Entry(str(i), f"{i:08x}", {"identity": {"backbone": f"{i + 9:08x}"}}) for i in range(2)]
    dataset = PrecomputedDataset(store, entries)
    refs = [SampleRef(0, padded=(8, 9)), SampleRef(1, padded=(8, 9))]
    [padded] = dataset.read_maps(refs, sizes, cell=4)
    assert padded.shape == (2, 3, 2, 3)
    assert torch.equal(padded[0], maps[0][:, [0, 0]][..., [0, 1, 0]])
    assert torch.equal(padded[1], maps[1][..., [0, 1, 0]])
    assert dataset.read_maps([SampleRef(0)])[0].shape == (1, 3, 1, 2)


def make_boxes(index, count):
    corners = np.random.default_rng(index).integers(0, 4, (count, 2)).astype(np.float32)
    return np.concatenate([corners, corners + 2], axis=1)


@pytest.mark.parametrize("counts", [(0, 3, 1), (2, 2, 2), (0, 0, 0)])
def test_boxes_and_points_of_any_number_travel_through_the_store_as_lists(counts, tmp_path):
    fields = {"image": Image(), "boxes": Boxes(), "points": Points(), "classes": Values(ragged=True)}
    store = FeatureStore(tmp_path)
    with store.writer() as writer:
        for index, count in enumerate(counts):
            boxes = make_boxes(index, count)
            arrays = {"image": np.zeros((4, 6, 3), np.uint8), "boxes": boxes, "points": boxes[:, :2]}
            writer.put(f"{index:08x}", {**arrays, "classes": np.arange(count)})
    dataset = PrecomputedDataset(store, [Entry(str(i), f"{i:08x}") for i in range(3)], False, fields)
    batch = dataset.read([(0, "identity"), (1, "hflip"), (2, "identity")])
    assert batch["image"].shape == (3, 3, 4, 6)
    assert [len(boxes) for boxes in batch["boxes"]] == [len(classes) for classes in batch["classes"]] == list(counts)
    for index, flip in ((0, False), (1, True), (2, False)):
        boxes = make_boxes(index, counts[index])
        points = boxes[:, :2] * [-1, 1] + [6, 0] if flip else boxes[:, :2]
        expected = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [6, 0, 6, 0] if flip else boxes
        assert np.array_equal(batch["boxes"][index].numpy(), expected)
        assert np.array_equal(batch["points"][index].numpy(), points)
        assert batch["boxes"][index].dtype == torch.float32
    assert [value[:0] for value in (dataset.read([])["boxes"],)] == [[]]


def test_stored_arrays_are_read_straight_into_the_batch(tmp_path, monkeypatch):
    """Labels of equal shapes and maps come in the tensors that the store has filled: no copy follows."""
    dataset = make_dataset(tmp_path)
    filled, read_batch = [], FeatureStore.read_batch

    def watch(store, *arguments):
        filled.append(read_batch(store, *arguments))
        return filled[-1]

    monkeypatch.setattr(FeatureStore, "read_batch", watch)
    batch = dataset.read([(0, "identity"), (1, "identity")])
    assert batch["label"] is filled[0]["label"]
    assert batch["valid"] is filled[0]["valid"]
    assert batch["feature_maps"][10] is filled[1]["map_10"]


def test_a_field_without_a_kind_and_an_array_that_is_missing_are_named(tmp_path):
    dataset = make_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"field .(bounds|elevation). has no kind; declared: image, label, valid"):
        PrecomputedDataset(dataset.store, dataset.entries).read([(0, "identity")])
    with dataset.store.writer() as writer:
        writer.put("ab" * 8, {"image": np.zeros((4, 6, 3), np.uint8)})
        writer.put("cd" * 8, {"image": np.zeros((4, 5, 3), np.float32)})
    entries = [dataset.entries[0], Entry("b", "ab" * 8), Entry("c", "cd" * 8)]
    mixed = PrecomputedDataset(dataset.store, entries, False, FIELDS)
    with pytest.raises(DataError, match=r"'\w+' is .* and absent; run prepare again"):
        mixed.read([(0, "identity"), (1, "identity")])
    with pytest.raises(DataError, match=r"'image' is .*uint8\) and .*float32"):
        mixed.read([(1, "identity"), (2, "identity")])


def test_sample_and_features_may_share_a_record(tmp_path):
    store = FeatureStore(tmp_path)
    key = record_key(all=1)
    with store.writer() as writer:
        writer.put(
            key, {"label": np.zeros((2, 3), np.uint8), "map_0": torch.ones(1, 2, 3), "map_1": torch.zeros(2, 1, 1)}
        )
    batch = PrecomputedDataset(store, [Entry("a", key, {"hflip": {"backbone": key}})]).read([(0, "hflip")])
    assert batch.keys() == {"label", "sample_id", "view", "feature_maps"}
    assert [maps.shape for maps in batch["feature_maps"]] == [(1, 1, 2, 3), (1, 2, 1, 1)]


def test_a_loader_with_workers_gives_the_same(tmp_path):
    dataset = make_dataset(tmp_path)
    requests = [(position, name) for position in range(4) for name in VIEWS]
    loader = DataLoader(dataset, batch_size=4, sampler=requests, num_workers=2, multiprocessing_context="fork")
    labels = torch.cat([batch["label"] for batch in loader])
    assert torch.equal(labels, dataset.read(requests)["label"])


def test_a_batch_does_not_change_while_later_ones_are_read(tmp_path):
    dataset = make_dataset(tmp_path, count=6, height=300, width=300)
    requests = [[(position, "hflip")] for position in range(6)] * 3
    with ThreadPoolExecutor(1) as pool:  # as the phases read ahead: in another thread
        batches = pool.map(dataset.read, requests)
        images = [(request[0][0], batch["image"][0]) for request, batch in zip(requests, batches, strict=True)]
    for position, image in images:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), make_sample(position, 300, 300)["image"][:, ::-1])
