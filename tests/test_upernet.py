"""UPerNet on trunks of this library and of transformers: the numbers of transformers, whatever the trunk."""

import json

import pytest
import torch
import transformers
from transformers.models.convnext.configuration_convnext import ConvNextConfig
from transformers.models.swin.configuration_swin import SwinConfig
from transformers.models.upernet.configuration_upernet import UperNetConfig as PeerConfig
from transformers.models.upernet.modeling_upernet import UperNetForSemanticSegmentation as Peer

import hfvision
from hfvision.errors import ConfigError, HfvisionError, ImageShapeError
from hfvision.models.upernet import UperNetConfig, UperNetForSemanticSegmentation
from tests.models import pixels, tiny_config, with_visible_weights

STAGES = ["stage1", "stage2", "stage3", "stage4"]
TRUNKS = {
    "swin": lambda: SwinConfig(
        image_size=64, patch_size=2, embed_dim=16, depths=[2] * 4, num_heads=[1, 2, 2, 4], window_size=4,
        out_features=STAGES,
    ),
    "convnext": lambda: ConvNextConfig(hidden_sizes=[16, 24, 32, 40], depths=[1] * 4, out_features=STAGES),
}  # fmt: skip


@pytest.fixture(params=TRUNKS)
def peer(request):
    """transformers' own model, trunk included, with weights and statistics that show."""
    hfvision.unregister()
    try:
        config = PeerConfig(backbone_config=TRUNKS[request.param](), hidden_size=24, auxiliary_channels=8, num_labels=5)
        model = with_visible_weights(Peer(config))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
        yield model
    finally:
        hfvision.register()


def assert_close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (61, 75)])
def test_a_folder_of_transformers_gives_its_numbers(peer, size, tmp_path):
    peer.save_pretrained(tmp_path)
    peer.set_attn_implementation("eager")  # with maps
    hfvision.register()
    ours, loading = UperNetForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(2, 3, *size, generator=generator), torch.randint(0, 5, (2, *size), generator=generator)
    labels[:, :5] = 255
    wants = {"output_hidden_states": True}
    if peer.backbone.has_attentions:
        wants["output_attentions"] = True
    got, wanted = ours.eval()(x, labels=labels, **wants), peer(x, labels=labels, **wants)
    assert_close(got.logits, wanted.logits)
    assert_close(got.loss, wanted.loss)
    for name in ("hidden_states", "attentions"):
        assert len(got.get(name) or ()) == len(wanted.get(name) or ()), name
        for mine, theirs in zip(got.get(name) or (), wanted.get(name) or (), strict=True):
            assert_close(mine, theirs)


@torch.no_grad()
def test_a_folder_saved_here_loads_in_transformers_and_keeps_its_bytes(peer, tmp_path):
    peer.save_pretrained(tmp_path / "theirs")
    hfvision.register()
    ours = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "theirs").eval()
    ours.save_pretrained(tmp_path / "ours")
    hfvision.unregister()
    again, loading = Peer.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values())
    again.save_pretrained(tmp_path / "again")  # which also writes the dtype of the trunk, unknown before loading
    mine, theirs = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("ours", "again"))
    assert mine == theirs
    saved = [(tmp_path / side / "model.safetensors").read_bytes() for side in ("theirs", "ours")]
    assert saved[0] == saved[1]
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_close(ours(x).logits, again.eval()(x).logits)


@pytest.mark.parametrize(
    "trunk",
    [
        hfvision.ViTConfig(
            image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=16, out_indices=[1, 2, 3],
        ),
        hfvision.DeiTConfig(
            image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=16, out_indices=[1, 2, 3],
        ),
        hfvision.SegformerConfig(
            num_encoder_blocks=3, depths=[1, 1, 1], sr_ratios=[4, 2, 1], hidden_sizes=[8, 16, 24],
            patch_sizes=[7, 3, 3], strides=[4, 2, 2], num_attention_heads=[1, 2, 2], mlp_ratios=[2, 2, 2],
            out_features=STAGES[:3], drop_path_rate=0.0,
        ),
    ],
    ids=["vit", "deit", "segformer"],
)  # fmt: skip
def test_trunks_that_transformers_has_no_backbone_for_work_and_come_back(trunk, tmp_path):
    config = UperNetConfig(backbone_config=trunk, hidden_size=8, auxiliary_channels=8, num_labels=5)
    model = with_visible_weights(UperNetForSemanticSegmentation(config))
    assert len(model.blocks()) == 3
    x = torch.randn(2, 3, 40, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 40, 28, dtype=torch.long)
    answer = model(x, labels=labels)
    assert answer.logits.shape == (2, 5, 40, 28) and answer.loss > 0
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert type(again) is UperNetForSemanticSegmentation
    torch.testing.assert_close(again(x).logits, answer.logits, rtol=0, atol=0)


def test_sizes_and_channels_go_to_the_trunk(tmp_path):
    model = with_visible_weights(UperNetForSemanticSegmentation(tiny_config("upernet")))
    model.save_pretrained(tmp_path)
    changed = {"num_channels": 6, "window_size": 4}
    loaded = transformers.AutoModelForSemanticSegmentation.from_pretrained(tmp_path, channel_init="repeat", **changed)
    assert {name: getattr(loaded.config.backbone_config, name) for name in changed} == changed
    x = pixels(model.config)
    model.resize_input(window_size=4)
    torch.testing.assert_close(loaded(torch.cat([x, x], dim=1)).logits, model(x).logits, rtol=0, atol=2e-5)


def test_a_trunk_of_transformers_own_keeps_its_geometry_and_hides_its_depth():
    config = UperNetConfig(backbone_config=TRUNKS["convnext"](), hidden_size=8, auxiliary_channels=4)
    model = UperNetForSemanticSegmentation(config)
    for ask in (lambda: model.resize_input(num_channels=4), model.layer_groups, model.blocks):
        with pytest.raises(ConfigError, match="ConvNextBackbone is a trunk of transformers' own; only those of"):
            ask()


def test_the_loss_ignores_and_weighs_as_the_config_says():
    model = with_visible_weights(
        UperNetForSemanticSegmentation(tiny_config("upernet", loss_ignore_index=0, auxiliary_loss_weight=0.0))
    )
    x = pixels(model.config)
    labels = torch.randint(0, 5, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    answer = model(x, labels=labels)
    wanted = torch.nn.functional.cross_entropy(answer.logits, labels, ignore_index=0)
    torch.testing.assert_close(answer.loss, wanted)


def test_the_auxiliary_head_runs_in_training_and_for_a_loss_only():
    model = UperNetForSemanticSegmentation(tiny_config("upernet")).eval()
    x = pixels(model.config)
    assert model(x).auxiliary_logits is None
    assert model(x, labels=torch.zeros(2, 32, 32, dtype=torch.long)).auxiliary_logits[0].shape == (2, 5, 2, 2)
    assert len(model.train()(x).auxiliary_logits) == 1


def test_training_on_one_image_at_a_time_is_refused_with_the_reason():
    model = UperNetForSemanticSegmentation(tiny_config("upernet")).train()
    with pytest.raises(ImageShapeError, match="two images at least to train on"):
        model(pixels(model.config, batch=1))
    model.decode_head.eval()
    model(pixels(model.config, batch=2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auxiliary_in_channels": 7}, "reads a map of 64 channels; got auxiliary_in_channels 7"),
        (
            {"backbone_config": {"model_type": "swin", "embed_dim": 12, "out_features": ["stage1", "stage2"]}},
            "map number 3, the trunk gives 2",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(HfvisionError, match=message):
        UperNetForSemanticSegmentation(tiny_config("upernet", **fields))
