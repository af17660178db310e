"""One linear map and what follows it, under the name that the Hub's files give it."""

from torch import Tensor, nn

from hfvision.layers.in_place import activated
from hfvision.layers.linear import Linear
from hfvision.layers.plain import may_stand_plain


@may_stand_plain
class Dense(nn.Module):
    """A linear map called `dense`, then an activation or dropout: (..., in) -> (..., out)."""

    def __init__(self, inputs: int, outputs: int, after: nn.Module) -> None:
        super().__init__()
        self.dense = Linear(inputs, outputs)
        self.after = after
        self.out_features = outputs

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.dense, self.after, x)
