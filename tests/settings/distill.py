"""Probes of distillation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.example import SETTINGS, tiny_backbone
from tests.settings import looks
from tests.settings.probe import Probe
from tests.settings.segmentation import deepen, make_virtual, rewrite, values_of, whiten
from tests.settings.stage import prepared


def add_root(folder: Path) -> None:
    """Add a data root with two pictures."""
    (folder / "root" / "pictures").mkdir(parents=True)
    for number in range(2):
        name = f"pictures/photo_{number}.png"
        (folder / "root" / name).write_bytes((folder / name).read_bytes())


def split_bands(folder: Path) -> None:
    """Put the bands of the raster in files of their own, away from the pictures."""
    values = values_of(folder / "pictures" / "scene.tif")
    (folder / "bands").mkdir()
    for number in range(3):
        path = folder / "bands" / f"B0{number}.tif"
        path.write_bytes((folder / "pictures" / "scene.tif").read_bytes())
        rewrite(path, values[number : number + 1], photometric="minisblack")


def probed(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The scores of evaluate, where the settings of a labelled task stand in probe.yml."""
    text = SETTINGS.format(folder=prepared("segmentation"), backbone=tiny_backbone())
    (folder / "probe.yml").write_text(text)
    return looks.scored(kind, folder, ("evaluate.pictures=0", *overrides))


CARD = "[{name: reef, licence: CC0}]"
PROBED = ("distill.probe.config={folder}/probe.yml",)

DISTILL: dict[str, Probe] = {
    "kind": Probe(looks.chosen, "segmentation", ("kind=distill",)),
    "paths.data_root": Probe(
        looks.read, "{folder}/root", ("paths.raw_images_dir=pictures", "paths.data_root={folder}"), change=add_root
    ),
    "dataset.value_range": Probe(looks.read, "[0.0, 100.0]"),
    "dataset.percentiles": Probe(looks.read, "[20.0, 80.0]", change=deepen),
    "dataset.nodata": Probe(looks.read, "255", change=whiten),
    "dataset.max_pixels": Probe(looks.read, "10", refuses="pixels"),  # a limit: all it can do is refuse
    "dataset.allow_vrt": Probe(
        looks.read, "false", ("dataset.allow_vrt=true",), refuses="a virtual raster", change=make_virtual
    ),
    "model.head": Probe(looks.learnt_anew, "convnext", ("model.head_options={}",)),
    "model.head_options": Probe(looks.learnt, "{width: 24, depth: 2, heads: 2, registers: 1, patch_size: 8}"),
    "evaluate.inputs": Probe(looks.scored, "{data}/pictures/photo_0.png"),
    "export.enable": Probe(looks.commanded, "true"),
    "export.checkpoint": Probe(looks.exported, "{model}", ("export.checkpoint=null",)),
    "export.output_dir": Probe(looks.exported, "{folder}/out"),
    "distill.crop": Probe(looks.read, "64"),
    "distill.zooms": Probe(looks.read, "[1.0]"),
    "distill.crops": Probe(looks.read, "1"),
    "distill.block": Probe(looks.read, "32"),
    "distill.frame_step": Probe(looks.read, "1"),
    "distill.max_frames": Probe(looks.read, "2"),
    "distill.exclude": Probe(looks.read, "[photo_0.png]"),
    "distill.bands": Probe(looks.read, "{'scene.tif': [3, 2, 1]}"),
    "distill.stacks": Probe(
        looks.read, "[[{folder}/bands/B02.tif, {folder}/bands/B01.tif, {folder}/bands/B00.tif]]", change=split_bands
    ),
    "distill.student_scales": Probe(looks.learnt, "[0.5]"),
    "distill.loss.cosine": Probe(looks.learnt, "0.1"),
    "distill.loss.smooth_l1": Probe(looks.learnt, "0.1"),
    "distill.loss.relation": Probe(looks.learnt, "1.0"),
    "distill.probe.config": Probe(probed, "{folder}/probe.yml"),
    "distill.probe.overrides": Probe(probed, "[prepare.tile_size=16]", PROBED),
    "distill.card.licence": Probe(looks.exported, "mine"),
    "distill.card.origin": Probe(looks.exported, "from here"),
    "distill.card.sources": Probe(looks.exported, CARD),
}
