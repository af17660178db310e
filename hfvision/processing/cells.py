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
PIECE = 8192  # pixels that are worked on at a time: with all classes, they stay in the processor's cache
BLOCK = 1 << 17  # values that are mixed and compared at a time
VECTORS = (16, 8, 4)  # classes that a kernel may work on at a time
PROBE = 9  # places across, when the kernel is compared


@dataclass(frozen=True)
class Kernel:
    """One of PyTorch's kernels: the arithmetic that is to be equalled."""

    fused: bool  # whether positions are rounded once
    vector: int | None = None  # of channels-last logits: classes at a time. None: the kernel for all others


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

    def blocks(self, classes: Tensor, space: Tensor) -> Iterator[tuple["Piece", Tensor]]:
        """As many rows at a time as stay in the processor's cache, and their `values`, within `space`."""
        above, below = _mixed_along_x(self.pair, classes, self.columns)
        step = max(1, BLOCK // above.numel())
        first = self.area[0].start
        for start in range(0, len(self.rows.first), step):
            rows = self.rows[start : start + step]
            area = slice(first + start, first + start + len(rows.first)), self.area[1]
            values = space[: len(rows.first) * above.numel()].view(-1, *above.shape)
            yield Piece(self.pair, rows, self.columns, area), _mixed_along_y(above, below, rows, values)


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


def space_for(classes: int) -> Tensor:
    """Memory for a block: new memory for each would cost more than the arithmetic."""
    return torch.empty(max(BLOCK, PIECE * classes))


def rounding_of(logits: Tensor) -> float:
    """By how much two mixtures of them may be off at most, generously."""
    return 32 * torch.finfo(torch.float32).eps * float(logits.abs().max())


def corner_range(pair: Tensor) -> tuple[Tensor, Tensor]:
    """(2, w, K) -> the smallest and the largest logits (w, K) between a place and the next one to the right."""
    after = torch.cat([pair[:, 1:], pair[:, -1:]], dim=1)
    corners = torch.cat([pair, after])
    return corners.amin(dim=0), corners.amax(dim=0)


def best_classes(
    logits: Tensor, size: Size, crop: Size, kernel: Kernel, want_scores: bool
) -> tuple[Tensor, Tensor | None]:
    """(K, h, w), float32 on the CPU and finite -> classes and scores of the first `crop` pixels of `size`.

    `kernel` is the one that the naive way would use for logits of that memory format. The scores are the winners'
    softmax probabilities; all classes count for them, so none is left out.
    """
    winners = torch.empty(crop, dtype=torch.int64)
    scores = torch.empty(crop) if want_scores else None
    rounding = rounding_of(logits)
    everything, space = torch.arange(len(logits)), space_for(len(logits))
    for pair, pieces in strips(logits, size, crop, kernel.fused):
        can_win = _can_win(pair, rounding)
        for piece in pieces:
            classes = everything if want_scores else can_win[piece.cells].any(dim=0).nonzero()[:, 0]
            if len(classes) == 1:
                winners[piece.area] = classes[0]
                continue
            for block, values in piece.blocks(classes, space):
                index = best_of(values)
                if kernel.vector is not None:
                    _settle(index, values, block, classes, kernel.vector, rounding)
                winners[block.area] = classes[index]
                if scores is not None:
                    best = values.gather(-1, index[..., None])
                    scores[block.area] = values.sub_(best).exp_().sum(dim=-1).reciprocal_()
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


@lru_cache(maxsize=256)
def channels_last_kernel(size: Size, wanted: Size, classes: int) -> Kernel | None:
    """The kernel that PyTorch uses for channels-last logits of these sizes; None where it is none that is known.

    It mixes all four places at once, in another order for the classes that do not fill a vector.
    """
    kernels = (Kernel(fused, vector) for fused in (True, False) for vector in VECTORS)
    return next((kernel for kernel in kernels if _agrees_at_once(size, wanted, classes, kernel)), None)


def _agrees_at_once(size: Size, wanted: Size, classes: int, kernel: Kernel) -> bool:
    random = torch.Generator().manual_seed(0)
    strips = ((size[0], PROBE), (wanted[0], PROBE)), ((PROBE, size[1]), (PROBE, wanted[1]))
    for places, pixels in strips:
        logits = torch.randn(1, classes, *places, generator=random).contiguous(memory_format=torch.channels_last)
        theirs = nn.functional.interpolate(logits, size=pixels, mode="bilinear", align_corners=False)[0]
        rows, columns = _mixing(places[0], pixels[0], kernel.fused), _mixing(places[1], pixels[1], kernel.fused)
        for top, bottom in _runs(rows.first):
            area = slice(top, bottom), slice(0, pixels[1])
            piece = Piece(_pair(logits[0], rows, top), rows[top:bottom], columns, area)
            everywhere = torch.ones(bottom - top, pixels[1]).nonzero()
            ours = _mixed_at_once(piece, torch.arange(classes), everywhere, kernel.vector or 1)
            if not torch.equal(ours.mT.reshape(classes, bottom - top, -1), theirs[:, top:bottom]):
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
    above, below = _mixed_along_x(pair, classes, columns)
    return _mixed_along_y(above, below, rows, above.new_empty(len(rows.first), *above.shape))


def _mixed_along_x(pair: Tensor, classes: Tensor, columns: Mixing) -> tuple[Tensor, Tensor]:
    """(2, w, K) -> (C, S) for the row of places above and for the one below."""
    start, last = int(columns.first[0]), int(columns.second[-1])
    corners = pair[:, start : last + 1].index_select(2, classes)
    left, right = corners.index_select(1, columns.first - start), corners.index_select(1, columns.second - start)
    # weights are written out for every class: addcmul is quick only where no operand is repeated
    of_left, of_right = (
        weights[:, None].expand(left.shape[1:]).contiguous() for weights in (columns.of_first, columns.of_second)
    )
    above, below = (torch.addcmul(two * of_right, one, of_left) for one, two in zip(left, right, strict=True))
    return above, below


def _mixed_along_y(above: Tensor, below: Tensor, rows: Mixing, values: Tensor) -> Tensor:
    """(C, S) twice -> `values` (R, C, S). A row has one weight for each: a product and an `add` with alpha= do it."""
    for row, of_above, of_below in zip(values, rows.of_first.tolist(), rows.of_second.tolist(), strict=True):
        torch.mul(below, of_below, out=row)
        row.add_(above, alpha=of_above)
    return values


def _settle(index: Tensor, values: Tensor, piece: Piece, classes: Tensor, vector: int, rounding: float) -> None:
    """Corrects `index` (R, C) where the kernel for channels-last logits may round the best two (S) the other way."""
    flat, where = values.view(-1), index.flatten() + torch.arange(0, values.numel(), values.shape[-1])
    best = flat.index_select(0, where)
    flat.index_fill_(0, where, -torch.inf)
    second = torch.from_numpy(values.numpy().max(axis=-1))
    flat.index_copy_(0, where, best)
    doubtful = (best.view(index.shape) - second <= rounding).nonzero()
    for places in doubtful.split(max(1, BLOCK // len(classes))) if len(doubtful) else ():
        index[places[:, 0], places[:, 1]] = best_of(_mixed_at_once(piece, classes, places, vector))


def _mixed_at_once(piece: Piece, classes: Tensor, places: Tensor, vector: int) -> Tensor:
    """(n, 2) rows and columns of pixels -> (n, S): the logits of some classes, as the kernel for channels-last logits
    gives them.
    """
    y, x = places.unbind(dim=1)
    columns, rows = piece.columns, piece.rows
    mixed = []  # the four places, and their weights for every class
    for row, of_row in enumerate((rows.of_first[y], rows.of_second[y])):
        for place, of_place in ((columns.first, columns.of_first), (columns.second, columns.of_second)):
            logits = piece.pair[row].index_select(0, place[x]).index_select(1, classes)
            mixed.append((logits, (of_row * of_place[x])[:, None].expand(logits.shape).contiguous()))
    a, b, c, d = mixed
    in_vectors = torch.addcmul(torch.addcmul(torch.addcmul(c[0] * c[1], *d), *b), *a)
    alone = torch.addcmul(torch.addcmul(torch.addcmul(b[0] * b[1], *a), *c), *d)
    return torch.where(classes < piece.pair.shape[-1] // vector * vector, in_vectors, alone)


def best_of(values: Tensor) -> Tensor:
    """(..., S) float32 on the CPU, without NaN -> the first of the largest (...) int64: NumPy is many times faster."""
    return torch.from_numpy(values.numpy().argmax(axis=-1))
