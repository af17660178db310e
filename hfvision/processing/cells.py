"""The best class of every pixel, cell by cell of the coarse grid, equal to what PyTorch's kernel gives to the last bit.

Between four neighbouring places of the grid, bilinear interpolation mixes their logits, so a class whose largest corner
is below another's smallest cannot win there. Only the classes that can are interpolated, and a piece of the image that
belongs to one class for certain is filled without any arithmetic.

Mixing repeats PyTorch's arithmetic on the CPU: along x before y, and each mixture `a * wa + b * wb` as one product,
rounded, and one fused multiply-add; positions in float32, fused or not as the build of PyTorch has it. Compilers are
free to do otherwise, so `kernel_fuses_positions` compares with the kernel itself for the very sizes of a call; where
nothing agrees, the caller goes another way.

Shapes: K classes, h x w places, H x W pixels; S classes that can win, R x C pixels of a piece.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from hfvision.upsampling import Size

SMALL = 128  # height + width up to which PyTorch has another kernel
PIECE = 4096  # pixels that are worked on at a time: with all classes, they stay in the processor's cache
PROBE = 9  # places across, when the kernel is compared


@dataclass(frozen=True)
class Mixing:
    """How the pixels of one axis are mixed from places, each (wanted,)."""

    first: Tensor
    second: Tensor
    of_first: Tensor  # weights
    of_second: Tensor

    def __getitem__(self, part: slice) -> "Mixing":
        return Mixing(self.first[part], self.second[part], self.of_first[part], self.of_second[part])


@dataclass(frozen=True)
class Piece:
    """Some of the pixels between two rows of places."""

    pair: Tensor  # (2, w, K): the rows
    rows: Mixing
    columns: Mixing
    area: tuple[slice, slice]  # of the image

    @property
    def cells(self) -> slice:
        """The places to whose right the pixels lie."""
        return slice(int(self.columns.first[0]), int(self.columns.first[-1]) + 1)

    def values(self, classes: Tensor) -> Tensor:
        """(R, C, S): the logits of some classes at the pixels."""
        return _mixed(self.pair, classes, self.rows, self.columns)


def strips(logits: Tensor, size: Size, crop: Size, fused: bool) -> Iterator[tuple[Tensor, Iterator[Piece]]]:
    """(K, h, w), as `best_classes` takes them -> each pair of rows of places (2, w, K), and the pieces between them."""
    rows = _mixing(logits.shape[1], size[0], fused)[: crop[0]]
    columns = _mixing(logits.shape[2], size[1], fused)[: crop[1]]
    for top, bottom in _runs(rows.first):
        pair = _pair(logits, rows, top)
        yield pair, _pieces(pair, rows, columns, top, bottom)


def _pieces(pair: Tensor, rows: Mixing, columns: Mixing, top: int, bottom: int) -> Iterator[Piece]:
    width = max(16, PIECE // (bottom - top))
    for left in range(0, len(columns.first), width):
        area = slice(top, bottom), slice(left, left + width)
        yield Piece(pair, rows[area[0]], columns[area[1]], area)


def rounding_of(logits: Tensor) -> float:
    """By how much two mixtures of them may be off at most, generously."""
    return 32 * torch.finfo(torch.float32).eps * float(logits.abs().max())


def corner_range(pair: Tensor) -> tuple[Tensor, Tensor]:
    """(2, w, K) -> the smallest and the largest logits (w, K) between a place and the next one to the right."""
    after = torch.cat([pair[:, 1:], pair[:, -1:]], dim=1)
    corners = torch.cat([pair, after])
    return corners.amin(dim=0), corners.amax(dim=0)


def best_classes(
    logits: Tensor, size: Size, crop: Size, fused: bool, want_scores: bool
) -> tuple[Tensor, Tensor | None]:
    """(K, h, w), contiguous float32 on the CPU and finite -> classes and scores of the first `crop` pixels of `size`.

    `fused` is the answer of `kernel_fuses_positions`. The scores are the winners' softmax probabilities; all classes
    count for them, so none is left out.
    """
    winners = torch.empty(crop, dtype=torch.int64)
    scores = torch.empty(crop) if want_scores else None
    rounding = rounding_of(logits)
    everything = torch.arange(len(logits))
    for pair, pieces in strips(logits, size, crop, fused):
        can_win = _can_win(pair, rounding)
        for piece in pieces:
            classes = everything if want_scores else can_win[piece.cells].any(dim=0).nonzero()[:, 0]
            if len(classes) == 1:
                winners[piece.area] = classes[0]
                continue
            values = piece.values(classes)
            best, index = values.max(dim=-1)
            winners[piece.area] = classes[index]
            if scores is not None:
                scores[piece.area] = values.sub_(best[..., None]).exp_().sum(dim=-1).reciprocal_()
    return winners, scores


@lru_cache(maxsize=256)
def kernel_fuses_positions(size: Size, wanted: Size) -> bool | None:
    """How to make `best_classes` agree with PyTorch's kernel for these sizes; None where it does not."""
    return next((fused for fused in (True, False) if _agrees(size, wanted, fused)), None)


def _agrees(size: Size, wanted: Size, fused: bool) -> bool:
    """Whether a strip along each axis comes out bit for bit as from the kernel."""
    random = torch.Generator().manual_seed(0)
    strips = ((size[0], PROBE), (wanted[0], SMALL + 1)), ((PROBE, size[1]), (SMALL + 1, wanted[1]))
    for places, pixels in strips:
        logits = torch.randn(4, *places, generator=random)
        rows, columns = _mixing(places[0], pixels[0], fused), _mixing(places[1], pixels[1], fused)
        theirs = nn.functional.interpolate(logits[None], size=pixels, mode="bilinear", align_corners=False)[0]
        for top, bottom in _runs(rows.first):
            ours = _mixed(_pair(logits, rows, top), torch.arange(4), rows[top:bottom], columns)
            if not torch.equal(ours.permute(2, 0, 1), theirs[:, top:bottom]):
                return False
    return True


@lru_cache(maxsize=64)
def _mixing(length: int, wanted: int, fused: bool) -> Mixing:
    centres = torch.arange(wanted, dtype=torch.float32) + 0.5
    scale = torch.tensor(length, dtype=torch.float32) / wanted
    fused_places = (scale.double() * centres.double() - 0.5).float()  # rounded once: float64 holds the product exactly
    places = fused_places if fused else scale * centres - 0.5
    places.clamp_(min=0)
    first = places.floor().long().clamp_(max=length - 1)
    share = (places - first).clamp_(0, 1)
    return Mixing(first, (first + 1).clamp_(max=length - 1), 1 - share, share)


def _runs(first: Tensor) -> Iterator[tuple[int, int]]:
    """Pixels from ... to ... that lie between the same two places."""
    end = 0
    for count in torch.unique_consecutive(first, return_counts=True)[1].tolist():
        yield end, end + count
        end += count


def _pair(logits: Tensor, rows: Mixing, row: int) -> Tensor:
    """(K, h, w) -> (2, w, K): the rows of places above and below a row of pixels."""
    return logits[:, [int(rows.first[row]), int(rows.second[row])]].permute(1, 2, 0).contiguous()


def _can_win(pair: Tensor, rounding: float) -> Tensor:
    """(2, w, K) -> (w, K): whether a class can be the best between a place and the next one to the right."""
    low, high = corner_range(pair)
    return high >= low.amax(dim=-1, keepdim=True) - rounding


def _mixed(pair: Tensor, classes: Tensor, rows: Mixing, columns: Mixing) -> Tensor:
    """(2, w, K) -> (R, C, S): the logits of some classes, at the pixels of these rows and columns."""
    start, last = int(columns.first[0]), int(columns.second[-1])
    corners = pair[:, start : last + 1].index_select(2, classes)
    left, right = corners.index_select(1, columns.first - start), corners.index_select(1, columns.second - start)
    above, below = _mixture(left, right, columns.of_first[:, None], columns.of_second[:, None])
    return _mixture(above, below, rows.of_first[:, None, None], rows.of_second[:, None, None])


def _mixture(first: Tensor, second: Tensor, of_first: Tensor, of_second: Tensor) -> Tensor:
    return torch.addcmul(second * of_second, first, of_first)
