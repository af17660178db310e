"""SegFormer: what is its own beside the suites over the registry and over shared file formats."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import hfvision
from hfvision.errors import ConfigError, ImageShapeError
from hfvision.models.segformer import decoder as segformer_decoder
from tests.models import pixels, tiny_config, tiny_model, with_visible_weights

DATA = Path(__file__).parent / "data"
NAMES = ["SegformerModel", "SegformerForImageClassification", "SegformerForSemanticSegmentation"]
ROUNDING = {"rtol": 0, "atol": 2e-5}  # outputs of order one; other orders of summation, and weights multiplied first
TINY = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
TINY |= {"decoder_hidden_size": 16, "num_labels": 5, "drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}


def peer_and_ours(name, folder, **fields):
    """transformers' own class with visible weights, and ours from its folder."""
    peer = with_visible_weights(getattr(transformers, name)(transformers.SegformerConfig(**{**TINY, **fields})))
    if hasattr(peer, "decode_head"):
        torch.nn.init.uniform_(peer.decode_head.batch_norm.running_mean, -1, 1)
        torch.nn.init.uniform_(peer.decode_head.batch_norm.running_var, 0.5, 2)
    peer.save_pretrained(folder)
    return peer, getattr(hfvision, name).from_pretrained(folder).eval()


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["segformer_ForImageClassification", "segformer_ForSemanticSegmentation"])
def test_names_and_shapes_are_those_of_the_hubs_files(name):
    wanted = json.loads((DATA / "hub_format" / f"{name}.json").read_text())
    model = getattr(hfvision, wanted["class"])(hfvision.SegformerConfig(**wanted["config"]))
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == wanted["tensors"]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_transformers_computes_alike_at_any_size_and_keeps_its_bytes(name, tmp_path):
    peer, ours = peer_and_ours(name, tmp_path / "theirs")
    for size in ((64, 64), (70, 101), (96, 33)):
        got, wanted = (model(images(*size), output_hidden_states=True) for model in (ours, peer))
        assert got.keys() == wanted.keys()
        for key in wanted:
            torch.testing.assert_close(got[key], wanted[key], **ROUNDING, msg=lambda m, key=key: f"{key}: {m}")
    ours.save_pretrained(tmp_path / "ours")
    configs = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours")]
    assert configs[0] == configs[1]
    saved = [(tmp_path / side / "model.safetensors").read_bytes() for side in ("theirs", "ours")]
    assert saved[0] == saved[1]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES[:2])
def test_the_last_stage_can_leave_as_tokens(name, tmp_path):
    peer, ours = peer_and_ours(name, tmp_path, reshape_last_stage=False)
    got, wanted = (model(images(64, 96), output_hidden_states=True) for model in (ours, peer))
    torch.testing.assert_close(got[0], wanted[0], **ROUNDING)
    assert got.hidden_states[-1].shape == wanted.hidden_states[-1].shape == (2, 6, 16)


@torch.no_grad()
def test_the_decoder_does_not_care_how_the_last_stage_leaves():
    model = tiny_model("segformer", "AutoModelForSemanticSegmentation")
    other = hfvision.SegformerForSemanticSegmentation(tiny_config("segformer", reshape_last_stage=False)).eval()
    other.load_state_dict(model.state_dict())
    assert other(images(40, 56)).logits.equal(model(images(40, 56)).logits)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (9, 9)])
def test_images_smaller_than_a_reduction_are_answered(size):
    model = with_visible_weights(hfvision.SegformerForSemanticSegmentation(hfvision.SegformerConfig(**TINY)))
    logits = model(images(*size), upsample=True).logits
    assert logits.shape == (2, 5, *size) and logits.isfinite().all()


# --- the decoder ------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 64), (72, 40)])
def test_rows_in_strips_equal_all_at_once(size, monkeypatch):
    model = tiny_model("segformer", "AutoModelForSemanticSegmentation")
    monkeypatch.setattr(segformer_decoder, "STRIP", 1)  # one row at a time
    strips = model(images(*size)).logits
    with torch.enable_grad():
        at_once = model(images(*size)).logits
    torch.testing.assert_close(strips, at_once.detach(), **ROUNDING)
    assert strips.is_contiguous()


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@torch.no_grad()
def test_inference_holds_no_map_of_the_decoders_width_at_the_first_stages_size(monkeypatch):
    model = tiny_model("segformer", "AutoModelForSemanticSegmentation", decoder_hidden_size=256)
    monkeypatch.setattr(segformer_decoder, "STRIP", 2**14)
    x = images(128, 128, batch=1)
    with LargestTensor() as largest:
        model(x)
    assert largest.numel < 256 * 32 * 32
    with LargestTensor() as largest, torch.enable_grad():
        model(x)
    assert largest.numel == 256 * 32 * 32


@pytest.mark.parametrize("labels", [5, 1])
def test_the_loss_and_its_gradients_are_those_of_transformers(labels, tmp_path):
    peer, ours = peer_and_ours(NAMES[2], tmp_path, num_labels=labels)
    x = images(64, 64)
    target = torch.randint(0, max(labels, 2), (2, 48, 80), generator=torch.Generator().manual_seed(2))
    target[0, :9] = 255
    losses = [model.train()(x, labels=target).loss for model in (ours, peer)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    for loss in losses:
        loss.backward()
    for mine, theirs in (
        (ours.decode_head.linear_fuse, peer.decode_head.linear_fuse),
        (ours.decode_head.classifier, peer.decode_head.classifier),
        (ours.decode_head.batch_norm, peer.decode_head.batch_norm),
        (ours.segformer.encoder.patch_embeddings[0].proj, peer.segformer.stages[0].patch_embeddings.proj),
    ):
        largest = theirs.weight.grad.abs().max()
        torch.testing.assert_close(mine.weight.grad, theirs.weight.grad, rtol=0, atol=float(1e-3 * largest))
    norms = ours.decode_head.batch_norm, peer.decode_head.batch_norm
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var, **ROUNDING)
    torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean, **ROUNDING)


def test_labels_may_have_any_size_but_not_any_rank():
    model = tiny_model("segformer", "AutoModelForSemanticSegmentation")
    assert model(images(32, 32), labels=torch.zeros(2, 80, 50, dtype=torch.long)).loss.isfinite()
    with pytest.raises(ImageShapeError, match="labels are one class per pixel"):
        model(images(32, 32), labels=torch.zeros(1, 32, 32, dtype=torch.long))


# --- the original's epsilon -------------------------------------------------------------------------------


@torch.no_grad()
def test_the_originals_files_keep_their_epsilon_however_they_are_loaded(tmp_path):
    model = tiny_model("nvlabs_segformer", "AutoModelForSemanticSegmentation")
    model.save_pretrained(tmp_path)
    x = images(32, 32)
    for loader in (hfvision.SegformerForSemanticSegmentation, transformers.AutoModelForSemanticSegmentation):
        loaded = loader.from_pretrained(tmp_path)
        assert isinstance(loaded.config, hfvision.NvlabsSegformerConfig)
        torch.testing.assert_close(loaded(x).logits, model(x).logits, rtol=0, atol=1e-6)  # weights lie otherwise
    trunk = loaded.segformer.encoder
    assert trunk.block[0][0].layer_norm_1.eps == trunk.layer_norm[0].eps == 1e-6
    assert trunk.patch_embeddings[0].layer_norm.eps == trunk.block[0][0].attention.self.layer_norm.eps == 1e-5
    shared = hfvision.SegformerModel(tiny_config("segformer", layer_norm_eps=1e-6))
    assert shared.encoder.block[0][0].layer_norm_1.eps == 1e-5  # as transformers, which does not read the field


# --- as a backbone, for training, and its config ----------------------------------------------------------


@torch.no_grad()
def test_a_backbone_gives_the_maps_of_the_stages_asked_for(tmp_path):
    config = tiny_config("segformer", out_features=["stage1", "stage2"])
    backbone = with_visible_weights(hfvision.SegformerBackbone(config))
    x = images(48, 40)
    maps = backbone(x, output_hidden_states=True)
    assert [tuple(one.shape) for one in maps.feature_maps] == [(2, 16, 12, 10), (2, 32, 6, 5)]
    assert backbone.channels == [16, 32]
    backbone.save_pretrained(tmp_path)
    assert hfvision.SegformerBackbone.from_pretrained(tmp_path).out_features == ["stage1", "stage2"]
    model = hfvision.SegformerModel.from_pretrained(tmp_path).eval()
    assert model(x).last_hidden_state.equal(maps.feature_maps[-1])


def test_a_later_stages_patches_belong_to_its_depth():
    model = tiny_model("segformer", "AutoModelForSemanticSegmentation")  # stages of one and of two blocks
    depth = {id(p): group.name for group in model.layer_groups() for p in group.parameters}
    encoder = model.segformer.encoder
    parts = [*encoder.patch_embeddings, *encoder.layer_norm, model.decode_head.classifier]
    assert [depth[id(next(part.parameters()))] for part in parts] == [
        "embeddings",
        "block 1",
        "block 0",
        "head",
        "head",
    ]


def test_sizes_that_do_not_fit_together_are_refused_all_at_once():
    with pytest.raises(
        Exception, match=r"num_encoder_blocks is 3, .*(?s:.)*depths has 4 .*(?s:.)*strides has 4 entries"
    ):
        hfvision.SegformerConfig(num_encoder_blocks=3)
    with pytest.raises(Exception, match="a stage of width 160 cannot be split among 6 attention heads"):
        hfvision.SegformerConfig(num_attention_heads=[1, 2, 6, 8])
    model = tiny_model("segformer")
    with pytest.raises(ConfigError, match="has no image_size to change; it has num_channels"):
        model.resize_input(image_size=64)


@torch.no_grad()
def test_another_number_of_channels_is_taken_by_the_first_stage():
    model = tiny_model("segformer")
    wanted = model(images(32, 32)).logits
    model.resize_input(num_channels=6, channel_init="repeat")
    torch.testing.assert_close(model(images(32, 32).repeat(1, 2, 1, 1)).logits, wanted, **ROUNDING)
    assert model.config.num_channels == 6 and pixels(model.config, size=(8, 8)).shape[1] == 6
