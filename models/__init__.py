"""The registry of heads: one look shows every choice, one click leads to its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from utils.errors import SettingsError
from utils.runtime.setting_errors import explain_errors, suggest

if TYPE_CHECKING:
    from models.base import FeatureSpec, Head, HeadOptions

Choice = TypeVar("Choice")

HEADS: dict[str, dict[str, str]] = {  # kind of task -> name of a head -> where its class is; names cost no import
    "detection": {
        "deim": "models.deim:DeimHead",
        "dense": "models.dense_detection:DenseHead",
        "detr": "models.detr:DetrHead",
    },
    "distill": {
        "convnext": "models.backbones.convnext_student:ConvNextStudent",
        "dinov2": "models.backbones.transformer_students:Dinov2Student",
        "vit": "models.backbones.transformer_students:VitStudent",
    },
    "keypoints": {
        "conv": "models.conv:ConvHead",
        "multitask": "models.multitask:MultitaskHead",
        "relational": "models.relational:RelationalHead",
    },
    "segmentation": {
        "dpt": "models.dpt:DPTHead",
        "linear": "models.linear:LinearHead",
        "maskformer": "models.maskformer:MaskFormerHead",
        "segformer": "models.segformer:SegFormerHead",
        "unet": "models.unet:UNetHead",
        "unet_v2": "models.unet_v2:UNetV2Head",
    },
}


@dataclass(frozen=True)
class HeadName:
    """Lets the settings of a kind of task take only the names of its heads, and editors list them.

    Parameters
    ----------
    task_kind : str
        Kind in the registry.

    Examples
    --------
    >>> from pydantic import TypeAdapter
    >>> from typing import Annotated
    >>> names = TypeAdapter(Annotated[str, HeadName("segmentation")])
    >>> names.validate_python("unet")
    'unet'
    >>> names.validate_python("liner")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error ...
      unknown head 'liner', did you mean 'linear'? known: dpt, linear, ...
    """

    task_kind: str

    def check(self, name: str) -> str:
        """Give the name back.

        Raises
        ------
        PydanticCustomError
            If there is no such head; it says which there are.

        Examples
        --------
        >>> HeadName("keypoints").check("conv")
        'conv'
        """
        heads = HEADS.get(self.task_kind, {})
        if name not in heads:
            text = f"unknown head {name!r}{suggest(name, sorted(heads))} known: {', '.join(sorted(heads))}"
            raise PydanticCustomError("unknown_name", "{text}", {"text": text})
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": sorted(HEADS.get(self.task_kind, {}))}


def choose(options: Mapping[str, Choice], name: str, kind: str, setting: str) -> Choice:
    """Look up a name; when it is not there, say what is.

    Parameters
    ----------
    options : mapping
        What there is, by name.
    name : str
        What was asked for.
    kind : str
        What the options are, for the message.
    setting : str
        Where the name was given, for the message.

    Returns
    -------
    object
        The option of that name.

    Raises
    ------
    SettingsError
        If there is no such name.

    Examples
    --------
    >>> choose({"linear": 1, "unet": 2}, "liner", kind="head", setting="model.head")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head: unknown head 'liner'; known: linear, unet
    """
    if name not in options:
        raise SettingsError(f"{setting}: unknown {kind} {name!r}; known: {', '.join(sorted(options))}")
    return options[name]


def read_head_options(given: Mapping[str, Any], options_class: type[HeadOptions]) -> HeadOptions:
    """Check the options of a head, and report everything that is wrong with them at once.

    Parameters
    ----------
    given : mapping
        What stands under `model.head_options`.
    options_class : type of HeadOptions
        What the head understands.

    Returns
    -------
    HeadOptions
        All settings, defaults included.

    Raises
    ------
    SettingsError
        One line for each error, which names the key, what was expected and what came.

    Examples
    --------
    >>> read_head_options({"dropuot": 0.5}, find_head("segmentation", "linear").Options)
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.dropuot: unknown key, did you mean 'dropout'? known keys: dropout
    """
    try:
        return options_class.model_validate(dict(given))
    except ValidationError as error:
        raise SettingsError(*explain_errors(error, options_class, "model.head_options")) from None


def find_head(task_kind: str, name: str) -> type[Head]:
    """Import the class of a head.

    Raises
    ------
    SettingsError
        If there is none of that name for that kind of task.

    Examples
    --------
    >>> find_head("segmentation", "linear").__name__
    'LinearHead'
    >>> find_head("keypoints", "unet")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head: unknown head 'unet'...
    """
    heads = choose(HEADS, task_kind, kind="kind of task with a head", setting="kind")
    module, _, class_name = choose(heads, name, kind="head", setting="model.head").partition(":")
    return getattr(import_module(module), class_name)


def build_head(task_kind: str, name: str, spec: FeatureSpec, num_outputs: int, options: Mapping[str, Any]) -> Head:
    """Build a head from the settings.

    Parameters
    ----------
    task_kind, name : str
        Where it stands in `HEADS`.
    spec : FeatureSpec
        What the head will be given.
    num_outputs : int
        Classes of a segmentation head, keypoints of a keypoint head, maps of the teacher for a student.
    options : mapping
        What stands under `model.head_options`.

    Returns
    -------
    Head
        The head, freshly initialised.

    Raises
    ------
    SettingsError
        If there is no such head, an option is wrong, or extra bands are given to a head that sees no picture.

    Examples
    --------
    >>> from models.base import FeatureSpec
    >>> spec = FeatureSpec((8,), (14,), 14, 4, (0.5,) * 3, (0.5,) * 3)
    >>> build_head("segmentation", "unet", spec, 2, {"width": 16}).stride
    1.0
    >>> build_head("segmentation", "linear", spec, 2, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head: 'linear' takes 3 image channels, got 4; extra bands go to: dpt, ...
    """
    head_class = find_head(task_kind, name)
    if spec.image_channels > 3 and not head_class.needs_image:
        takers = sorted(other for other in HEADS[task_kind] if find_head(task_kind, other).needs_image)
        raise SettingsError(
            f"model.head: {name!r} takes 3 image channels, got {spec.image_channels}; "
            f"extra bands go to: {', '.join(takers)}; or choose three in dataset.bands"
        )
    return head_class(spec, num_outputs, read_head_options(options, head_class.Options))
