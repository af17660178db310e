"""The layers' own arithmetic: position tables, patch kernels, channels."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from hfvision.errors import ConfigError
from hfvision.layers.drop_path import DropPath
from hfvision.layers.masked_image import PixelDecoder
from hfvision.layers.patch_embedding import PatchEmbedding, with_channels, with_patch_size
from hfvision.layers.position import resample_position_table


@pytest.mark.parametrize("new_grid", [(6, 6), (7, 4), (2, 3), (4, 4)])
def test_the_corner_aligned_rule_is_scipys_zoom(new_grid):
    """The original's rule; float32 against scipy's float64 interpolation, hence 1e-6 for values of order one."""
    table = torch.randn(1, 1 + 16, 8)
    got = resample_position_table(table, (4, 4), new_grid, prefix_tokens=1, rule="corner_aligned")
    zoom = (new_grid[0] / 4, new_grid[1] / 4, 1)
    wanted = scipy.ndimage.zoom(table[0, 1:].reshape(4, 4, 8).numpy(), zoom, order=1)
    np.testing.assert_allclose(got[0, 1:].reshape(*new_grid, 8).numpy(), wanted, rtol=0, atol=1e-6)
    assert torch.equal(got[:, :1], table[:, :1])


def test_the_same_grid_gives_the_same_table_bit_for_bit():
    table = torch.randn(1, 2 + 12, 8)
    for rule in ("bicubic", "corner_aligned"):
        assert torch.equal(resample_position_table(table, (3, 4), (3, 4), prefix_tokens=2, rule=rule), table)


def test_half_precision_tables_are_resampled_in_single():
    table = torch.randn(1, 17, 8)
    got = resample_position_table(table.bfloat16(), (4, 4), (6, 6), 1)
    wanted = resample_position_table(table.bfloat16().float(), (4, 4), (6, 6), 1).bfloat16()
    assert torch.equal(got, wanted)


def test_mean_channels_keep_the_response_to_a_grey_image():
    kernel = torch.randn(5, 3, 4, 4)
    for channels in (1, 2, 4, 12):
        new = with_channels(kernel, channels, "mean")
        torch.testing.assert_close(new.sum(dim=1), kernel.sum(dim=1), rtol=0, atol=1e-5)  # another order of summation


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_repeated_channels_keep_the_response_to_a_repeated_image(channels):
    kernel, image = torch.randn(5, 3, 4, 4, dtype=torch.float64), torch.randn(channels, 4, 4, dtype=torch.float64)
    if channels >= 3:
        image = image[[c % 3 for c in range(channels)]]
    seen = image[[c % channels for c in range(3)]]
    new = with_channels(kernel, channels, "repeat")
    torch.testing.assert_close(
        torch.einsum("dcij,cij->d", new, image), torch.einsum("dcij,cij->d", kernel, seen), rtol=1e-12, atol=0
    )


def test_channels_are_mapped_by_index_and_by_name():
    kernel = torch.randn(5, 3, 4, 4)
    by_index = with_channels(kernel, 4, {3: 0, 1: 2})
    assert torch.equal(by_index[:, 3], kernel[:, 0]) and torch.equal(by_index[:, 1], kernel[:, 2])
    assert not by_index[:, [0, 2]].any()
    by_name = with_channels(kernel, 3, {"nir": None, "r": "red", "r again": "red"})
    assert torch.equal(by_name[:, 1], kernel[:, 0] / 2) and not by_name[:, 0].any()
    assert torch.equal(with_channels(kernel, 2, lambda k, n: k[:, :n]), kernel[:, :2])


@pytest.mark.parametrize("new_size", [(8, 8), (6, 5), (16, 16)])
def test_a_larger_patch_kernel_answers_to_enlarged_patches_as_before(new_size):
    """FlexiViT's property, exact where the resize loses nothing; 1e-4 for float32 after a pseudo-inverse."""
    kernel, patch = torch.randn(5, 3, 4, 4), torch.randn(1, 3, 4, 4)
    enlarged = torch.nn.functional.interpolate(patch, size=new_size, mode="bilinear", antialias=True)
    new = with_patch_size(kernel, new_size)
    torch.testing.assert_close(
        torch.einsum("dcij,bcij->bd", new, enlarged), torch.einsum("dcij,bcij->bd", kernel, patch), rtol=0, atol=1e-4
    )


def test_a_new_kernel_keeps_the_bias_and_what_is_trained():
    embedding = PatchEmbedding(3, 8, 4)
    embedding.requires_grad_(False)
    bias = embedding.projection.bias.clone()
    embedding.set_kernel(torch.randn(8, 5, 2, 2))
    assert embedding(torch.randn(1, 5, 6, 6)).shape == (1, 8, 3, 3) and embedding.patch_size == (2, 2)
    assert torch.equal(embedding.projection.bias, bias)
    assert not any(p.requires_grad for p in embedding.parameters())


def test_a_resized_decoder_paints_the_same_picture():
    decoder, tokens = PixelDecoder(8, 4, 3), torch.randn(1, 8, 2, 2)
    twice = decoder.resized(8, 3, "mean")
    assert twice(tokens).shape == (1, 3, 16, 16)
    wanted = torch.nn.functional.interpolate(decoder(tokens)[..., :4, :4], size=(8, 8), mode="bilinear")
    torch.testing.assert_close(
        decoder.resized(8, 3, {0: 0, 1: 1, 2: 2})(tokens)[..., :8, :8], wanted, rtol=0, atol=1e-6
    )
    grey = decoder.resized(4, 1, "mean")(tokens)
    torch.testing.assert_close(grey, decoder(tokens).mean(dim=1, keepdim=True), rtol=0, atol=1e-6)


def test_drop_path_keeps_the_expectation():
    """10,000 draws at rate 0.25: the mean of ones has a standard error of 0.006."""
    layer = DropPath(0.25).train()
    out = layer(torch.ones(10_000, 2))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(out), out)


def test_an_unknown_position_rule_is_refused():
    with pytest.raises(ConfigError, match="got 'linear'"):
        resample_position_table(torch.zeros(1, 17, 8), (4, 4), (5, 5), 1, rule="linear")
