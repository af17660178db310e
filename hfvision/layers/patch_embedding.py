"""Cutting an image into patches, and giving the patch kernel other channels or another patch size.

Shapes: B images, C channels, H x W pixels, h x w patches, D width. A kernel is (D, C, p_h, p_w).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.plain import dtype_of
from hfvision.layers.position import Grid
from hfvision.reporting import report_once
from hfvision.tracing import sizes_are_symbols

ChannelInit = Literal["mean", "repeat"] | Mapping[int | str, int | str | None] | Callable[[Tensor, int], Tensor]

COLOURS = {"red": 0, "green": 1, "blue": 2}


def pair(size: int | Iterable[int]) -> tuple[int, int]:
    """A config's size, one number or (height, width), as (height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def by(size: Iterable[int]) -> str:
    """A size for messages: "224x224"."""
    return "x".join(map(str, size))


def grid_of(image_size: int | Iterable[int], patch_size: int | Iterable[int]) -> Grid:
    """The whole patches in an image of a checkpoint's own size: what its position table has rows for."""
    (height, width), (patch_height, patch_width) = pair(image_size), pair(patch_size)
    return height // patch_height, width // patch_width


def check_images(pixel_values: Tensor, num_channels: int) -> None:
    """Raises ImageShapeError unless these are images (B, C, H, W) of that many channels, one at least."""
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
        raise ImageShapeError(
            f"the model takes pixel_values of shape (B, {num_channels}, H, W); got "
            f"{tuple(pixel_values.shape)}. For another number of channels, load it with "
            "from_pretrained(..., num_channels=N, channel_init=...)."
        )
    if pixel_values.shape[0] == 0:
        raise ImageShapeError(
            f"the model takes one image at least; got a batch of none, {tuple(pixel_values.shape)}. Leave such batches "
            "out."
        )


def called(channel_init: ChannelInit) -> str:
    """A rule for channels, for messages."""
    return channel_init if isinstance(channel_init, str) else "the given channel_init"


def kernel_of(conv: nn.Module) -> Tensor:
    """The kernel (F, C, p_h, p_w) of a convolution that is to read other images. Raises ConfigError where something has
    been put in its place, an adapter for example."""
    if not isinstance(conv, nn.Conv2d) or type(conv.weight) is not nn.Parameter:
        inside = type(conv.weight).__name__ if isinstance(conv, nn.Conv2d) else ""
        raise ConfigError(
            f"cannot resize the input: in the place of the first convolution stands a {type(conv).__name__}"
            f"{f' with a {inside}' if inside else ''}. Resize before adapters and quantization, or merge these first."
        )
    return conv.weight


def replace_kernel(conv: nn.Conv2d, kernel: Tensor) -> None:
    """Give a convolution a kernel (F, C, p_h, p_w) for other channels, of its size or another; the bias stays."""
    conv.weight = nn.Parameter(kernel, requires_grad=conv.weight.requires_grad)
    conv.in_channels, conv.kernel_size = kernel.shape[1], (kernel.shape[2], kernel.shape[3])


class PatchEmbedding(nn.Module):
    """(B, C, H, W) -> (B, D, h, w): one linear map per patch.

    H and W are padded with zeros to whole patches; with `pad=False` a partial patch is left out.
    """

    def __init__(self, num_channels: int, hidden_size: int, patch_size: int | Iterable[int]) -> None:
        super().__init__()
        self.num_channels, self.patch_size = num_channels, pair(patch_size)
        self.projection = nn.Conv2d(num_channels, hidden_size, kernel_size=self.patch_size, stride=self.patch_size)

    def report_padding(self, size: tuple[int, ...], grid: Grid) -> None:
        """Say once that images of this size were padded to the grid's whole patches, if they were."""
        padded = tuple(n * side for n, side in zip(grid, self.patch_size, strict=True))
        if size != padded:
            report_once(f"images of {by(size)} pixels are padded with zeros to {by(padded)}, whole patches.")

    @torch.no_grad()
    def kernel_for(
        self, num_channels: int, patch_size: tuple[int, int], channel_init: ChannelInit
    ) -> tuple[Tensor, list[str]]:
        """The kernel for other channels or patches, its own where nothing changes, and a line for each change."""
        kernel, changes = kernel_of(self.projection), []
        if num_channels != self.num_channels:
            changes.append(
                f"the patch kernel's {self.num_channels} channels became {num_channels} ({called(channel_init)})"
            )
            kernel = with_channels(kernel, num_channels, channel_init)
        if patch_size != self.patch_size:
            changes.append(f"the patch kernel of {by(self.patch_size)} became {by(patch_size)}")
            kernel = with_patch_size(kernel, patch_size)
        return kernel, changes

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor) -> None:
        """Take over a kernel of shape (D, C, p_h, p_w) with other channels or another patch size; the bias stays."""
        if kernel is kernel_of(self.projection):
            return
        replace_kernel(self.projection, kernel)
        self.num_channels, self.patch_size = kernel.shape[1], (kernel.shape[2], kernel.shape[3])
        self.projection.stride = self.patch_size

    def forward(self, pixel_values: Tensor, pad: bool = True) -> Tensor:
        """Raises ImageShapeError unless the images have the kernel's channel count."""
        check_images(pixel_values, self.num_channels)
        if pad:
            pixel_values = self._padded(pixel_values)
        return self.projection(pixel_values.to(dtype_of(self.projection, pixel_values.dtype)))

    def _padded(self, pixel_values: Tensor) -> Tensor:
        height, width = pixel_values.shape[-2:]
        patch_height, patch_width = self.patch_size
        # Written so that torch.export can bound the padded size: ceil to whole patches, less what is there.
        bottom = (height + patch_height - 1) // patch_height * patch_height - height
        right = (width + patch_width - 1) // patch_width * patch_width - width
        if sizes_are_symbols() or bottom or right:
            return nn.functional.pad(pixel_values, (0, right, 0, bottom))
        return pixel_values


@torch.no_grad()
def with_channels(kernel: Tensor, num_channels: int, channel_init: ChannelInit = "mean") -> Tensor:
    """(D, C, ...) -> (D, N, ...): the kernel for images of N channels, answering at the same scale.

    "mean": each channel gets the mean kernel times C / N, so an image that is equal in all channels answers as before.
    "repeat": source channel c reads the mean of the new channels c, c + C, c + 2C, ...; with fewer channels than
    before it reads channel c modulo N. An image whose channels repeat the source's answers exactly as before.
    {new: source}: new channel `new` (an index; or a band name, then all N bands in order) reads source channel
    `source` (an index, or "red", "green", "blue" of a three-channel kernel; None: none). Channels that are not
    mentioned get zeros, so the response to the mapped channels is bit for bit the old one.
    A callable gets (kernel, N) and returns the new kernel. Raises ConfigError for anything else.
    """
    source_channels = kernel.shape[1]
    if callable(channel_init):
        new = channel_init(kernel, num_channels)
        wanted = (kernel.shape[0], num_channels, *kernel.shape[2:])
        if not isinstance(new, Tensor) or new.shape != wanted:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ConfigError(f"channel_init must return a kernel of shape {wanted}; got {got}.")
        return new.to(kernel)
    if channel_init == "mean":
        mean = kernel.mean(dim=1, keepdim=True) * (source_channels / num_channels)
        return mean.expand(-1, num_channels, *mean.shape[2:]).clone()
    sources: list[int | None]
    if channel_init == "repeat":
        if num_channels < source_channels:
            parts = [kernel[:, channel::num_channels].sum(dim=1) for channel in range(num_channels)]
            return torch.stack(parts, dim=1)
        sources = [channel % source_channels for channel in range(num_channels)]
    elif isinstance(channel_init, Mapping):
        sources = _sources(channel_init, num_channels, source_channels)
    else:
        raise ConfigError(
            "channel_init is 'mean', 'repeat', a mapping {new channel: source channel} or a function of "
            f"(kernel, num_channels); got {channel_init!r}."
        )
    new = kernel.new_zeros(kernel.shape[0], num_channels, *kernel.shape[2:])
    for channel, source in enumerate(sources):
        if source is not None:
            new[:, channel] = kernel[:, source] / sources.count(source)
    return new


def _sources(
    mapping: Mapping[int | str, int | str | None], num_channels: int, source_channels: int
) -> list[int | None]:
    """For each new channel the source channel it reads, or None."""
    if all(isinstance(key, str) for key in mapping):
        if len(mapping) != num_channels:
            raise ConfigError(
                f"channel_init by band name lists every band in channel order: {num_channels} are wanted, "
                f"got {len(mapping)} ({', '.join(map(str, mapping))}). Map a band to None to start it at zero."
            )
        mapping = dict(enumerate(mapping.values()))
    sources: list[int | None] = [None] * num_channels
    for channel, source in mapping.items():
        index = COLOURS.get(source) if isinstance(source, str) and source_channels == len(COLOURS) else source
        fits = isinstance(channel, int) and 0 <= channel < num_channels
        if not fits or not (source is None or (isinstance(index, int) and 0 <= index < source_channels)):
            raise ConfigError(
                f"channel_init maps one of the {num_channels} new channels (0 to {num_channels - 1}) to one of the "
                f"{source_channels} in the checkpoint (0 to {source_channels - 1}"
                f"{', or red, green, blue' if source_channels == len(COLOURS) else ''}); got {channel!r}: {source!r}."
            )
        sources[int(channel)] = index if isinstance(index, int) else None
    return sources


def _bilinear_resize(old: int, new: int) -> Tensor:
    """(new, old) float64: the antialiased bilinear resize of a line of pixels as a matrix. Made from the
    definition: torch's own, in float64, was reported to be wrong for lines of a single pixel.
    """
    step = old / new
    reach = max(step, 1.0)
    centers = (torch.arange(new, dtype=torch.float64) + 0.5) * step
    distances = (torch.arange(old, dtype=torch.float64) + 0.5 - centers.unsqueeze(1)).abs()
    weights = (1 - distances / reach).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


@torch.no_grad()
def with_patch_size(kernel: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """(D, C, p_h, p_w) -> (D, C, p_h', p_w'): the kernel that answers to resized patches as the old one to the old.

    The pseudo-inverse resize of Beyer et al. 2022, "FlexiViT", arXiv 2212.08013, section 3.4: with R the bilinear
    resize of a patch as a matrix, the new kernel is pinv(R^T) w, so <R x, w'> = <x, w> wherever that has a solution.
    """
    down, across = (_bilinear_resize(old, new) for old, new in zip(kernel.shape[-2:], patch_size, strict=True))
    resize = torch.kron(down, across)  # (new pixels, old pixels)
    flat = kernel.flatten(2).double().cpu() @ torch.linalg.pinv(resize)  # (D, C, old) @ (old, new)
    return flat.reshape(*kernel.shape[:2], *patch_size).to(kernel)
