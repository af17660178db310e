"""Segmenter: what is its own beside the suite over the registry."""

import pytest
import torch
from torch import nn

import hfvision
from hfvision.errors import ConfigError
from hfvision.training.head import replace_head
from hfvision.upsampling import upsample
from tests.models import tiny_config, with_visible_weights

DECODERS = ["linear", "mask_transformer"]
EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 0, "atol": 2e-5}  # outputs of order one; another order of summation moves the last bits


def tiny_segmenter(**fields):
    return with_visible_weights(hfvision.SegmenterForSemanticSegmentation(tiny_config("segmenter", **fields)))


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(32, 32), (29, 43), (9, 70)])
def test_images_are_padded_to_whole_patches_and_the_answer_is_cropped(decoder, size):
    model = tiny_segmenter(decoder_type=decoder)
    x = images(*size)
    height, width = size
    padded = nn.functional.pad(x, (0, -width % 8, 0, -height % 8))
    outputs, coarse = model(x), model(x, upsample=False).logits
    assert coarse.shape == (2, 5, padded.shape[2] // 8, padded.shape[3] // 8)
    torch.testing.assert_close(outputs.logits, model(padded).logits[..., :height, :width], **EXACT)
    torch.testing.assert_close(outputs.logits, upsample(coarse, model.upsampling(size)), **EXACT)


@torch.no_grad()
def test_masks_are_cosines_of_patches_and_classes():
    model = tiny_segmenter()
    outputs = model(images(32, 40), upsample=False)
    assert outputs.masks.shape == outputs.logits.shape == (2, 5, 4, 5)
    assert outputs.class_embeddings.shape == (2, 5, 32)
    torch.testing.assert_close(outputs.class_embeddings.norm(dim=-1), torch.ones(2, 5), **ROUNDING)
    assert outputs.masks.abs().max() <= 1 + 1e-6
    over_classes = model.decoder.mask_norm(outputs.masks.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(outputs.logits, over_classes, **ROUNDING)
    plain = tiny_segmenter(decoder_type="linear")(images(32, 32))
    assert plain.masks is None and plain.class_embeddings is None


@torch.no_grad()
@pytest.mark.parametrize("distilled", [False, True])
def test_only_patches_are_decoded_and_positions_are_resampled_bilinearly(distilled):
    model = tiny_segmenter(distilled=distilled, decoder_type="linear")
    x, prefix = images(48, 40), 2 if distilled else 1
    encoded = model.segmenter(x, output_hidden_states=True)
    assert encoded.last_hidden_state.shape == (2, prefix + 6 * 5, 32)
    patches = model.decoder.classifier(encoded.last_hidden_state[:, prefix:])
    torch.testing.assert_close(model(x, upsample=False).logits.flatten(2).mT, patches, **ROUNDING)
    embeddings = model.segmenter.embeddings
    table = embeddings.position_embeddings[:, prefix:].mT.unflatten(2, (4, 4))
    table = nn.functional.interpolate(table, size=(6, 5), mode="bilinear").flatten(2).mT
    wanted = embeddings.patch_embeddings(x).flatten(2).mT + table
    torch.testing.assert_close(encoded.hidden_states[0][:, prefix:], wanted, **ROUNDING)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_loss_is_the_mean_over_the_pixels_that_count(decoder):
    model = tiny_segmenter(decoder_type=decoder)
    x = images(29, 43)
    labels = torch.randint(0, 5, (2, 29, 43), generator=torch.Generator().manual_seed(2))
    labels[0, :9] = 255
    wanted = nn.functional.cross_entropy(model(x).logits, labels, ignore_index=255)
    torch.testing.assert_close(model(x, labels=labels).loss, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_new_head_is_made_of_what_depends_on_the_classes_and_nothing_else(decoder):
    model = tiny_segmenter(decoder_type=decoder)
    before = {name: p.clone() for name, p in model.named_parameters()}
    made = replace_head(model, ["ant", "bee", "cow"])
    assert (
        sorted(made)
        == {
            "linear": ["decoder.classifier.bias", "decoder.classifier.weight"],
            "mask_transformer": ["decoder.class_tokens", "decoder.mask_norm.bias", "decoder.mask_norm.weight"],
        }[decoder]
    )
    assert model(images(32, 32)).logits.shape == (2, 3, 32, 32)
    assert all(p.equal(before[name]) for name, p in model.named_parameters() if name not in made)


def test_one_class_needs_the_linear_decoder():
    with pytest.raises(ConfigError, match=r"normalises over the classes.*got num_labels 1"):
        tiny_segmenter(num_labels=1)
    model = tiny_segmenter(num_labels=1, decoder_type="linear")
    labels = torch.randint(0, 2, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    outputs = model(images(32, 32), labels=labels)
    wanted = nn.functional.binary_cross_entropy_with_logits(outputs.logits[:, 0], labels.float())
    torch.testing.assert_close(outputs.loss, wanted, rtol=1e-5, atol=0)


@torch.no_grad()
def test_the_decoder_attends_as_the_model_is_told():
    model = tiny_segmenter(decoder_hidden_size=16)
    x = images(32, 32)
    model.set_attn_implementation("eager")
    assert model.decoder.layer[0].attention.attention.config._attn_implementation == "eager"
    eager = model(x).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(x).logits, eager, **ROUNDING)


def test_every_parameter_learns():
    model = tiny_segmenter(distilled=True).train()
    labels = torch.randint(0, 5, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    model(images(32, 32), labels=labels).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_decoders_sizes_follow_the_encoders_unless_they_are_given():
    config = hfvision.SegmenterConfig(hidden_size=192, num_attention_heads=3)
    assert (config.decoder_hidden_size, config.decoder_num_attention_heads) == (192, 3)
    assert config.decoder_intermediate_size == 768
    assert not {"encoder_stride", "pooler_act", "out_features"} & config.to_dict().keys()
    with pytest.raises(Exception, match="decoder_hidden_size 192 cannot be split among 5 attention heads"):
        hfvision.SegmenterConfig(hidden_size=192, num_attention_heads=3, decoder_num_attention_heads=5)
