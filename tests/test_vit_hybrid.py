"""Hybrid ViT: the Hub's "vit-hybrid" format, sizes and channels through a convolutional stem, and our own format."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, BitConfig

import hfvision
from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.drop_path import DropPath
from hfvision.models.bit import BitConvolution, by_deviation, by_variance, feature_size, same_padded
from hfvision.plots import explain_attention
from tests.models import pixels, tiny_config, tiny_model

DATA = Path(__file__).parent / "data"
EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 0, "atol": 2e-5}  # outputs are of order one; another order of summation moves the last bits
FORM = {"layer_type": "bottleneck", "global_padding": "SAME", "embedding_dynamic_padding": True}
STAGES = {"depths": [1, 2, 1], "hidden_sizes": [32, 64, 96], "embedding_size": 16, "num_groups": 8}


def written(model, path):
    model.save_pretrained(path)
    return json.loads((path / "config.json").read_text())


# --- the shared format ----------------------------------------------------------------------------


def test_names_shapes_and_config_are_those_of_the_hubs_files(tmp_path):
    wanted = json.loads((DATA / "hub_format" / "vit-hybrid_ForImageClassification.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(wanted["config"]))
    config = AutoConfig.from_pretrained(tmp_path)
    model = hfvision.ViTHybridForImageClassification(config)
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == wanted["tensors"]
    got = written(model, tmp_path / "again")
    assert got | {"transformers_version": ""} == wanted["config"] | {"transformers_version": ""}
    # transformers made that file from a config whose backbone gives other features than it says
    with pytest.raises(ConfigError, match=r"says that the feature map has 1024 channels .* the backbone gives 64"):
        model(pixels(config))


def test_a_backbone_of_transformers_gives_the_same_feature_map():
    """transformers still has BiT; its classes are not used, and are an oracle here."""
    from transformers.models.bit.modeling_bit import BitBackbone

    for fields in ({}, {"output_stride": 8}, {"out_features": ["stage1"]}, {"width_factor": 2}, {"hidden_act": "gelu"}):
        bit = BitConfig(**{"out_features": ["stage3"], **FORM, **STAGES, **fields})
        peer = BitBackbone(bit).eval()
        for parameter in peer.parameters():
            nn.init.normal_(parameter, std=0.3)
        config = hfvision.ViTHybridConfig(
            backbone_config=bit, image_size=37, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        model = hfvision.ViTHybridModel(config).eval()
        backbone = model.embeddings.patch_embeddings.backbone
        backbone.load_state_dict(peer.state_dict())
        for size in ((37, 37), (32, 45), (1, 70)):
            x = torch.randn(2, 3, *size)
            with torch.no_grad():
                wanted = peer(x).feature_maps[-1]
                # outputs of order one after tens of convolutions: 1e-5 allows for another order of summation
                torch.testing.assert_close(backbone(x), wanted, rtol=0, atol=1e-5)
            assert feature_size(bit, size) == wanted.shape[-2:]
        assert config.backbone_featmap_shape[1] == wanted.shape[1]


def test_the_default_is_the_published_architecture():
    with torch.device("meta"):
        model = hfvision.ViTHybridForImageClassification(hfvision.ViTHybridConfig(image_size=384, num_labels=1000))
    assert model.config.backbone_featmap_shape == [1, 1024, 24, 24]
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 99


def test_the_processor_writes_what_transformers_4_writes(tmp_path):
    hfvision.ViTHybridImageProcessor().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "ViTHybridImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 224},
    }


def test_a_file_with_transformers_general_fields_in_its_backbone_loads():
    """As the first files were written; in lower case, and with what says nothing about a backbone."""
    stated = tiny_config("vit-hybrid").bit.to_diff_dict()
    old = stated | {"global_padding": "same", "torch_dtype": None, "top_k": 50, "_name_or_path": "", "num_labels": 9}
    config = tiny_config("vit-hybrid", backbone_config=old)
    assert config.to_diff_dict() == tiny_config("vit-hybrid").to_diff_dict()


WRONG = {
    "model type": ({"backbone_config": {"model_type": "resnet"}}, "of model_type 'bit'; got 'resnet'"),
    "by name": ({"backbone": "resnet50"}, "described by backbone_config"),
    "pre-activation": (
        {"backbone_config": {"layer_type": "preactivation"}},
        r"3 problems:(?s:.)*layer_type is 'bottleneck' .*'preactivation'(?s:.)*SAME",
    ),
    "feature map": ({"backbone_featmap_shape": [14, 14]}, r"is \[1, channels, height, width\]; got \[14, 14\]"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_backbone_that_the_format_does_not_have_is_refused(what):
    fields, said = WRONG[what]
    with pytest.raises(Exception, match=said):
        hfvision.ViTHybridConfig(**fields)


# --- our own format -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"standardization": "deviation"},
        {"group_norm_eps": 1e-6},
        {"standardized_stem": False},
        {"classifier": "gap"},
        {"representation_size": 9},
    ],
)
@torch.no_grad()
def test_what_the_shared_format_cannot_say_is_written_as_our_own(option, tmp_path):
    shared, own = tiny_model("vit-hybrid"), tiny_model("vit-hybrid", **option)
    assert written(shared, tmp_path / "shared")["model_type"] == "vit-hybrid"
    assert not set(option) & set(written(shared, tmp_path / "shared"))
    config = written(own, tmp_path / "own")
    assert config["model_type"] == "google_vit_hybrid"
    assert {name: config[name] for name in option} == option
    x = pixels(own.config)
    for kind in (AutoModelForImageClassification, hfvision.ViTHybridForImageClassification):
        again = kind.from_pretrained(tmp_path / "own")
        torch.testing.assert_close(again(x).logits, own(x).logits, **EXACT)
        assert written(again, tmp_path / "again")["model_type"] == "google_vit_hybrid"


def test_the_standardisation_rules_are_their_formulas():
    kernel = torch.randn(4, 3, 7, 7, dtype=torch.float64) * 1e-4 + 2
    mean, variance = kernel.mean(dim=(1, 2, 3), keepdim=True), kernel.var(dim=(1, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(by_variance(kernel), (kernel - mean) / (variance + 1e-8).sqrt())
    torch.testing.assert_close(by_deviation(kernel), (kernel - mean) / (variance.sqrt() + 1e-5))
    assert by_deviation(kernel.bfloat16()).dtype is torch.bfloat16


@torch.no_grad()
def test_the_head_reads_what_the_classifier_option_says():
    for classifier, tokens, pool in (
        ("token", 17, lambda t: t[:, 0]),
        ("gap", 16, lambda t: t.mean(dim=1)),
        ("token_unpooled", 17, lambda t: t),
        ("unpooled", 16, lambda t: t),
    ):
        for width in (None, 24):
            model = tiny_model("vit-hybrid", classifier=classifier, representation_size=width)
            x = pixels(model.config)
            features = model.vit(x).last_hidden_state
            assert features.shape == (2, tokens, 32)
            pooled = pool(features) if width is None else torch.tanh(model.vit.pooler.dense(pool(features)))
            torch.testing.assert_close(model(x).logits, model.classifier(pooled), **EXACT)
    with pytest.raises(ConfigError, match="logits per token"):
        model(x, labels=torch.tensor([0, 1]))


# --- any size -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (37, 61), (8, 90), (9, 9), (1, 1)])
def test_images_of_any_size_are_padded_by_each_convolution_alone(size):
    """As in the original: no pixels are added to the image, and the feature map rounds up."""
    model = tiny_model("vit-hybrid", "AutoModel")
    x = pixels(model.config, size=size)
    grid = (-(-size[0] // 8), -(-size[1] // 8))
    assert model(x).last_hidden_state.shape == (2, 1 + grid[0] * grid[1], 32)
    assert model.embeddings.patch_grid(x) == grid
    features = model.embeddings.patch_embeddings.backbone(x)
    torch.testing.assert_close(model.embeddings(x)[0][:, 1:], tokens_of(model, features), **ROUNDING)


def tokens_of(model, features):
    embeddings = model.embeddings
    patches = nn.functional.conv2d(features, embeddings.patch_embeddings.projection.weight)
    patches = patches.flatten(2).mT + embeddings.patch_embeddings.projection.bias
    return patches + embeddings.positions(tuple(features.shape[-2:]))[:, 1:]


@torch.no_grad()
def test_a_partial_patch_of_the_feature_map_is_padded_but_dropped_at_the_own_size():
    model = tiny_model("google_vit_hybrid", "AutoModel", image_size=37)  # a 10 x 10 map, in patches of 2
    for size, grid in ((37, (5, 5)), (41, (6, 6)), (33, (5, 5))):
        assert model.embeddings.patch_grid(pixels(model.config, size=(size, size))) == grid
        assert model(pixels(model.config, size=(size, size))).last_hidden_state.shape[1] == grid[0] * grid[1]
    odd = tiny_model("google_vit_hybrid", "AutoModel", image_size=35)  # a 9 x 9 map
    assert odd.config.grid == (4, 4)
    assert odd.embeddings.patch_grid(pixels(odd.config)) == (4, 4)  # as the table has rows for
    assert odd.embeddings.patch_grid(pixels(odd.config, size=(36, 33))) == (5, 5)
    assert odd(pixels(odd.config)).last_hidden_state.shape[1] == 16


def test_interpolation_can_be_forbidden():
    model = tiny_model("vit-hybrid")
    with pytest.raises(ImageShapeError, match="have the checkpoint's size 32x32; got 40x32"):
        model(pixels(model.config, size=(40, 32)), interpolate_pos_encoding=False)
    model(pixels(model.config), interpolate_pos_encoding=False)


def test_same_padding_puts_the_odd_pixel_at_the_end():
    x = torch.ones(1, 1, 4, 5)
    padded = same_padded(x, 3, 2)
    assert padded.shape == (1, 1, 5, 7)
    assert padded[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]  # five columns: one on either side
    assert padded[0, 0, :, 1].tolist() == [1, 1, 1, 1, 0]  # four rows: one, at the end
    assert same_padded(x, 7, 2).shape == (1, 1, 9, 11)
    assert same_padded(x, 1, 2) is x


def test_an_image_size_without_a_patch_is_refused():
    model = tiny_model("google_vit_hybrid")
    with pytest.raises(ConfigError, match="gives a feature map of 1x1, less than one patch of 2x2"):
        model.resize_input(image_size=4)


@torch.no_grad()
def test_the_saved_feature_map_follows_the_image_size(tmp_path):
    model = tiny_model("vit-hybrid")
    model.resize_input(image_size=[45, 64])
    config = written(model, tmp_path)
    assert (config["image_size"], config["backbone_featmap_shape"]) == ([45, 64], [1, 64, 6, 8])
    assert config["model_type"] == "vit-hybrid"
    assert model.vit.embeddings.position_embeddings.shape == (1, 49, 32)


# --- any channels ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit-hybrid", "google_vit_hybrid"])
def test_the_stem_keeps_its_scale_for_other_channels(kind):
    """Before the norm, so that not the norm hides a lost scale; a standardised kernel could not do this."""
    model = tiny_model(kind)
    x = pixels(model.config)
    stem = model.vit.embeddings.patch_embeddings.stem
    wanted, grey = stem(x), stem(x[:, :1].expand(-1, 3, -1, -1))
    for channels, rule, image, response in (
        (6, "repeat", torch.cat([x, x], dim=1), wanted),
        (1, "mean", x[:, :1], grey),
        (12, "mean", x[:, :1].expand(-1, 12, -1, -1), grey),
        (4, {1: "red", 2: "green", 3: "blue"}, torch.cat([torch.rand_like(x[:, :1]), x], dim=1), wanted),
        (2, lambda kernel, count: kernel[:, :count], x[:, :2], stem(x * torch.tensor([1, 1, 0]).view(3, 1, 1))),
    ):
        other = copy.deepcopy(model)
        other.resize_input(num_channels=channels, channel_init=rule)
        got = other.vit.embeddings.patch_embeddings.stem(image)
        # sums of 147 products or more, in another order
        torch.testing.assert_close(got, response, rtol=0, atol=1e-5 * float(response.abs().max()))


@torch.no_grad()
def test_other_channels_are_saved_under_our_own_type_and_can_change_again(tmp_path):
    model = tiny_model("vit-hybrid")
    x = pixels(model.config)
    wanted = model(x).logits
    model.resize_input(num_channels=6, channel_init="repeat")
    config = written(model, tmp_path)
    assert (config["model_type"], config["standardized_stem"]) == ("google_vit_hybrid", False)
    assert config["num_channels"] == config["backbone_config"]["num_channels"] == 6
    again = AutoModelForImageClassification.from_pretrained(tmp_path, num_channels=3, channel_init={0: 0, 1: 1, 2: 2})
    assert again.config.standardized_stem is False
    torch.testing.assert_close(model(torch.cat([x, x], dim=1)).logits, wanted, **ROUNDING)
    again.resize_input(num_channels=6, channel_init="repeat")
    assert again(torch.cat([x, x], dim=1)).logits.isfinite().all()


def test_the_stem_stays_trainable_or_frozen_as_it_was():
    model = tiny_model("vit-hybrid")
    model.vit.embeddings.patch_embeddings.stem.weight.requires_grad = False
    model.resize_input(num_channels=4)
    stem = model.vit.embeddings.patch_embeddings.stem
    assert isinstance(stem, BitConvolution) and not stem.weight.requires_grad and stem.weight.shape[1] == 4


def test_a_backbone_with_stochastic_depth_drops_only_in_training():
    bit = tiny_config("vit-hybrid").bit.to_dict() | {"drop_path_rate": 0.5}
    model = tiny_model("vit-hybrid", "AutoModel", backbone_config=bit)
    rates = [m.rate for m in model.embeddings.modules() if isinstance(m, DropPath)]
    assert rates == [0.5]  # of the second of two blocks; the first has none
    x = pixels(model.config)
    assert torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)


@torch.no_grad()
def test_hidden_patches_get_the_mask_token():
    config = tiny_config("vit-hybrid")
    model = hfvision.ViTHybridModel(config, use_mask_token=True).eval()
    nn.init.normal_(model.embeddings.mask_token)
    x, hidden = pixels(config), torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, 3] = True
    tokens, _ = model.embeddings(x, hidden)
    wanted = model.embeddings.mask_token + model.embeddings.position_embeddings[:, 4]
    torch.testing.assert_close(tokens[:, 4], wanted[0].expand(2, -1), **ROUNDING)
    assert not torch.equal(model(x, bool_masked_pos=hidden).pooler_output, model(x).pooler_output)


def test_a_heat_map_covers_the_image():
    """A patch is one place of the feature map, but eight pixels of the image."""
    model = tiny_model("vit-hybrid")
    processor = hfvision.ViTImageProcessor(size={"height": 40, "width": 64})
    explained = explain_attention(model, processor, torch.rand(3, 50, 60) * 255)
    assert (explained.patches.shape, explained.heat.shape) == ((5, 8), (40, 64))
    brightest = np.unravel_index(explained.patches.argmax(), (5, 8))
    row, column = np.unravel_index(explained.heat.argmax(), (40, 64))
    assert (row // 8, column // 8) == tuple(brightest)


@torch.no_grad()
def test_a_token_that_is_masked_from_attention_changes_nothing():
    model = tiny_model("vit-hybrid", "AutoModel")
    x = pixels(model.config)
    seen = torch.ones(2, 17)
    seen[:, -1] = 0
    hidden = model(x, attention_mask=seen).last_hidden_state
    model.embeddings.position_embeddings[:, -1, :4] += 3.0
    got = model(x, attention_mask=seen).last_hidden_state
    torch.testing.assert_close(got[:, :-1], hidden[:, :-1], rtol=0, atol=1e-5)
    assert not torch.allclose(got[:, -1], hidden[:, -1])
