"""One linear map and what follows it, under the name that the Hub's files give it."""

from collections.abc import Callable

from torch import Tensor, nn

from hfvision.layers.linear import Linear


class Dense(nn.Module):
    """A linear map called `dense`, then an activation or dropout: (..., in) -> (..., out)."""

    def __init__(self, inputs: int, outputs: int, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dense = Linear(inputs, outputs)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.dense(x))
