"""CVAT: an XML file of version 1.1, for images or for video.

Points and boxes count pixels from the outer corner of the top-left pixel, as they stand. A box that is turned and an
ellipse become outlines. A larger `z_order` lies nearer; of equal ones, later on earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats import specs
from utils.formats.coco.files import find_image
from utils.formats.cvat.files import find_files, picture_folders, split_of_subset
from utils.formats.cvat.instances import Fault, join_shapes, read_shapes
from utils.formats.cvat.labels import Labels, join_labels, read_labels
from utils.formats.cvat.tracks import Track, frame_pictures, place_tracks, read_track
from utils.formats.elements import Element, XmlError, parse_xml
from utils.formats.moved import parts_of
from utils.formats.pictures import picture_ids
from utils.formats.sets import find_unlabelled, finish_sets, size_problems
from utils.formats.text_files import read_data, refuse_long_lists
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem, Skeleton
from utils.media.picture_sizes import picture_size

_MEND = "mend or remove the shape"


def read_cvat(
    path: str | Path, root: str | Path | None = None, need_keypoints: bool = False
) -> dict[str, AnnotationSet]:
    r"""Read CVAT labels: boxes, outlines, lines, masks and skeletons of pictures, or tracks over the frames of a video.

    Of one label and group (`group_id`), polygons, masks, lines, a box and a skeleton are one object. Attributes are
    tags, `occluded` is one too, `tag` elements are tags of the picture. An image without a shape says that there is
    nothing. An attribute such as confidence is a score where `source` does not say that a person drew the shape, and
    it is not the label's default. Of a skeleton, points that are outside are missing.

    Parameters
    ----------
    path : str or Path
        An XML file, a folder of them, or a specification (YAML with `format: cvat`, and `train`, `val`, `test` or
        `all`).
    root : str or Path, optional
        Data root, which no name may leave: by default the folder, or the file's folder.
    need_keypoints : bool
        Whether labels of which none is a skeleton are refused.

    Returns
    -------
    dict of str to AnnotationSet
        By split: of a subset of CVAT (Train, Validation, Test), else of a folder or the name of the file.

    Raises
    ------
    DataError
        If nothing can be read. A single bad shape is skipped and becomes a Problem with file and line.

    References
    ----------
    CVAT's manual, XML annotation format, version 1.1.

    Examples
    --------
    >>> import tempfile, cv2, numpy as np
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((4, 6), np.uint8))
    >>> shapes = '<polygon label="cow" points="1,1;4,1;4,3" z_order="2"/>\n<box label="cow" xtl="x"/>'
    >>> text = f'<annotations><image id="0" name="a.png" width="6" height="4">{shapes}</image></annotations>'
    >>> _ = (folder / "annotations.xml").write_text(text)
    >>> part = read_cvat(folder)["all"]
    >>> part.pictures[0].instances[0].polygons[0].tolist(), part.pictures[0].instances[0].z_order
    ([[1.0, 1.0], [4.0, 1.0], [4.0, 3.0]], 2)
    >>> str(part.problems[0])  # doctest: +ELLIPSIS
    ".../annotations.xml:2: expected finite numbers as xtl, ytl, xbr, ybr, got 'x', '', '', ''; mend or remove ..."
    """
    path = Path(path)
    spec = specs.read_spec(path, root) if path.suffix.lower() in specs.SUFFIXES else None
    base = spec.root if spec else Path(root) if root is not None else path if path.is_dir() else path.parent
    problems: list[Problem] = specs.find_misspelled(spec) if spec else []
    found = find_files(path, spec)
    files = [_read_file(file, split, base, problems) for split, part in found.items() for file in part]
    labels = join_labels(str(path), (file.labels for file in files))
    pages = [page for file in files for page in file.pages]
    if not pages:
        first = f"; first: {problems[0]}" if problems else ""
        raise DataError(f"{path}: no picture of the CVAT labels can be used{first}")
    _name_categories(labels, pages)
    if need_keypoints and not any(skeleton.num_keypoints for skeleton in labels.skeletons.values()):
        names = ", ".join(labels.skeletons) or "there is none"
        raise DataError(f"{path}: no label is a skeleton ({names}); name labels that have keypoints")
    ids = picture_ids((page.path for page in pages), base)
    sets = {
        split: AnnotationSet([], dict(labels.skeletons), []) for split in dict.fromkeys(page.split for page in pages)
    }
    _fill(sets, pages, ids)
    named = {name for file in files for name in file.unusable}
    cure = "add an image without shapes where there is no object"
    notes = [*_programs(files), *find_unlabelled(path, ids, "an image in the file", cure, named)]
    return finish_sets({split: sets[split] for split in sorted(sets, key=_order)}, problems, notes)


def _order(split: str) -> int:
    """Place of a split among train, val, test and all.

    Examples
    --------
    >>> sorted(["all", "val", "train"], key=_order)
    ['train', 'val', 'all']
    """
    return ("train", "val", "test", "all").index(split)


@dataclass(frozen=True)
class _Page:
    """An image of a file with its picture.

    Examples
    --------
    >>> _Page(Path("a.png"), (4, 6), "all", "a.xml:3", ("4", "6"), ()).faults
    ()
    """

    path: Path
    size: tuple[int, int]
    split: str
    where: str
    stated: tuple[str | None, str | None]
    instances: tuple[Instance, ...]
    tags: dict[str, Any] = field(default_factory=dict)
    faults: Sequence[Fault] = ()


@dataclass
class _File:
    """A CVAT file, as far as it is read.

    Examples
    --------
    >>> _File(Path("a.xml"), "all", Path(".")).pages
    []
    """

    path: Path
    split: str
    root: Path
    problems: list[Problem] = field(default_factory=list)
    labels: Labels = field(default_factory=Labels)
    pages: list[_Page] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)  # names of pictures that are left out, with a problem
    by_program: int = 0  # shapes that no person has drawn or changed
    frame_size: tuple[str | None, str | None] = (None, None)
    subset: str | None = None  # of images and tracks that do not state theirs, as in the export of a task

    def visit(self, element: Element) -> None:
        """Take an element of the file.

        Raises
        ------
        DataError
            If the labels that it declares contradict each other.

        Examples
        --------
        >>> file = _File(Path("a.xml"), "all", Path("."))
        >>> file.visit(Element("image", 3, attributes={"name": "no.png"}))
        >>> str(file.problems[0])
        'a.xml:3: no such picture: no.png; put it there; paths.data_root is where pictures are looked for'
        """
        if element.name == "meta":
            self.labels = read_labels(str(self.path), element)
            self.frame_size = _frame_size(element)
            self.subset = _subset(element)
        elif element.name == "image":
            self._add_image(element)
        elif element.name == "track":
            self.by_program += element.attributes.get("source") == "auto"
            try:
                self.tracks.append(read_track(element))
            except ValueError as error:
                where = f"{self.path}:{element.line}"
                raise DataError(f"{where}: {error}; mend or remove the track, which may be in every frame") from None

    def _add_image(self, element: Element) -> None:
        """Add an image with its shapes, or the problem that keeps it out.

        Examples
        --------
        >>> file = _File(Path("a.xml"), "all", Path("."))
        >>> file._add_image(Element("image", 3))
        >>> file.problems[0].what
        'no name of the image'
        """
        keys, where = element.attributes, f"{self.path}:{element.line}"
        name, subset = keys.get("name", ""), keys.get("subset", self.subset)
        if not name.strip():
            self.problems.append(Problem(where, "no name of the image", "name its picture, or remove it"))
            return
        what, cure = f"no such picture: {name}", "put it there; paths.data_root is where pictures are looked for"
        try:
            written = f"./{name}" if name.startswith(" ") else name  # of paths, blanks at the ends do not count
            picture = find_image(written, picture_folders(self.path, subset, self.root), self.root)
            if picture is None:
                raise ValueError(what)
            size = picture_size(picture)
        except ValueError as error:
            self.problems.append(Problem(where, str(error), "" if isinstance(error, DataError) else cure))
            self.unusable.update(parts_of(name)[-1:])
            return
        faults: list[Fault] = []
        shapes = read_shapes(element.children, size, self.labels, faults)
        self.by_program += sum(child.attributes.get("source") == "auto" for child in element.children)
        split = split_of_subset(subset, self.split)
        instances = join_shapes(shapes, size, self.labels)
        stated = keys.get("height"), keys.get("width")
        tags = _picture_tags(element)
        self.pages.append(_Page(picture, size, split, where, stated, instances, tags, faults))

    def add_frames(self) -> None:
        """Add the frames of the tracks, with what is in each.

        Raises
        ------
        DataError
            If the frames are not there.

        Examples
        --------
        >>> file = _File(Path("/no/such/a.xml"), "all", Path("/no/such"), tracks=[Track(0, "cow", 0, None, [])])
        >>> file.add_frames()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: /no/such/a.xml: tracks of a video, and none of its frames (frame_000000.png) is in ...
        """
        for stated in dict.fromkeys(track.subset for track in self.tracks):
            tracks, subset = [track for track in self.tracks if track.subset == stated], stated or self.subset
            pictures = frame_pictures(self.path, picture_folders(self.path, subset, self.root))
            sizes = {frame: picture_size(picture) for frame, picture in pictures.items()}
            placed = place_tracks(str(self.path), tracks, sizes, self.labels, self.problems)
            for frame, picture in pictures.items():
                found = placed.get(frame)
                instances, faults = found if found else ((), ())
                split = split_of_subset(subset, self.split)
                where = f"{self.path}: frame {frame}"
                page = _Page(picture, sizes[frame], split, where, self.frame_size, instances, {}, faults)
                self.pages.append(page)


def _read_file(path: Path, split: str, root: Path, problems: list[Problem]) -> _File:
    """Read a CVAT file, image by image.

    Raises
    ------
    DataError
        If it is no CVAT file, or is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.xml"
    >>> _ = path.write_text("<annotation/>")
    >>> _read_file(path, "all", path.parent, [])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.xml: expected an element annotations as CVAT has, got annotation
    """
    data = read_data(path)
    if not data.strip():
        raise DataError(f"{path}: an empty file; export the labels again")
    refuse_long_lists(path, data, b"\"'<>")
    file = _File(path, split, root, problems)
    try:
        content = parse_xml(data, file.visit)
    except XmlError as error:
        raise DataError(f"{path}:{error}") from None
    if content.name != "annotations":
        raise DataError(f"{path}: expected an element annotations as CVAT has, got {content.name[:60]}")
    if file.tracks:
        file.add_frames()
    return file


def _frame_size(meta: Element) -> tuple[str | None, str | None]:
    """Height and width of the frames of a video, as its head states them.

    Examples
    --------
    >>> text = "<meta><job><original_size><width>6</width><height>4</height></original_size></job></meta>"
    >>> _frame_size(parse_xml(text)), _frame_size(parse_xml("<meta/>"))
    (('4', '6'), (None, None))
    """
    for element in (meta, *meta.children):
        size = element.find("original_size")
        if size is not None:
            return size.text_of("height"), size.text_of("width")
    return None, None


def _subset(meta: Element) -> str | None:
    """The subset that the head of a task's or job's file states.

    Examples
    --------
    >>> _subset(parse_xml("<meta><task><name>reef</name><subset>Train</subset></task></meta>"))
    'Train'
    >>> _subset(parse_xml("<meta><project><subsets>Train</subsets></project></meta>")) is None
    True
    """
    return next((text for element in (meta, *meta.children) if (text := element.text_of("subset"))), None)


def _picture_tags(image: Element) -> dict[str, Any]:
    """The tags of an image: True, or their attributes.

    Examples
    --------
    >>> text = '<image><tag label="blurred"/><tag label="day"><attribute name="part">noon</attribute></tag></image>'
    >>> _picture_tags(parse_xml(text))
    {'blurred': True, 'day': {'part': 'noon'}}
    """
    found: dict[str, Any] = {}
    for tag in image.find_all("tag"):
        facts = {part.attributes.get("name", ""): part.text.strip() for part in tag.find_all("attribute")}
        found[tag.attributes.get("label", "")] = facts or True
    return found


def _name_categories(labels: Labels, pages: Sequence[_Page]) -> None:
    """Give labels that no file declares a place behind the others, sorted.

    Examples
    --------
    >>> labels = Labels()
    >>> objects = Instance("cow"), Instance("ant")
    >>> _name_categories(labels, [_Page(Path("a.png"), (4, 6), "all", "", (None, None), objects)])
    >>> list(labels.skeletons)
    ['ant', 'cow']
    """
    found = {instance.category for page in pages for instance in page.instances}
    for name in sorted(found - labels.skeletons.keys()):
        labels.skeletons[name] = Skeleton(())


def _fill(sets: Mapping[str, AnnotationSet], pages: Sequence[_Page], ids: Mapping[Path, str]) -> None:
    """Add pictures to their splits, and the problems of their shapes.

    Examples
    --------
    >>> sets = {"all": AnnotationSet([], {})}
    >>> pages = [_Page(Path("a.png"), (4, 6), "all", "a.xml:3", ("4", "9"), (), {}, [(5, "no box")])] * 2
    >>> _fill(sets, pages, {Path("a.png"): "a"})
    >>> print(*sets["all"].problems, sep="; ")
    a.xml:5: no box; mend or remove the shape; a.xml:3: height x width is 4 x 9, the picture is 4 x 6; label the \
picture as it is now; a.xml:3: a.png is labelled by a.xml:3 too; this image and its 0 objects are left out; keep one \
of them
    """
    taken: dict[tuple[str, Path], str] = {}
    for page in pages:
        annotations, id = sets[page.split], ids[page.path]
        key = page.split, page.path
        file = page.where.rpartition(": frame ")[0] or page.where.rpartition(":")[0]
        if key in taken:
            what = f"{page.path} is labelled by {taken[key]} too"
            what += f"; this image and its {len(page.instances)} objects are left out"
            annotations.problems.append(Problem(page.where, what, "keep one of them", id, lost=True))
            continue
        taken[key] = page.where
        problems = [Problem(f"{file}:{line}", what, _MEND, id, lost=True) for line, what in page.faults]
        picture = AnnotatedPicture(id, page.path, page.size, page.instances, {}, page.tags)
        problems += size_problems(page.where, "height x width", page.stated, picture)
        annotations.problems += problems
        annotations.pictures.append(picture)


def _programs(files: Sequence[_File]) -> list[Problem]:
    """A note on shapes that a program has made and no person has changed, as CVAT says.

    Examples
    --------
    >>> [problem] = _programs([_File(Path("a.xml"), "all", Path("."), by_program=3)])
    >>> print(problem)
    a.xml: source is auto for 3 shapes: a program made them and nobody changed them; they are read as labels; \
look at them
    """
    return [
        Problem(
            str(file.path),
            f"source is auto for {file.by_program} shapes: a program made them and nobody changed them; they are read "
            "as labels",
            "look at them",
            blocks=False,
        )
        for file in files
        if file.by_program
    ]
