"""What labels hold, before anybody has said what it means: values, colours and attributes with their shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.raster.class_table import class_key
from utils.raster.files import RasterFile
from utils.raster.raster_labels import whole_windows
from utils.raster.vector_files import (
    describe_truncated,
    layers_with_places,
    missing_parts,
    read_areas,
    read_attributes,
    read_layer_info,
)

MOST_VALUES = 254  # classes of 8-bit labels


@dataclass
class MaskSurvey:
    """Values of label rasters.

    Parameters
    ----------
    values : Counter
        Pixels of each value.
    colours : Counter
        Pixels of each (red, green, blue).
    hidden : int
        Pixels that the files declare as nodata.

    Examples
    --------
    >>> MaskSurvey(Counter({0: 3, 7: 1})).shares()
    [('0', 0.75), ('7', 0.25)]
    """

    values: Counter[int] = field(default_factory=Counter)
    colours: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    hidden: int = 0

    def shares(self) -> list[tuple[str, float]]:
        """Each value or colour with its share of all labelled pixels, in order of value.

        Examples
        --------
        >>> MaskSurvey(colours=Counter({(0, 0, 255): 2, (0, 0, 0): 2})).shares()
        [('[0, 0, 0]', 0.5), ('[0, 0, 255]', 0.5)]
        """
        counts: Counter = self.colours or self.values
        total = sum(counts.values())
        return [(str(list(key)) if isinstance(key, tuple) else str(key), counts[key] / total) for key in sorted(counts)]


def survey_masks(paths: Sequence[Path]) -> MaskSurvey:
    """Count the values of label rasters; of large ones, those of 64 windows.

    Parameters
    ----------
    paths : sequence of Path
        Rasters or pictures with one band, or three bands of colours.

    Raises
    ------
    DataError
        If a file cannot be read, some have colours and others values, or there are more values than classes can be.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> survey_masks([Path(raster_file("l.tif", np.uint8([[0, 0, 7], [7, 7, 7]])))]).values
    Counter({7: 4, 0: 2})
    """
    survey = MaskSurvey()
    for path in paths:
        file = RasterFile(path)
        bands = list(file.header.colour_bands)
        if len(bands) not in (1, 3):
            raise DataError(f"{path}: labels have one band, or three bands of colours, this file has {len(bands)}")
        for window in whole_windows(file.header.grid.height, file.header.grid.width):
            block = file.read(window, bands)
            shown = np.ones(block.values.shape[1:], bool) if block.hidden is None else ~block.hidden
            survey.hidden += int((~shown).sum())
            pixels = block.values[:, shown]
            if not np.array_equal(pixels, np.rint(pixels)):
                raise DataError(f"{path}: holds fractions, such as {pixels.max()}, so it is no mask of classes")
            if len(bands) == 3 and (pixels.min(initial=0) < 0 or pixels.max(initial=0) > 255):
                raise DataError(f"{path}: colours of masks are numbers from 0 to 255, got {pixels.max()}")
            codes = pixels[0].astype(np.int64)
            if len(bands) == 3:
                codes = codes << 16 | pixels[1].astype(np.int64) << 8 | pixels[2].astype(np.int64)
            for value, count in zip(*map(np.ndarray.tolist, np.unique(codes, return_counts=True)), strict=True):
                if len(bands) == 1:
                    survey.values[value] += count
                else:
                    survey.colours[value >> 16, value >> 8 & 255, value & 255] += count
            _refuse_many(survey, path)
    if survey.values and survey.colours:
        raise DataError(
            f"{paths[0].parent}: some labels have one band and others have colours; keep labels of one kind"
        )
    return survey


def _refuse_many(survey: MaskSurvey, path: Path) -> None:
    """Refuse labels with more values than there can be classes.

    Raises
    ------
    DataError
        If there are too many.

    Examples
    --------
    >>> _refuse_many(MaskSurvey(Counter(range(255))), Path("a.tif"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: more than 254 values, so it is no mask of classes; masks saved as JPEG, or with ...
    """
    if max(len(survey.values), len(survey.colours)) > MOST_VALUES:
        raise DataError(
            f"{path}: more than {MOST_VALUES} values, so it is no mask of classes; masks saved as JPEG, or with smooth "
            "edges, hold colours of no class: save them as PNG"
        )


@dataclass
class VectorSurvey:
    """Attributes of vector labels.

    Parameters
    ----------
    features : int
        How many, of all files.
    geometries : Counter
        Features of each geometry type.
    attributes : dict of str to Counter
        Features of each value of each attribute.
    areas : dict of str to Counter
        Area of each value of each attribute.
    by_area : bool
        Whether all features are polygons of one unit, so that their areas can be compared.
    doubts : list of str
        What is missing in a file, and what to do.

    Examples
    --------
    >>> VectorSurvey(2, Counter(Polygon=2), {"kind": Counter(road=2)}).attributes["kind"]["road"]
    2
    """

    features: int = 0
    geometries: Counter[str] = field(default_factory=Counter)
    attributes: dict[str, Counter[str]] = field(default_factory=dict)
    areas: dict[str, Counter[str]] = field(default_factory=dict)
    by_area: bool = True
    doubts: list[str] = field(default_factory=list)

    def weights(self, attribute: str) -> Counter[str]:
        """What shares of an attribute's values are taken of: areas, or numbers of features where some have no area.

        Examples
        --------
        >>> counts, areas = {"kind": Counter(road=3, field=1)}, {"kind": Counter(road=2.0, field=6.0)}
        >>> VectorSurvey(4, Counter(Polygon=4), counts, areas).weights("kind")
        Counter({'field': 6.0, 'road': 2.0})
        """
        return self.areas[attribute] if self.by_area and attribute in self.areas else self.attributes[attribute]


def survey_vectors(paths: Sequence[Path], layer: str | None = None) -> VectorSurvey:
    """Count features, geometry types and the values of every attribute, and add up the areas of polygons.

    Parameters
    ----------
    paths : sequence of Path
        Vector files.
    layer : str, optional
        Of each; may be left out where a file has one layer with places.

    Raises
    ------
    DataError
        If a file cannot be read, or has several layers of which none is chosen; they are listed.

    Examples
    --------
    >>> import shapely, tempfile
    >>> from utils.raster.vector_files import write_features
    >>> path = Path(tempfile.mkdtemp()) / "l.geojson"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Point(8, 9)], crs="EPSG:4326", kind=["a", "b"], code=[7, 7])
    >>> survey_vectors([path]).attributes
    {'kind': Counter({'a': 1, 'b': 1}), 'code': Counter({'7': 2})}
    >>> _ = path.write_text(path.read_text().replace("{", '{"exceededTransferLimit": true, ', 1))
    >>> survey_vectors([path]).doubts
    ["...l.geojson: holds 2 features, and says by 'exceededTransferLimit' that its server has more: the labels are ..."]
    """
    survey, degrees = VectorSurvey(), set[bool]()
    for path in paths:
        layers = layers_with_places(path)
        if layer is None and len(layers) > 1:
            listed = "; ".join(f"{name} ({kind})" for name, kind in layers.items())
            raise DataError(
                f"{path}: several layers: {listed}; choose one: write dataset.label_layer={next(iter(layers))} after "
                "the command, or in the settings"
            )
        kind, columns = read_attributes(path, layer)
        info, areas = read_layer_info(path, layer), read_areas(path, layer)
        survey.doubts += [f"{path}: {part} is missing: put it beside the file" for part in missing_parts(path)]
        survey.doubts += [f"{path}: {'; '.join(describe_truncated(info))}"] if info.truncated else []
        survey.features += info.features
        survey.geometries[kind] += info.features
        degrees.add(info.crs is not None and info.crs.is_geographic)
        survey.by_area &= areas is not None and bool(areas.any()) and len(degrees) == 1
        for name, values in columns.items():
            keys = list(map(class_key, values))
            survey.attributes.setdefault(name, Counter()).update(keys)
            if areas is not None:
                covered = survey.areas.setdefault(name, Counter())
                for key, area in zip(keys, areas.tolist(), strict=True):
                    covered[key] += area
    return survey


def list_shares(counts: Counter[str], most: int = 12) -> str:
    """Values with their shares, the most frequent first.

    Examples
    --------
    >>> list_shares(Counter(road=3, field=1))
    'road 75 %, field 25 %'
    """
    total = sum(counts.values()) or 1
    shown = [f"{value} {100 * count / total:.3g} %" for value, count in counts.most_common(most)]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def classes_attribute(survey: VectorSurvey) -> str | None:
    """The attribute that holds classes, by its name and values; None where none looks so.

    Examples
    --------
    >>> names = Counter(sand=5, water=5)
    >>> classes_attribute(VectorSurvey(10, Counter(), {"id": Counter("0123456789"), "Classname": names}))
    'Classname'
    >>> classes_attribute(VectorSurvey(2, Counter(), {"height": Counter(["3", "4"])})) is None
    True
    """
    found = [name for name in _ranked(survey) if 2 <= len(survey.attributes[name]) <= MOST_VALUES]
    return found[0] if found else None


_CLASS_NAMES = ("classname", "class", "landcover", "landuse", "category", "label", "type", "kind", "species", "cover")


def _ranked(survey: VectorSurvey) -> Iterator[str]:
    """Attributes whose names speak of classes, those with words before those with numbers.

    Examples
    --------
    >>> numbers, words = Counter(["1", "2"]), Counter(["a", "b"])
    >>> list(_ranked(VectorSurvey(2, Counter(), {"class_id": numbers, "CLASS": words, "x": words})))
    ['CLASS', 'class_id']
    """
    flat = {name: "".join(filter(str.isalpha, name.lower())) for name in survey.attributes}
    ranks = []
    for name, plain in flat.items():
        hint = next((index for index, word in enumerate(_CLASS_NAMES) if word in plain), None)
        if hint is not None:
            numeric = all(value.lstrip("-").isdigit() for value in survey.attributes[name])
            ranks.append((numeric, hint, len(plain), name))
    yield from (name for *_, name in sorted(ranks))
