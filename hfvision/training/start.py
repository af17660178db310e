"""How the weights of a vision transformer start that is trained from nothing, on little data.

Paper: Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers", arXiv 2305.09828. In pretrained
       transformers the product of queries and keys is near the identity, that of values and output near minus the
       identity, and positions look like waves; a model that starts so finds out sooner what to attend to.

Shapes: D width, H heads, d width of a head, h x w patches.
"""

import numpy as np
import torch
from torch import Tensor, nn

from hfvision.layers.position import Grid
from hfvision.models.vit import ViTAttention, ViTEmbeddings

QUERY_KEY = (0.7, 0.7)  # shares of noise and of the identity, section 3 of the paper
VALUE_OUTPUT = (0.4, -0.4)
WAVES = 1.0  # height of the waves of positions
LONGEST_WAVE = 100  # patches, over 2 pi


@torch.no_grad()
def start_mimetic(model: nn.Module) -> bool:
    """Set the attention and the positions of a ViT, or of a model built on one; False for a model that has no such."""
    inputs = [module for module in model.modules() if isinstance(module, ViTEmbeddings)]
    for embeddings in inputs:
        patches = embeddings.position_embeddings[0, embeddings.prefix_tokens :]
        patches.copy_(WAVES * waves(embeddings.grid, patches.shape[1]))
    for module in model.modules():
        if inputs and isinstance(module, ViTAttention):
            _start_attention(module)
    return bool(inputs)


def waves(grid: Grid, width: int) -> Tensor:
    """(h * w, D): sines and cosines of row and column, a quarter of the width each (what is left over is zero)."""
    quarter = width // 4
    frequencies = LONGEST_WAVE ** -(np.arange(quarter) / max(quarter, 1))
    places = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    parts = [wave(place.reshape(-1, 1) * frequencies) for place in places for wave in (np.sin, np.cos)]
    table = np.zeros((grid[0] * grid[1], width), dtype=np.float32)
    table[:, : 4 * quarter] = np.concatenate(parts, axis=1)
    return torch.from_numpy(table)


def _start_attention(module: ViTAttention) -> None:
    attention, output = module.attention, module.output.dense
    size, width = attention.head_size, attention.query.in_features
    for head in range(0, width, size):
        left, values, right = torch.linalg.svd(_near_identity(width, *QUERY_KEY))
        root = (values[:size] * size**0.5).sqrt()  # scores are divided by the root of d
        attention.query.weight[head : head + size] = (left[:, :size] * root).T
        attention.key.weight[head : head + size] = root[:, None] * right[:size]
    left, values, right = torch.linalg.svd(_near_identity(width, *VALUE_OUTPUT))
    attention.value.weight.copy_(values.sqrt()[:, None] * right)
    output.weight.copy_(left * values.sqrt())


def _near_identity(width: int, noise: float, identity: float) -> Tensor:
    """(D, D): noise * Z + identity * I, where Z has independent normal entries of variance 1 / D."""
    return noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
