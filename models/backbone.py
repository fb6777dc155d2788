"""Frozen DINO backbones: pictures in, feature maps of the chosen blocks out.

What is the same for every backbone, and tested:

- Block index i counts from 0 (negative from the end) and means `hidden_states[i + 1]` of transformers. The blocks of a
  ConvNeXt are its stages, with strides 4, 8, 16 and 32.
- A ViT's final norm is applied to every chosen block. A ConvNeXt's final norm fits its last stage only, so that stages
  0, 1 and 2 come as they are and stage 3 comes normed, as in the authors' `get_intermediate_layers`.
- CLS and register tokens are dropped. The patch size is what the model's configuration says.
- A picture of any size is continued at its bottom and right by reflection up to the patch grid; maps cover that grid.
- Weights stay float32, bfloat16 appears only as autocast, and maps are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.backbones.info import BackboneInfo, describe_backbone
from models.backbones.weights import FAMILIES, find_backbone_folder, load_model
from utils.errors import SettingsError
from utils.geometry.padding import pad_picture
from utils.runtime.reading import file_errors


class Backbone(nn.Module):
    """A frozen DINO model that turns pictures into the feature maps of chosen blocks.

    It stays in evaluation mode whatever `train()` asks for, so that dropout, stochastic depth and DINOv3's random
    positions stay off, also while blocks are tuned. Blocks behind the last chosen one are dropped.

    Parameters
    ----------
    model : nn.Module
        The model of transformers.
    info : BackboneInfo
        What it is and which blocks are asked for.

    Examples
    --------
    >>> import tempfile
    >>> from models.backbones.random_backbone import write_random_backbone
    >>> folder = write_random_backbone(tempfile.mkdtemp(), width=8, depth=2, patch_size=4)
    >>> backbone = load_backbone(str(folder), [0, -1])
    >>> [tuple(map.shape) for map in backbone(torch.zeros(1, 3, 9, 16, dtype=torch.uint8))]
    [(1, 8, 3, 4), (1, 8, 3, 4)]
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, info: BackboneInfo):
        super().__init__()
        self.info = info
        self.model = model
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in info.std]).view(1, 3, 1, 1), False)
        self.register_buffer(
            "shift", torch.tensor([-m / s for m, s in zip(info.mean, info.std, strict=True)]).view(1, 3, 1, 1), False
        )
        del self.blocks[max(info.layers) + 1 :]
        self.requires_grad_(False)
        self.eval()

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, or a ConvNeXt's stages, up to the last chosen one.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> folder = write_random_backbone(tempfile.mkdtemp(), depth=3)
        >>> len(load_backbone(str(folder), [1]).blocks)
        2
        """
        return self.model.get_submodule(FAMILIES[self.info.family].blocks)  # type: ignore[return-value]

    @property
    def norm(self) -> nn.Module:
        """The final norm.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0]).norm.normalized_shape
        (8,)
        """
        return self.model.get_submodule(FAMILIES[self.info.family].norm)

    @property
    def device(self) -> torch.device:
        """Where the weights lie.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0]).device
        device(type='cpu')
        """
        return self.scale.device

    @override
    def train(self, mode: bool = True) -> Backbone:
        return super().train(False)

    def unfreeze(self, last_blocks: int | bool) -> list[nn.Parameter]:
        """Let blocks be tuned: the last ones with the final norm, or all weights.

        Parameters
        ----------
        last_blocks : int or True
            How many blocks, counted back from the last chosen one; True for every weight that the maps depend on.

        Returns
        -------
        list of Parameter
            The weights that an optimizer should now be given; `info.digest` still names what they started from.

        Raises
        ------
        SettingsError
            When there are not that many blocks.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), depth=2)), [0, 1])
        >>> len(backbone.unfreeze(1)) < len(backbone.unfreeze(True))
        True
        """
        if last_blocks is not True and not 1 <= last_blocks <= len(self.blocks):
            raise SettingsError(
                f"unfreeze: expected 1 to {len(self.blocks)} blocks up to the last chosen one, got {last_blocks}"
            )
        self.requires_grad_(False)
        tuned = [self.model] if last_blocks is True else [*self.blocks[-last_blocks:], self.norm]
        for module in tuned:
            module.requires_grad_(True)
        for name, parameter in self.named_parameters():
            # Only pretraining masks patches: a tuned weight without a gradient would stop DDP.
            if name.endswith("mask_token"):
                parameter.requires_grad_(False)
        if not FAMILIES[self.info.family].is_vit and self.info.num_blocks - 1 not in self.info.layers:
            self.norm.requires_grad_(False)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def normalize(self, images: Tensor) -> Tensor:
        """Continue pictures to the patch grid and scale them as the weights expect.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            uint8, or floating point on a scale from 0 to 255.

        Returns
        -------
        Tensor, shape (B, 3, padded H, padded W)
            float32.

        Raises
        ------
        ValueError
            For another shape or type.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), patch_size=4)), [0])
        >>> pixels = backbone.normalize(torch.full((1, 3, 5, 2), 255, dtype=torch.uint8))
        >>> pixels.shape, round(pixels[0, 2, 7, 3].item(), 4) == round((1 - 0.406) / 0.225, 4)
        (torch.Size([1, 3, 8, 4]), True)
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ValueError(f"images must be uint8 or floating point from 0 to 255, got {images.dtype}")
        images = pad_picture(images.to(self.device), self.info.padded(images.shape[2:]))
        return torch.addcmul(self.shift, images.float(), self.scale)

    def forward(self, images: Tensor, stretch: Tensor | None = None) -> list[Tensor]:
        """Compute the feature maps of the chosen blocks.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            uint8, or floating point on a scale from 0 to 255; B may be 0.
        stretch : Tensor, shape (B, 2), optional
            For training: by how much the rotary positions of each picture are stretched down and across. None leaves
            them, as do backbones without rotary positions.

        Returns
        -------
        list of Tensor, shape (B, C_i, h_i, w_i)
            float32, one per chosen block in the order asked for, on the padded grid.

        Raises
        ------
        ValueError
            For pictures of another shape or type.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> folder = write_random_backbone(tempfile.mkdtemp(), "dinov3_convnext", width=8)
        >>> [tuple(map.shape) for map in load_backbone(str(folder), [0, 2])(torch.zeros(2, 3, 33, 30))]
        [(2, 8, 16, 8), (2, 32, 4, 2)]
        """
        pixels = self.normalize(images)
        if not len(pixels):
            grids = self.info.feature_grid(images.shape[2:])
            return [
                pixels.new_zeros(0, channels, *grid) for channels, grid in zip(self.info.channels, grids, strict=True)
            ]
        is_vit = FAMILIES[self.info.family].is_vit
        with (
            torch.set_grad_enabled(
                torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())
            ),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.info.precision_in_use == "bf16"),
        ):
            maps = self._compute_vit_maps(pixels, stretch) if is_vit else self._compute_stage_maps(pixels)
        return [maps[index] for index in self.info.layers]

    def _compute_vit_maps(self, pixels: Tensor, stretch: Tensor | None = None) -> dict[int, Tensor]:
        """Run the blocks of a ViT, keeping only the states that are asked for.

        `pixels` has shape (B, 3, H, W), each map shape (B, C, h, w).

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), depth=3)), [-1, 0])
        >>> sorted(backbone._compute_vit_maps(torch.zeros(1, 3, 8, 8)))
        [0, 2]
        """
        grid = (pixels.shape[2] // self.info.patch_size, pixels.shape[3] // self.info.patch_size)
        context = {}
        if hasattr(self.model, "rope_embeddings"):
            context["position_embeddings"] = self._rotations(pixels, grid, stretch)
        tokens = self.model.embeddings(pixels)  # type: ignore[operator]
        maps = {}
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, **context)
            if index in self.info.layers:
                patches = self._apply_norm(tokens[:, -grid[0] * grid[1] :])  # after CLS and registers
                maps[index] = patches.transpose(1, 2).reshape(len(tokens), -1, *grid).contiguous()
        return maps

    def _rotations(self, pixels: Tensor, patch_grid: tuple[int, int], stretch: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary positions.

        Transformers draws its stretch for a whole batch and from the generator that everything shares; here it is
        given, one for each picture, so that the gradient of a batch does not depend on how ranks share it.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), "dinov3_vit", patch_size=4)), [0])
        >>> pixels = torch.zeros(1, 3, 8, 12)
        >>> plain, stretched = (backbone._rotations(pixels, (2, 3), by) for by in (None, torch.ones(1, 2)))
        >>> [torch.equal(a, b[0, 0]) for a, b in zip(plain, stretched, strict=True)], stretched[0].shape
        ([True, True], torch.Size([1, 1, 6, 4]))
        """
        rope: Any = self.model.rope_embeddings
        if stretch is None:
            return rope(pixels)
        down, across = ((torch.arange(cells, device=pixels.device) + 0.5) / cells * 2 - 1 for cells in patch_grid)
        places = torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1).flatten(0, 1)  # (N, 2)
        angles = 2 * torch.pi * (places * stretch[:, None])[..., None] * rope.inv_freq
        angles = angles.flatten(2).tile(2)[:, None]  # (B, 1, N, channels of a head)
        return angles.cos(), angles.sin()

    def _compute_stage_maps(self, pixels: Tensor) -> dict[int, Tensor]:
        """Run the stages of a ConvNeXt; only the last of all has a norm that fits it.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), "dinov3_convnext")), [1])
        >>> {stage: map.shape for stage, map in backbone._compute_stage_maps(torch.zeros(1, 3, 32, 64)).items()}
        {1: torch.Size([1, 16, 4, 8])}
        """
        maps = {}
        features = pixels
        for index, stage in enumerate(self.blocks):
            features = stage(features)
            if index in self.info.layers:
                is_last = index == self.info.num_blocks - 1
                normed = self._apply_norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if is_last else features
                maps[index] = normed.float().contiguous()
        return maps

    def _apply_norm(self, features: Tensor) -> Tensor:
        """The final norm over the last axis, in float32 whatever the blocks were computed in.

        The shape, (..., C), stays.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0])
        >>> backbone._apply_norm(torch.zeros(1, 8, dtype=torch.bfloat16)).dtype
        torch.float32
        """
        with torch.autocast(self.device.type, enabled=False):
            return self.norm(features.float())


def load_backbone(
    source: str,
    layers: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    attention: str = "sdpa",
    compile: bool = False,
) -> Backbone:
    """Load a backbone, frozen and in evaluation mode.

    Parameters
    ----------
    source : str
        `embedded`, a folder, or a Hugging Face id (looked up in the cache first, then at the hub).
    layers : sequence of int
        Blocks whose maps are wanted, counted from 0, negative from the end; stages of a ConvNeXt.
    device : torch.device or str
        Where to compute.
    precision : {"auto", "bf16", "fp32"}
        What to compute with; weights are float32 in any case. "auto" takes bfloat16 where the hardware has it.
    attention : {"sdpa", "eager"}
        How attention is computed: fused and exact to .9998 in bfloat16, or step by step (faster on some CPUs).
    compile : bool
        Compile each block with torch.compile on first use.

    Returns
    -------
    Backbone
        With its description in `info`.

    Raises
    ------
    DataError
        When weights are gated, missing, cut off, pickled or of another architecture.
    SettingsError
        When layers, device, precision or attention cannot be had.

    References
    ----------
    Oquab et al., 2023 (arXiv:2304.07193); Darcet et al., 2023 (arXiv:2309.16588); Simeoni et al., 2025
    (arXiv:2508.10104).

    Examples
    --------
    >>> import tempfile
    >>> from models.backbones.random_backbone import write_random_backbone
    >>> folder = write_random_backbone(tempfile.mkdtemp(), "dinov3_vit", width=8, depth=3, patch_size=4)
    >>> info = load_backbone(str(folder), [-1, 0], precision="fp32").info
    >>> info.family, info.layers, info.channels, info.strides, info.num_blocks, info.licence
    ('dinov3_vit', (2, 0), (8, 8), (4, 4), 3, 'unknown')
    """
    info = describe_backbone(source, layers, device=device, precision=precision, attention=attention)
    with file_errors(source, "cannot be read as a backbone", "fetch the folder again, or name another"):
        backbone = Backbone(load_model(find_backbone_folder(source), info.family, attention), info)
    backbone = backbone.to(device)
    if compile:
        # Block by block: equal blocks share one compilation, which takes a fraction of compiling the whole.
        for block in backbone.blocks:
            block.compile()
    return backbone
