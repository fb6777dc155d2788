"""Which layer and attribute of vector files hold the classes, and what is said where none does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.formats.tables.columns import LABEL, PICTURE
from utils.formats.types import Problem
from utils.raster.vector_files import LayerInfo, missing_parts

DEFAULT_CATEGORY = "object"
_SAY_ONE = "say that all features are one class (dataset.label_mapping: {'*': CLASS})"


@dataclass(frozen=True)
class VectorChoice:
    """What a person says of vector files with labels.

    Parameters
    ----------
    layer : str, optional
        Their layer; may be left out where a file has one only.
    attribute : str, optional
        Which attribute holds the class; by default one with a usual name.
    one_class : bool
        Whether all features are of one class, so that no attribute is needed.

    Examples
    --------
    >>> VectorChoice(attribute="species").is_default, VectorChoice(one_class=True).is_default
    (False, True)
    """

    layer: str | None = None
    attribute: str | None = None
    one_class: bool = False

    @property
    def is_default(self) -> bool:
        """Whether neither a layer nor an attribute is named, which only vector files have.

        Examples
        --------
        >>> VectorChoice(layer="roads").is_default
        False
        """
        return self.layer is None and self.attribute is None


def class_attribute(file: Path, info: LayerInfo, choice: VectorChoice, problems: list[Problem]) -> str | None:
    """The attribute that holds the class; None, with a problem, where no text could be one.

    Parameters
    ----------
    file : Path
        The vector file.
    info : LayerInfo
        Of its layer.
    choice : VectorChoice
        What the person says.
    problems : list of Problem
        Gets what should be looked at.

    Raises
    ------
    DataError
        If some attribute may hold the class, but none is named so, or the file of the attributes is missing.

    Examples
    --------
    >>> info = LayerInfo(None, ("id", "Class"), 1, (0, 0, 1, 1), "GPKG", "a", texts=("Class",))
    >>> class_attribute(Path("a.gpkg"), info, VectorChoice(), [])
    'Class'
    >>> info = LayerInfo(None, ("id", "species"), 1, (0, 0, 1, 1), "GPKG", "a", texts=("species",))
    >>> class_attribute(Path("a.gpkg"), info, VectorChoice(), [])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.gpkg: no attribute is called label, class, ..., so it is not known which one holds the \
class; there are id, species (text): name it in dataset.label_attribute, or say that all features are one class ...
    """
    if choice.attribute is not None:
        return choice.attribute
    lower = {name.lower(): name for name in reversed(info.fields)}
    usual = next((lower[name] for name in LABEL if name in lower), None)
    if usual is not None or choice.one_class:
        return usual
    if lost := missing_parts(file):
        raise DataError(f"{file}: {lost[0]} is missing, which holds the classes; put it beside the file, or {_SAY_ONE}")
    texts = [name for name in info.texts if name.lower() not in PICTURE]
    if texts:
        raise DataError(
            f"{file}: no attribute is called {', '.join(LABEL)}, so it is not known which one holds the class; there "
            f"are {info.list_attributes()}: name it in dataset.label_attribute, or {_SAY_ONE}"
        )
    what = f"no attribute holds text (there are {info.list_attributes()}): its features are all of one class, 'object'"
    problems.append(
        Problem(str(file), what, "if one holds the class, name it in dataset.label_attribute", blocks=False)
    )
    return None


def as_category(value: object) -> str:
    """A class as text; a whole number without its point, and nothing for what is missing.

    Examples
    --------
    >>> as_category(3.0), as_category(" Tree "), as_category(None), as_category(float("nan"))
    ('3', 'Tree', '', '')
    """
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
