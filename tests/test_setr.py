"""SETR's decoders, and what it does with images of other sizes."""

import pytest
import torch
from torch import nn

from hfvision.layers.conv import conv3x3_of_joined, conv3x3_of_resized, resize
from hfvision.models.setr import SetrConfig, SetrForSemanticSegmentation
from hfvision.upsampling import Upsampling, upsample
from tests.models import pixels, tiny_config, with_visible_weights

DECODERS = {"naive": 1, "pup": 8, "mla": 4}  # coarse logits per patch and side


def tiny_setr(decoder, **fields):
    fields = {"auxiliary_indices": [0, 1], **fields}
    return with_visible_weights(SetrForSemanticSegmentation(tiny_config("setr", decoder_type=decoder, **fields)))


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("old", "new"), [((5, 7), (20, 28)), ((3, 4), (7, 5)), ((1, 1), (4, 6)), ((6, 6), (6, 6))])
@pytest.mark.parametrize("channels", [2, 64])  # few: the straight way; many: on the coarse map
def test_the_convolution_of_a_resized_map_is_computed_on_the_coarse_one(old, new, align_corners, channels):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *old, generator=generator, dtype=torch.float64)
    kernel = torch.randn(3, channels, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    wanted = nn.functional.conv2d(resize(x, new, align_corners), kernel, bias, padding=1)
    torch.testing.assert_close(conv3x3_of_resized(x, kernel, new, bias, align_corners), wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_maps_of_several_sizes_are_convolved_as_if_they_were_joined():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 64, side, side + 1, generator=generator, dtype=torch.float64) for side in (12, 6, 3, 1)]
    kernel = torch.randn(4, 256, 3, 3, generator=generator, dtype=torch.float64)
    joined = torch.cat([resize(one, (12, 13)) for one in maps], dim=1)
    wanted = nn.functional.conv2d(joined, kernel, padding=1)
    torch.testing.assert_close(conv3x3_of_joined(maps, kernel), wanted, rtol=0, atol=1e-12)


def test_gradients_through_the_coarse_map_equal_those_of_the_straight_way():
    x = torch.randn(1, 64, 4, 4, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(2, 64, 3, 3, dtype=torch.float64, requires_grad=True)
    ways = (
        conv3x3_of_resized(x, kernel, (16, 16)),
        nn.functional.conv2d(resize(x, (16, 16)), kernel, padding=1),
    )
    got, wanted = (torch.autograd.grad(way.square().sum(), (x, kernel)) for way in ways)
    torch.testing.assert_close(got, wanted)


@torch.no_grad()
@pytest.mark.parametrize(("decoder", "scale"), DECODERS.items())
def test_every_decoder_answers_for_every_pixel_of_any_image(decoder, scale):
    model = tiny_setr(decoder)
    for size, grid in (((32, 32), (4, 4)), ((37, 20), (5, 3)), ((7, 9), (1, 2))):
        x = pixels(model.config, size=size)
        coarse = model(x, upsample=False).logits
        assert coarse.shape == (2, 5, scale * grid[0], scale * grid[1])
        padded = nn.functional.pad(x, (0, 8 * grid[1] - size[1], 0, 8 * grid[0] - size[0]))
        logits = model(padded).logits[..., : size[0], : size[1]]
        torch.testing.assert_close(model(x).logits, logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_image_of_the_models_own_size_that_ends_in_a_partial_patch_loses_it():
    model = tiny_setr("naive", image_size=[36, 32])
    x = pixels(model.config, size=(36, 32))
    coarse = model(x, upsample=False).logits
    assert coarse.shape[-2:] == (4, 4)
    torch.testing.assert_close(model(x).logits, upsample(coarse, Upsampling((36, 32))))


@torch.no_grad()
@pytest.mark.parametrize("decoder", DECODERS)
def test_auxiliary_heads_run_in_training_and_for_a_loss_only(decoder):
    model, labels = tiny_setr(decoder), torch.zeros(2, 32, 32, dtype=torch.long)
    x = pixels(model.config)
    assert model(x).auxiliary_logits is None
    answer = model(x, labels=labels)
    assert len(answer.auxiliary_logits) == len(model.train()(x).auxiliary_logits) == 2
    upsampling = model.upsampling((32, 32))
    parts = [model.pixel_loss(one, labels, upsampling) for one in (answer.logits, *answer.auxiliary_logits)]
    torch.testing.assert_close(answer.loss, parts[0] + 0.4 * (parts[1] + parts[2]))


def test_the_loss_is_the_mean_over_all_pixels_ignored_ones_included():
    model = tiny_setr("naive", auxiliary_indices=[])
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, 16:] = 255
    x = pixels(model.config)
    valid = nn.functional.cross_entropy(model(x).logits, labels, ignore_index=255)
    torch.testing.assert_close(model(x, labels=labels).loss, valid / 2)


@pytest.mark.parametrize("decoder", DECODERS)
def test_all_that_is_trained_gets_a_gradient(decoder):
    model = tiny_setr(decoder)
    generator = torch.Generator().manual_seed(0)
    model(pixels(model.config), labels=torch.randint(0, 5, (2, 32, 32), generator=generator)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # the class token of an MLA is dropped before the blocks; its last level is read by no auxiliary head here
    assert without == (["backbone.embeddings.cls_token"] if decoder == "mla" else [])


def test_the_published_blocks_are_the_default():
    large, base = {"num_hidden_layers": 24}, {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
    read = {
        (name, depth["num_hidden_layers"]): (config.decoder_indices, config.auxiliary_indices)
        for name in DECODERS
        for depth in (large, base)
        for config in [SetrConfig(decoder_type=name, **depth)]
    }
    assert read == {
        ("naive", 24): ([23], [9, 14, 19]),
        ("naive", 12): ([11], [2, 5, 8]),
        ("pup", 24): ([23], [9, 14, 19, 23]),
        ("pup", 12): ([11], [4, 7, 9, 11]),
        ("mla", 24): ([5, 11, 17, 23], [0, 1, 2, 3]),
        ("mla", 12): ([2, 5, 8, 11], [0, 1, 2, 3]),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_indices": [0, 1]}, "the 'pup' decoder reads 1 of the blocks"),
        ({"decoder_indices": [2]}, r"decoder_indices are blocks from 0 to 1; got \[2\]"),
        ({"decoder_type": "mla", "auxiliary_indices": [4]}, "auxiliary_indices are levels from 0 to 3"),
        ({"decoder_type": "mpa"}, "decoder_type"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(Exception, match=message):
        tiny_config("setr", **fields)
