"""Models of a frozen backbone and a head, and their trained state."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

import torch
from torch import Tensor, nn

from config import TaskConfig
from models.base import Head
from tasks.features import FeatureService
from tasks.sample import Batch
from utils.errors import DataError, DinolithError
from utils.geometry.fields import padded_maps
from utils.runtime.starts import output_tensors


class FeatureModel(nn.Module):
    """A head on feature maps, which come with the batch or are computed from its pictures.

    Parameters
    ----------
    features : FeatureService
        Computes maps when a batch has none; its backbone is loaded only then.
    head : Head
        Called with the maps and the picture, and with what its `takes` names.
    finetune : bool or int
        True trains all blocks of the backbone, n the last n, False none.
    precision : str
        Arithmetic of the head: "bf16" is bfloat16 autocast; weights and outputs are float32 either way. The backbone
        has a precision of its own.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> model = task.build_model()
    >>> from tasks.prepared import PreparedReader
    >>> from utils.data import SampleRef
    >>> batch = PreparedReader(task, store, prepared).read([SampleRef(0)])
    >>> stored = model(batch)["logits"]
    >>> batch.feature_maps = None
    >>> torch.equal(stored, model(batch)["logits"])
    True
    """

    def __init__(self, features: FeatureService, head: Head, finetune: bool | int = False, precision: str = "fp32"):
        super().__init__()
        self.head = head
        self.features = features
        self.precision = precision
        self.backbone = features.finetuned(finetune) if finetune else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Map a batch to the head's outputs.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> from tasks.prepared import PreparedReader
        >>> from utils.data import SampleRef
        >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
        >>> task.build_model()(PreparedReader(task, store, prepared).read([SampleRef(0)]))["logits"].shape
        torch.Size([1, 2, 8, 8])
        """
        image = batch.arrays["image"]
        maps = batch.feature_maps
        if maps is None:
            compute = self.features.maps if self.backbone is None else self.backbone
            maps = (
                compute(image[:, :3])
                if batch.sizes is None
                else padded_maps(compute, image[:, :3], batch.sizes, self.features.info.patch_size)
            )
            if self.backbone is not None and torch.is_grad_enabled() and not len(image):
                # all ranks must run the backward pass of the collectives of a head
                maps = [feature_map.requires_grad_() for feature_map in maps]
        known = {"valid": batch.arrays.get("valid"), "target": batch.target if self.training else None}
        taken = {name: known[name] for name in self.head.takes}
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = self.head([feature_map.to(torch.float32) for feature_map in maps], image, **taken)
        return {name: output.float() if output.is_floating_point() else output for name, output in outputs.items()}


def compile_trained(model: nn.Module) -> list[str]:
    """Compile the parts of a model that hold trained weights, on their first use; names of weights stay.

    Parameters
    ----------
    model : Module
        Its direct children are compiled, each as a whole.

    Returns
    -------
    list of str
        Names of the compiled parts.

    Examples
    --------
    >>> model = nn.ModuleDict({"backbone": nn.Linear(2, 2).requires_grad_(False), "head": nn.Linear(2, 2)})
    >>> compile_trained(model)
    ['head']
    """
    trained = [name for name, part in model.named_children() if any(p.requires_grad for p in part.parameters())]
    for name in trained:
        model.get_submodule(name).compile()
    return trained


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, of any shape, and all buffers of the modules that hold one.

    Examples
    --------
    >>> model = nn.ModuleDict({"frozen": nn.Linear(2, 2).requires_grad_(False), "norm": nn.BatchNorm1d(2)})
    >>> list(trained_state(model))
    ['norm.weight', 'norm.bias', 'norm.running_mean', 'norm.running_var', 'norm.num_batches_tracked']
    """
    state = {}
    for prefix, module in model.named_modules():
        parameters = {key: value for key, value in module.named_parameters(recurse=False) if value.requires_grad}
        if parameters:
            dot = f"{prefix}." if prefix else ""
            state.update({dot + key: value for key, value in parameters.items()})
            persistent = set(module.state_dict().keys())
            buffers = module.named_buffers(recurse=False)
            state.update({dot + key: value for key, value in buffers if key in persistent})
    return state


def may_start_from(model: nn.Module, tensors: Mapping[str, Tensor], same_kind: bool) -> bool:
    """Whether a model can take any tensor of a checkpoint, as far as shows before its classes are known.

    Parameters
    ----------
    model : Module
        With any number of classes; needs no weights. Layers that give classes are those it declares as `output_layers`.
    tensors : mapping of str to Tensor
        Of the checkpoint.
    same_kind : bool
        Whether rows of classes can be of equal classes.

    Examples
    --------
    >>> model = nn.ModuleDict({"head": nn.Linear(4, 2)})
    >>> model["head"].output_layers = ("weight",)
    >>> tensors = {"head.weight": torch.zeros(7, 4)}
    >>> may_start_from(model, tensors, same_kind=True), may_start_from(model, tensors, same_kind=False)
    (True, False)
    """
    outputs = output_tensors(model)
    for name, tensor in model.state_dict().items():
        other = tensors.get(name)
        if other is None or other.shape[1:] != tensor.shape[1:]:
            continue
        if same_kind if name in outputs else other.shape == tensor.shape:
            return True
    return False


def load_trained_state(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy trained tensors into a model, all of them and each of the same shape.

    Raises
    ------
    DataError
        If names or shapes differ, or a weight is not a finite number.

    Examples
    --------
    >>> load_trained_state(nn.Linear(2, 2), {"weight": torch.zeros(2, 2)})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: weights do not fit this model: missing bias
    """
    targets = trained_state(model)
    misfits = {
        "missing": sorted(set(targets) - set(tensors)),
        "unexpected": sorted(set(tensors) - set(targets)),
        "other shape": [key for key in targets if key in tensors and targets[key].shape != tensors[key].shape],
    }
    if any(misfits.values()):
        listed = "; ".join(f"{what} {', '.join(keys[:3])}" for what, keys in misfits.items() if keys)
        raise DataError(f"weights do not fit this model: {listed}")
    broken = [key for key in targets if not torch.isfinite(tensors[key]).all()]
    if broken:
        raise DataError(f"weights hold NaN or infinity, first in {broken[0]}; train again, or take another copy")
    with torch.no_grad():
        for key, tensor in targets.items():
            tensor.copy_(tensors[key])


def advice_for_memory(settings: TaskConfig, phase: str) -> DinolithError:
    """Error for too little memory in a phase, with the settings of this kind of task to lower.

    Examples
    --------
    >>> from tasks.segmentation.settings import SegmentationSettings
    >>> print(advice_for_memory(SegmentationSettings(train={"batch_size": 4}), "train"))
    out of memory; lower train.batch_size (now 4) and raise train.grad_accum_steps (now 1) to keep the step
    lower train.val_batch_size (now 8), if it was in a validation
    take smaller samples: lower prepare.tile_size (now 512)
    or take fewer model.layers, or a lighter model.head
    """
    first, *rest = lower_what(settings, phase)
    return DinolithError(f"out of memory; {first}", *rest)


def lower_what(settings: TaskConfig, phase: str) -> list[str]:
    r"""Settings of this kind of task to lower where a phase needs too much memory, one line per way.

    Examples
    --------
    >>> from tasks.detection.settings import DetectionSettings
    >>> sizes = {"detection": {"pad_size": [900, 900]}, "model": {"head_options": {"width": 512}}}
    >>> print(*lower_what(DetectionSettings(**sizes), "inference"), sep="\n")  # doctest: +ELLIPSIS
    lower inference.batch_size (now 4)
    take smaller samples: lower ..., detection.pad_size (now [900, 900])
    or take fewer model.layers, or a lighter model.head (head_options are now {'width': 512})
    """
    size = getattr(getattr(settings, phase, None), "batch_size", None)
    lines = [f"lower {phase}.batch_size (now {size})"] if size else []
    if phase == "train":
        lines[0] += f" and raise train.grad_accum_steps (now {settings.train.grad_accum_steps}) to keep the step"
        lines.append(f"lower train.val_batch_size (now {settings.train.val_batch_size}), if it was in a validation")
    sizes = []
    for name, small in settings.sample_sizes.items():
        value = attrgetter(name)(settings)
        if value is not None:
            sizes.append(f"{name} (now {value}{f', such as {small}' if small and small < value else ''})")
    if sizes:
        lines.append(f"take smaller samples: lower {', '.join(sizes)}")
    options = getattr(settings.model, "head_options", None)
    lines.append(
        f"or take fewer model.layers, or a lighter model.head{f' (head_options are now {options})' if options else ''}"
    )
    return lines
