"""Writing Pascal VOC data sets, each XML file beside its picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax import saxutils

import numpy as np

from utils.formats import specs
from utils.formats.box_rules import box_of_instance, cut_to_picture
from utils.formats.pictures import new_names
from utils.formats.sets import list_lost, place_pictures, shared_skeletons
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance
from utils.formats.voc.read import CORNERS, FLAGS
from utils.media.picture_sizes import picture_size
from utils.runtime.files import write_bytes

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def write_voc(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write a Pascal VOC data set: data.yaml, and in a folder for each split every picture with its XML file beside it.

    VOC counts pixels from 1 and includes the last one: a box (x1, y1, x2, y2) becomes xmin = x1 + 1, ymin = y1 + 1,
    xmax = x2, ymax = y2, each rounded to whole pixels, as most readers take nothing else. A crowd is difficult.
    Pictures are given a second name (a hard link) where the system allows it, else copied.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        The specification first, then the XML files.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import Skeleton
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> cow = Instance("cow", box_xyxy=np.array([0.0, 1, 4, 3]))
    >>> picture = AnnotatedPicture("a", folder / "a.png", (4, 6), (cow,))
    >>> written = write_voc({"train": AnnotationSet([picture], {"cow": Skeleton(())})}, folder / "new")
    >>> [path.relative_to(folder).as_posix() for path in written]
    ['new/data.yaml', 'new/train/a.xml']
    >>> "<xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>3</ymax>" in written[1].read_text()
    True
    """
    folder, skeletons = Path(folder), shared_skeletons(sets)
    images = {split: [folder / split / name for name in new_names(part.pictures)] for split, part in sets.items()}
    labels = [image.with_suffix(".xml") for part in images.values() for image in part]
    place_pictures(folder, sets, images, labels, [folder / split for split in sets])
    for split, part in sets.items():
        for picture, image in zip(part.pictures, images[split], strict=True):
            write_bytes(image.with_suffix(".xml"), voc_text(picture, image.name).encode())
    keys = {"format": "voc", "path": ".", **{split: split for split in sets}, "names": dict(enumerate(skeletons))}
    return [specs.write_spec(folder / "data.yaml", keys), *labels]


def voc_text(picture: AnnotatedPicture, name: str, scores: bool = False) -> str:
    """The XML file of a picture.

    Parameters
    ----------
    picture : AnnotatedPicture
        Its instances; those without a box or outline in the picture are left out.
    name : str
        File name of the picture.
    scores : bool
        Whether scores are written, which make predictions of the objects.

    Examples
    --------
    >>> cow = Instance("a<b", box_xyxy=np.array([0.25, 1, 4, 3]), is_crowd=True, score=0.5)
    >>> print(voc_text(AnnotatedPicture("a", Path("a.png"), (4, 6), (cow,)), "a.png", scores=True), end="")
    <annotation>
      <filename>a.png</filename>
      <size><width>6</width><height>4</height><depth>3</depth></size>
      <object><name>a&lt;b</name><pose>Unspecified</pose><truncated>0</truncated><occluded>0</occluded>\
<difficult>1</difficult><score>0.5</score><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>3</ymax></bndbox></object>
    </annotation>
    """
    height, width = picture.size or picture_size(picture.path)
    kept = [instance for instance in picture.instances if _writable(instance, picture)]
    objects = [_object(instance, (height, width), instance.score if scores else None) for instance in kept]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    lines = [f"<filename>{escape(name)}</filename>", size, *objects]
    return "\n".join(["<annotation>", *(f"  {line}" for line in lines), "</annotation>", ""])


def escape(text: str) -> str:
    r"""Write text for XML; control characters, which XML 1.0 cannot hold, become "_".

    Examples
    --------
    >>> escape("a<b\x1b[2J")
    'a&lt;b_[2J'
    """
    return saxutils.escape(_CONTROLS.sub("_", text))


def _writable(instance: Instance, picture: AnnotatedPicture) -> bool:
    """Whether an instance has a box in its picture.

    Examples
    --------
    >>> _writable(Instance("cow"), AnnotatedPicture("a", Path("a.png"), (4, 6), ()))
    False
    """
    try:
        cut_to_picture(box_of_instance(instance), picture.size)
    except ValueError:
        return False
    return True


def _object(instance: Instance, size: tuple[int, int], score: float | None = None) -> str:
    """The element of one object.

    Examples
    --------
    >>> _object(Instance("cow", box_xyxy=np.array([5.6, 1, 9, 2])), (4, 6))[-82:]
    '<bndbox><xmin>6</xmin><ymin>2</ymin><xmax>6</xmax><ymax>2</ymax></bndbox></object>'
    """
    corners = pixel_corners(cut_to_picture(box_of_instance(instance), size))
    flags = {name: _is_set(instance.tags.get(name)) for name in ("truncated", "occluded")}
    flags["difficult"] = instance.is_crowd
    pose = escape(str(instance.extra.get("pose", "Unspecified")))
    parts = [f"<name>{escape(instance.category)}</name>", f"<pose>{pose}</pose>"]
    parts += [f"<{name}>{int(bool(value))}</{name}>" for name, value in flags.items()]
    parts += [] if score is None else [f"<score>{score:.6g}</score>"]
    box = "".join(f"<{name}>{value}</{name}>" for name, value in zip(CORNERS, corners, strict=True))
    return f"<object>{''.join(parts)}<bndbox>{box}</bndbox></object>"


def _is_set(tag: object) -> bool | None:
    """Whether a tag that is a flag is set; None where it says neither, as a text of its own.

    Examples
    --------
    >>> [_is_set(tag) for tag in (None, True, 0, "false", "1", "partly")]
    [False, True, False, False, True, None]
    """
    text = str(tag).strip().lower()
    return True if text in ("true", "1", "1.0") else False if text in ("false", "0", "0.0", "none", "") else None


def pixel_corners(box_xyxy: np.ndarray) -> list[int]:
    """First and last pixels of a box (4,), counted from 1: xmin, ymin, xmax, ymax; a pixel wide and high at least.

    Examples
    --------
    >>> pixel_corners(np.array([0.0, 10.4, 30.0, 10.6]))
    [1, 11, 30, 11]
    """
    first = np.floor(box_xyxy[:2] + 0.5).astype(int) + 1
    last = np.maximum(np.floor(box_xyxy[2:] + 0.5).astype(int), first)
    over = np.maximum(last - np.ceil(box_xyxy[2:]).astype(int), 0)  # a thin box at the far edge stays in the picture
    return [*(first - over).tolist(), *(last - over).tolist()]


def unsupported(annotations: AnnotationSet) -> list[str]:
    """List what Pascal VOC cannot hold of a set.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> cows = tuple(Instance("cow", box_xyxy=np.array(box)) for box in ([0.0, 1, 4, 3], [0.5, 1, 4, 3]))
    >>> unsupported(AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), cows)], {}))
    ['parts of pixels (rounded): 1 of 2 instances']
    """
    known = {*FLAGS}
    tests = {
        "neither box nor outline (left out)": lambda i: i.box_xyxy is None and not i.polygons and i.mask is None,
        "parts of pixels (rounded)": lambda i: i.box_xyxy is not None and bool((i.box_xyxy % 1).any()),
        "other tags than truncated, occluded and difficult": lambda i: bool(i.tags.keys() - known),
        "truncated or occluded as neither 0 nor 1 (written as 0)": lambda i: (
            None in (_is_set(i.tags.get("truncated")), _is_set(i.tags.get("occluded")))
        ),
        "other extra facts than pose": lambda i: bool(i.extra.keys() - {"pose"}),
    }
    kept: Sequence[str] = ("boxes", "is_crowd", "tags", "extra facts")
    return list_lost(annotations, kept, tests)
