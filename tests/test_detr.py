"""DETR: transformers' numbers where it has them, and objects that do not depend on what else is in the batch."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import ConvNextConfig, ResNetConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.detr import modeling_detr as peers
from transformers.models.detr.configuration_detr import DetrConfig as PeerConfig

import hfvision
from hfvision.errors import CheckpointReadError, ConfigError, HfvisionError, ImageShapeError
from hfvision.layers.frozen_norm import ConvAndNorm, FrozenBatchNorm, Kernel
from hfvision.models.detr import resnet as detr_resnet
from hfvision.models.detr.backbone import DetrAnyTrunk, DetrResNetTrunk, load_trunk
from hfvision.models.detr.config import OLDER_FIELDS, DetrConfig
from hfvision.models.detr.heads import QUERIES_AT_ONCE
from hfvision.models.detr.resnet import ResNetBlock, convolution, resnet_sizes
from hfvision.registry import ARCHITECTURES
from tests.models import tiny_config, tiny_model, with_visible_weights

DATA = Path(__file__).parent / "data"
EXACT = {"rtol": 0, "atol": 0}
NAMES = ["DetrModel", "DetrForObjectDetection", "DetrForSegmentation"]
DETECTION, SEGMENTATION = "AutoModelForObjectDetection", "AutoModelForImageSegmentation"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1], "out_features": STAGES}
PEERS = {
    "bottleneck": lambda: {"backbone_config": ResNetConfig(**RESNET)},
    "basic": lambda: {
        "backbone_config": ResNetConfig(**RESNET, layer_type="basic", downsample_in_first_stage=True, hidden_act="gelu")
    },
    "stride_in_first": lambda: {"backbone_config": ResNetConfig(**RESNET, downsample_in_bottleneck=True)},
    "learned": lambda: {"backbone_config": ResNetConfig(**RESNET), "position_embedding_type": "learned"},
    "auxiliary": lambda: {"backbone_config": ResNetConfig(**RESNET), "auxiliary_loss": True},
    "convnext": lambda: {
        "backbone_config": ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, out_features=STAGES)
    },
}
SWIN = {**ARCHITECTURES["swin"].tiny, "model_type": "swin", "out_features": ["stage1", "stage2"]}
SIZES = [(96, 64), (61, 130), (128, 33)]


def peer_of(name, fields):
    """transformers' own model, with weights and statistics that show."""
    sizes = {name: value for name, value in ARCHITECTURES["detr"].tiny.items() if name != "backbone_config"}
    hfvision.unregister()
    try:
        model = with_visible_weights(getattr(peers, name)(PeerConfig(**{**sizes, "num_labels": 5, **fields()})))
    finally:
        hfvision.register()
    return with_visible_statistics(model)


@torch.no_grad()
def with_visible_statistics(model):
    for name, buffer in model.named_buffers():
        buffer.uniform_(0.5, 2.0) if name.endswith(("running_var", "weight")) else buffer.normal_(std=0.2)
    return model


def assert_close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


def images(sizes, channels=3):
    """Of several sizes: each alone, and the batch of them with its mask."""
    generator = torch.Generator().manual_seed(0)
    alone = [torch.randn(1, channels, *size, generator=generator) for size in sizes]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    batch, mask = torch.full((len(sizes), channels, height, width), 3.0), torch.zeros(len(sizes), height, width)
    for index, image in enumerate(alone):
        batch[index, :, : image.shape[2], : image.shape[3]] = image[0]
        mask[index, : image.shape[2], : image.shape[3]] = 1
    return alone, batch, mask.long()


@torch.no_grad()
@pytest.mark.parametrize("fields", PEERS.values(), ids=PEERS)
@pytest.mark.parametrize("name", NAMES)
def test_folders_go_to_transformers_and_back_with_the_same_numbers_and_bytes(name, fields, tmp_path):
    peer = peer_of(name, fields)
    peer.save_pretrained(tmp_path / "theirs")
    ours, loading = getattr(hfvision, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(loading.values())
    ours.eval().save_pretrained(tmp_path / "ours")
    hfvision.unregister()
    try:
        again, loading = getattr(peers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
        again.save_pretrained(tmp_path / "again")  # which also writes the dtype of the trunk, unknown before loading
    finally:
        hfvision.register()
    assert not any(loading.values())
    saved = [(tmp_path / side / "model.safetensors").read_bytes() for side in ("theirs", "ours", "again")]
    assert saved[0] == saved[1] == saved[2]
    ours_written, again_written = (
        json.loads((tmp_path / side / "config.json").read_text(encoding="utf-8")) for side in ("ours", "again")
    )
    older = {name: ours_written.pop(name) for name in OLDER_FIELDS}  # which transformers 4 asks for
    assert not any(older.values())
    assert ours_written == {name: value for name, value in again_written.items() if name not in OLDER_FIELDS}
    peer.set_attn_implementation("eager")  # with maps
    x, wants = torch.randn(2, 3, 70, 96), {"output_hidden_states": True, "output_attentions": True}
    mask = torch.ones(2, 70, 96, dtype=torch.long)
    got, wanted = ours(x, pixel_mask=mask, **wants), peer(x, pixel_mask=mask, **wants)
    for key, value in wanted.items():
        values = value if isinstance(value, tuple) else (value,)
        mine = got[key] if isinstance(value, tuple) else (got[key],)
        assert len(mine) == len(values), key
        for one, other in zip(mine, values, strict=True):
            assert_close(one, other)


@torch.no_grad()
def test_padding_that_is_seen_gives_what_transformers_gives(tmp_path):
    peer = peer_of("DetrForSegmentation", PEERS["bottleneck"])
    peer.save_pretrained(tmp_path)
    ours = hfvision.DetrForSegmentation.from_pretrained(tmp_path, padding_rule="seen").eval()
    assert ours.padding_rule == "seen"
    _, batch, mask = images(SIZES)
    got, wanted = ours(batch, pixel_mask=mask), peer(batch, pixel_mask=mask)
    for name in ("logits", "pred_boxes", "pred_masks"):
        assert_close(got[name], wanted[name])
    with pytest.raises(ConfigError, match="padding_rule is 'hidden' or 'seen'; got 'none'"):
        ours.padding_rule = "none"


BASIC = {"backbone_config": {**RESNET, "model_type": "resnet", "layer_type": "basic", "hidden_act": "gelu"}}


@torch.no_grad()
@pytest.mark.parametrize(
    ("auto_class", "fields"),
    [(DETECTION, {}), (SEGMENTATION, {}), (SEGMENTATION, BASIC), (DETECTION, {"backbone_config": SWIN})],
    ids=["boxes", "masks", "basic blocks", "swin"],
)
def test_an_image_gives_the_same_alone_and_in_a_batch_of_mixed_sizes(auto_class, fields):
    model = with_visible_statistics(tiny_model("detr", auto_class, **fields))
    alone, batch, mask = images(SIZES)
    together = model(batch, pixel_mask=mask)
    seen = copy.deepcopy(model)
    seen.padding_rule = "seen"
    differences = []
    for index, image in enumerate(alone):
        wanted = model(image)
        for name in ("logits", "pred_boxes"):
            torch.testing.assert_close(together[name][index], wanted[name][0], rtol=0, atol=1e-5)
        differences.append(float((seen(batch, pixel_mask=mask).logits[index] - wanted.logits[0]).abs().max()))
        if auto_class == SEGMENTATION:
            height, width = wanted.pred_masks.shape[-2:]
            torch.testing.assert_close(
                together.pred_masks[index, :, :height, :width], wanted.pred_masks[0], rtol=0, atol=1e-5
            )
    assert max(differences) > 1e-4  # so the test can tell


def test_masks_made_some_queries_at_a_time_are_those_made_at_once():
    model = with_visible_statistics(tiny_model("detr", SEGMENTATION, num_queries=2 * QUERIES_AT_ONCE + 1))
    _, batch, mask = images(SIZES)
    at_once = model(batch, pixel_mask=mask).pred_masks
    with torch.no_grad():
        torch.testing.assert_close(model(batch, pixel_mask=mask).pred_masks, at_once)


@pytest.mark.parametrize("name", ["Model", "ForObjectDetection", "ForSegmentation"])
def test_names_and_shapes_are_those_of_the_hubs_files(name):
    wanted = json.loads((DATA / "hub_format" / f"detr_{name}.json").read_text(encoding="utf-8"))
    model = getattr(hfvision, wanted["class"])(DetrConfig(**wanted["config"]))
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == wanted["tensors"]


def test_the_published_files_that_name_their_trunk_are_read_without_timm():
    published = {"use_timm_backbone": True, "backbone": "resnet50", "backbone_config": None, "dilation": True}
    with torch.device("meta"):
        model = hfvision.DetrForObjectDetection(DetrConfig(**published, num_labels=91))
        small = hfvision.DetrModel(DetrConfig(backbone="resnet18", backbone_kwargs={"out_indices": [4], "in_chans": 4}))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    trunk = "model.backbone.conv_encoder.model"
    assert shapes[f"{trunk}.conv1.weight"] == (64, 3, 7, 7)
    assert shapes[f"{trunk}.layer4.2.bn3.running_var"] == (2048,)
    assert shapes[f"{trunk}.layer1.0.downsample.1.bias"] == (256,)
    assert shapes["model.input_projection.weight"] == (256, 2048, 1, 1)
    assert model.config.backbone_config.output_stride == 16
    assert model(torch.empty(1, 3, 96, 64, device="meta"), output_attentions=True).encoder_attentions[0].shape[-1] == 24
    assert (small.config.num_channels, small.config.backbone_config.num_channels) == (4, 4)
    assert len(small.read(torch.empty(1, 4, 64, 64, device="meta"))[1].maps) == 1


@torch.no_grad()
def test_a_folder_in_the_layout_of_the_published_files_loads_without_timm_and_is_written_so(tmp_path):
    few = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 3}
    model = hfvision.DetrForObjectDetection(DetrConfig(**few)).eval()
    model.save_pretrained(tmp_path / "ours")
    published = json.loads((tmp_path / "ours" / "config.json").read_text(encoding="utf-8"))
    assert (published["use_timm_backbone"], published["backbone"]) == (True, "resnet50")
    assert published["backbone_config"] is None
    # What facebook/detr-resnet-50 says besides.
    published |= {"use_pretrained_backbone": True, "classifier_dropout": 0.0, "max_position_embeddings": 1024}
    counts = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in model.state_dict()
        if name.endswith("running_mean")
    }
    model.save_pretrained(tmp_path / "published", state_dict={**model.state_dict(), **counts})
    (tmp_path / "published" / "config.json").write_text(json.dumps(published), encoding="utf-8")
    loader = transformers.AutoModelForObjectDetection
    again, loading = loader.from_pretrained(tmp_path / "published", output_loading_info=True)
    assert not any(loading.values()) and isinstance(again.model.backbone.conv_encoder, DetrResNetTrunk)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again(x).logits, model(x).logits, **EXACT)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "ours" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "resnet101", "dilation": True},
        {"backbone": "resnet18", "backbone_kwargs": {"out_indices": [4], "in_chans": 4}},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18", "output_stride": 16}},
        {"backbone_config": ResNetConfig(**RESNET), "dilation": None},  # as transformers 4 writes it
    ],
)
def test_a_config_says_the_same_trunk_after_saving(fields, tmp_path):
    config = DetrConfig(**fields)
    config.save_pretrained(tmp_path)
    again = DetrConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() and again.dilation == config.dilation
    assert resnet_sizes(again.backbone_config) == resnet_sizes(config.backbone_config)


def test_batch_counts_in_published_files_are_passed_over(tmp_path):
    model = tiny_model("detr", DETECTION)
    name = next(key for key in model.state_dict() if key.endswith("running_mean")).replace(
        "running_mean", "num_batches_tracked"
    )
    model.save_pretrained(tmp_path, state_dict={**model.state_dict(), name: torch.tensor(3)})
    _, loading = hfvision.DetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())


@torch.no_grad()
@pytest.mark.parametrize(("places", "stride", "size"), [(3, 1, 1), (3, 2, 3), (40, 1, 3)])
def test_a_folded_norm_gives_what_the_two_give_one_after_the_other(places, stride, size):
    torch.manual_seed(0)
    conv, norm = convolution(6, 8, size, stride), FrozenBatchNorm(8)
    norm.load_state_dict({name: torch.rand(8) + 0.5 for name in norm.state_dict()})
    x = torch.randn(2, 6, places, places)
    wanted = nn_batch_norm(conv(x), norm)
    torch.testing.assert_close(ConvAndNorm(conv, norm, Kernel.of(conv))(x), wanted)
    torch.testing.assert_close(norm(conv(x)), wanted)
    norm.weight.mul_(2)  # nothing of it is kept
    torch.testing.assert_close(ConvAndNorm(conv, norm, Kernel.of(conv))(x), nn_batch_norm(conv(x), norm))


@torch.no_grad()
def test_a_block_ends_in_strips_with_the_same_numbers_and_leaves_its_input(monkeypatch):
    model, x = tiny_model("detr", "AutoModel"), torch.randn(2, 3, 64, 96, generator=torch.manual_seed(0))
    trunk = next(module for module in model.modules() if isinstance(module, DetrResNetTrunk)).model
    padding = torch.zeros(2, 1, 64, 96, dtype=torch.bool)
    padding[1, :, 40:] = True
    at_once = trunk(x, padding)
    calls, in_strips = [], ResNetBlock._ended_in_strips

    def watched(block, last, narrow, shortcut, in_place):
        before = shortcut.clone()
        out = in_strips(block, last, narrow, shortcut, in_place)
        calls.append(in_place or torch.equal(shortcut, before))
        return out

    monkeypatch.setattr(ResNetBlock, "_ended_in_strips", watched)
    monkeypatch.setattr(detr_resnet, "STRIP", 100)
    for one, other in zip(trunk(x, padding), at_once, strict=True):
        torch.testing.assert_close(one.values, other.values)
    assert calls and all(calls)


def nn_batch_norm(x, norm):
    return torch.nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def test_what_takes_the_place_of_a_convolution_is_called():
    conv, norm = convolution(6, 8, 1), FrozenBatchNorm(8)
    x = torch.randn(2, 6, 9, 9)
    doubled = torch.nn.Sequential(conv, torch.nn.Conv2d(8, 8, 1))  # as adapters do
    torch.testing.assert_close(ConvAndNorm(doubled, norm, Kernel.of(conv))(x), norm(doubled(x)))


@torch.no_grad()
def test_positions_are_kept_for_each_size_and_never_saved():
    model = tiny_model("detr", "AutoModel")
    before = set(model.state_dict())
    with torch.inference_mode():
        first = model(torch.zeros(1, 3, 64, 96)).last_hidden_state
    with torch.enable_grad():  # training may read what inference has kept
        model(torch.zeros(1, 3, 64, 96)).last_hidden_state.sum().backward()
    model(torch.zeros(1, 3, 96, 64))
    torch.testing.assert_close(model(torch.zeros(1, 3, 64, 96)).last_hidden_state, first.clone(), **EXACT)
    assert set(model.state_dict()) == before


def test_the_loss_of_all_layers_leaves_the_answer_as_it_is():
    model = tiny_model("detr", DETECTION, decoder_layers=3)
    x = torch.randn(2, 3, 64, 64)
    labels = [
        {"class_labels": torch.tensor([1, 3]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.1, 0.4]])},
        {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},
    ]
    last = model(x, labels=labels)
    assert last.auxiliary_outputs is None and "loss_ce_0" not in last.loss_dict
    model.loss_of_all_layers = True
    every = model(x, labels=labels)
    torch.testing.assert_close(every.logits, last.logits, **EXACT)
    assert every.auxiliary_outputs is None and {"loss_ce", "loss_ce_0", "loss_giou_1"} <= every.loss_dict.keys()
    torch.testing.assert_close(every.loss_dict["loss_ce"], last.loss_dict["loss_ce"])
    assert every.loss > last.loss
    every.loss.backward()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == learning


def test_the_loss_of_masks_reaches_the_mask_head():
    model = tiny_model("detr", SEGMENTATION)
    labels = [
        {
            "class_labels": torch.tensor([1]),
            "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
            "masks": torch.zeros(1, 64, 64),
        }
    ]
    labels[0]["masks"][:, 16:48, 16:48] = 1
    answer = model(torch.randn(1, 3, 64, 64), labels=labels)
    answer.loss.backward()
    assert {"loss_mask", "loss_dice"} <= answer.loss_dict.keys()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith(("mask_head", "bbox_att")))


@torch.no_grad()
@pytest.mark.parametrize("auto_class", [DETECTION, SEGMENTATION])
def test_exports_and_compiles_with_a_mask_of_any_size(auto_class):
    model = tiny_model("detr", auto_class)
    batch, height, width = (
        torch.export.Dim(n, min=m, max=512) for n, m in (("batch", 1), ("height", 33), ("width", 33))
    )
    axes = {"pixel_values": {0: batch, 2: height, 3: width}, "pixel_mask": {0: batch, 1: height, 2: width}}
    _, x, mask = images([(64, 96), (40, 50)])
    program = torch.export.export(model, (), {"pixel_values": x, "pixel_mask": mask}, dynamic_shapes=axes).module()
    output = "pred_masks" if auto_class == SEGMENTATION else "logits"
    _, x, mask = images([(37, 61), (61, 40), (34, 33)])
    inputs = {"pixel_values": x, "pixel_mask": mask}
    torch.testing.assert_close(program(**inputs)[output], model(**inputs)[output])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs)[output], model(**inputs)[output])


def test_what_does_not_learn_and_the_groups_of_what_does():
    model = tiny_model("detr", SEGMENTATION)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(".embedder." in name or ".stages.0." in name for name in frozen)
    model.detr.model.unfreeze_backbone()
    assert all(p.requires_grad for p in model.parameters())
    groups = model.layer_groups()
    assert [group.name for group in groups] == ["trunk", "embeddings", *(f"block {i}" for i in range(4)), "head"]
    ids = [id(p) for group in groups for p in group.parameters]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in groups[0].parameters} == {id(p) for p in model.detr.model.backbone.parameters()}
    model.detr.model.freeze_backbone()
    assert not any(p.requires_grad for p in groups[0].parameters)


@torch.no_grad()
def test_channels_go_to_the_stem_through_auto_classes(tmp_path):
    model = tiny_model("detr", DETECTION)
    model.save_pretrained(tmp_path)
    loader = transformers.AutoModelForObjectDetection
    wider = loader.from_pretrained(tmp_path, num_channels=6, channel_init="repeat").eval()
    assert (wider.config.num_channels, wider.config.backbone_config.num_channels) == (6, 6)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(wider(torch.cat([x, x], dim=1)).logits, model(x).logits, rtol=0, atol=1e-5)
    wider.save_pretrained(tmp_path / "wider")
    assert loader.from_pretrained(tmp_path / "wider").config.num_channels == 6
    with pytest.raises(ImageShapeError, match=r"shape \(B, 6, H, W\); got"):
        wider(x)


def test_a_trunk_of_transformers_own_keeps_its_geometry():
    model = hfvision.DetrModel(tiny_config("detr", **PEERS["convnext"]()))
    with pytest.raises(ConfigError, match="ConvNextBackbone is a trunk of transformers' own; only those of"):
        model.resize_input(num_channels=4)


def test_trunks_are_chosen_by_their_config(monkeypatch):
    model = with_visible_weights(hfvision.DetrForObjectDetection(tiny_config("detr", backbone_config=SWIN)))
    assert isinstance(model.model.backbone.conv_encoder, DetrAnyTrunk)
    assert type(model.model.backbone.conv_encoder.model) is hfvision.SwinBackbone
    assert isinstance(tiny_model("detr", DETECTION).model.backbone.conv_encoder, DetrResNetTrunk)

    def without_timm(config):
        raise ImportError("TimmBackbone requires the timm library")

    monkeypatch.setattr("hfvision.models.detr.backbone.AutoBackbone.from_config", without_timm)
    unknown = DetrConfig(
        **{**ARCHITECTURES["detr"].tiny, "backbone_config": {"model_type": "timm_backbone", "backbone": "vgg"}}
    )
    with pytest.raises(
        ConfigError, match="'vgg' is one of timm's, which is not installed; without it there are resnet18"
    ):
        hfvision.DetrModel(unknown)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixel_values": torch.zeros(1, 3, 64, 64), "pixel_mask": torch.ones(1, 32, 32)}, r"\(1, 64, 64\) for these"),
        (
            {
                "pixel_values": torch.zeros(2, 3, 64, 64),
                "pixel_mask": torch.tensor([1, 0])[:, None, None].expand(2, 64, 64),
            },
            "it is 0 everywhere for image 1 of the batch",
        ),
        ({"inputs_embeds": torch.zeros(1, 5, 32)}, "the places of a square map.*; got 5"),
        ({}, "give pixel_values"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(ImageShapeError, match=message):
        tiny_model("detr", DETECTION)(**inputs)


def test_maps_beyond_the_learned_positions_are_refused():
    model = tiny_model("detr", "AutoModel", position_embedding_type="learned")
    with pytest.raises(ImageShapeError, match=r"reach over 50x50 places .* these images have 1x51"):
        model(torch.zeros(1, 3, 8, 51 * 32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 30}, "d_model 30 cannot be split among 8"),
        ({"num_queries": 0}, "num_queries is at least 1; got 0"),
        (
            {"use_timm_backbone": False, "backbone": "microsoft/resnet-50", "backbone_config": None},
            "names a repository",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(Exception, match=message):
        tiny_config("detr", **fields)


def test_masks_need_maps_and_widths_that_the_head_can_use():
    for fields in ({"d_model": 24, "encoder_attention_heads": 2}, {"backbone_config": SWIN}):
        with pytest.raises(HfvisionError, match="the mask head reads 3 of the trunk's maps"):
            hfvision.DetrForSegmentation(tiny_config("detr", **fields))
    with pytest.raises(ConfigError, match="which inputs_embeds leave out"):
        tiny_model("detr", SEGMENTATION)(torch.zeros(1, 3, 64, 64), inputs_embeds=torch.zeros(1, 4, 32))


def test_dilation_that_transformers_would_not_heed_is_reported(caplog):
    with caplog.at_level("WARNING", logger="hfvision"):
        plain = tiny_model("detr", "AutoModel", dilation=True)
    assert "stays as its own config says, as in transformers" in caplog.text
    dilated = tiny_model("facebook_detr", "AutoModel", dilation=True)
    x = torch.zeros(1, 3, 64, 64)
    assert [model.read(x)[1].projected.shape[-1] for model in (plain, dilated)] == [2, 4]


@torch.no_grad()
def test_encoder_outputs_and_own_queries_are_taken():
    model = tiny_model("detr", "AutoModel")
    x = torch.randn(2, 3, 64, 64)
    wanted = model(x)
    again = model(x, encoder_outputs=(wanted.encoder_last_hidden_state,), decoder_inputs_embeds=torch.zeros(2, 6, 32))
    torch.testing.assert_close(again.last_hidden_state, wanted.last_hidden_state, **EXACT)
    hidden = torch.ones(2, 6)
    hidden[:, 3:] = 0
    few = model(x, decoder_attention_mask=hidden).last_hidden_state
    assert not torch.allclose(few, wanted.last_hidden_state)


def resnet_classifier(layer_type):
    """transformers' own, with a trunk like that of the tiny detector."""
    config = ResNetConfig(**RESNET, layer_type=layer_type, num_labels=7)
    return with_visible_weights(transformers.ResNetForImageClassification(config))


def trunk_tensors(model):
    return model._trunk().model.state_dict()


@pytest.mark.parametrize("layer_type", ["bottleneck", "basic"])
def test_a_trunk_starts_from_a_classifier_in_memory_or_in_a_folder(layer_type, tmp_path, caplog):
    classifier = resnet_classifier(layer_type)
    classifier.save_pretrained(tmp_path)
    trunk = {**ARCHITECTURES["detr"].tiny["backbone_config"], "layer_type": layer_type}
    for source in (classifier, tmp_path, str(tmp_path / "model.safetensors")):
        model = hfvision.DetrForObjectDetection(tiny_config("detr", backbone_config=trunk))
        with caplog.at_level("WARNING", logger="hfvision"):
            loaded, left = load_trunk(model, source)
        got, wanted = trunk_tensors(model), classifier.resnet.state_dict()
        assert left == [] and loaded == list(got)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in got.items())
        assert f"{len(got)} of {len(got)} tensors." in caplog.text


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_layouts_of_a_resnet_are_one_for_loading_a_trunk(name, tmp_path):
    few = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 3}
    model = hfvision.DetrModel(DetrConfig(backbone=name, **few))
    sizes = resnet_sizes(model.config.backbone_config)
    kind = "bottleneck" if sizes.bottleneck else "basic"
    hub = ResNetConfig(hidden_sizes=list(sizes.widths), depths=list(sizes.depths), layer_type=kind, num_labels=3)
    classifier = transformers.ResNetForImageClassification(hub)
    load_trunk(model, classifier)
    timm = trunk_tensors(model)
    published = {**timm, "fc.weight": torch.zeros(3, 4), "bn1.num_batches_tracked": torch.tensor(1)}
    torch.save(published, tmp_path / "published.pth")
    again = hfvision.DetrModel(DetrConfig(backbone_config=hub, **few))
    loaded, left = load_trunk(again, tmp_path / "published.pth")
    assert left == [] and len(loaded) == len(timm)
    wanted = classifier.resnet.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in trunk_tensors(again).items())


@pytest.mark.parametrize("model_type", ["swin", "segformer", "vit"])
def test_a_transformer_as_trunk_starts_from_a_classifier_too(model_type, tmp_path, caplog):
    classifier = tiny_model(model_type)
    classifier.save_pretrained(tmp_path)
    trunk = {**ARCHITECTURES[model_type].tiny, "model_type": model_type}
    model = hfvision.DetrForObjectDetection(tiny_config("detr", backbone_config=trunk))
    before = {name: tensor.clone() for name, tensor in trunk_tensors(model).items()}
    with caplog.at_level("WARNING", logger="hfvision"):
        left = load_trunk(model, tmp_path).left
    base = classifier.base_model.state_dict()
    for name, tensor in trunk_tensors(model).items():
        wanted = before[name] if name in left else base[name.removeprefix("swin.")]
        torch.testing.assert_close(tensor, wanted, **EXACT)
    assert all("norm" in name for name in left)  # of a Swin's maps, which a classifier has not got
    assert (f"{len(left)} stay as they were: hidden_states_norms" in caplog.text) is bool(left)


def test_a_trunk_that_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path):
    model = tiny_model("detr", DETECTION)
    before = {name: tensor.clone() for name, tensor in trunk_tensors(model).items()}
    wide = ResNetConfig(**{**RESNET, "hidden_sizes": [8, 16, 16, 64]}, num_channels=4)
    with pytest.raises(ConfigError, match=r"(?s)mismatches:.*embedder.* is \(8, 4, 7, 7\), .* \(8, 3, 7, 7\).*own con"):
        load_trunk(model, transformers.ResNetForImageClassification(wide))
    with pytest.raises(
        ConfigError, match="ViTForImageClassification has no trunk like HubResNet, of whose 95 tensors it has 0"
    ):
        load_trunk(model, tiny_model("vit"))
    with pytest.raises(CheckpointReadError, match="nowhere does not exist"):
        load_trunk(model, tmp_path / "nowhere")
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk_tensors(model).items())


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "whose"),
    [("Detr", "ours"), ("FacebookDetr", "ours"), ("Detr", "transformers")],  # which has no other
)
def test_a_detectors_folder_makes_a_segmenter_and_the_other_way_round(name, whose, tmp_path):
    model_type = {"Detr": "detr", "FacebookDetr": "facebook_detr"}[name]
    detector_class, segmenter_class, model_class = (
        getattr(hfvision, name + kind) for kind in ("ForObjectDetection", "ForSegmentation", "Model")
    )
    if whose == "transformers":
        detector, segmenter = (peer_of(kind, PEERS["bottleneck"]) for kind in NAMES[1:])
    else:
        detector, segmenter = (tiny_model(model_type, kind) for kind in (DETECTION, SEGMENTATION))
    detector.save_pretrained(tmp_path / "detector")
    segmenter.save_pretrained(tmp_path / "segmenter")
    stored = {kind: load_file(tmp_path / kind / "model.safetensors") for kind in ("detector", "segmenter")}

    got, loading = segmenter_class.from_pretrained(tmp_path / "detector", output_loading_info=True)
    assert not loading["unexpected_keys"] and not loading["mismatched_keys"]
    assert {key.split(".")[0] for key in loading["missing_keys"]} == {"mask_head", "bbox_attention"}
    assert_bit_equal({f"detr.{key}": tensor for key, tensor in stored["detector"].items()}, got)
    got.save_pretrained(tmp_path / "again")
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(stored["segmenter"])
    _, loading = segmenter_class.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(loading.values())

    got, loading = detector_class.from_pretrained(tmp_path / "segmenter", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["mismatched_keys"]
    assert {key.split(".")[0] for key in loading["unexpected_keys"]} == {"mask_head", "bbox_attention"}
    inside = {key[5:]: tensor for key, tensor in stored["segmenter"].items() if key.startswith("detr.")}
    assert_bit_equal(inside, got)
    got.save_pretrained(tmp_path / "inside")
    assert set(load_file(tmp_path / "inside" / "model.safetensors")) == set(inside)
    base = model_class.from_pretrained(tmp_path / "segmenter")
    assert_bit_equal({key[6:]: tensor for key, tensor in inside.items() if key.startswith("model.")}, base)


def assert_bit_equal(stored, model):
    """All that is stored is in the model as it is; what else the model has, the file has not."""
    state = model.state_dict()
    assert set(stored) <= set(state)
    assert [name for name, tensor in stored.items() if not torch.equal(state[name], tensor)] == []


def test_a_file_with_a_missing_or_foreign_tensor_is_still_said_to_have_it(tmp_path):
    model = tiny_model("detr", DETECTION)
    state = {**model.state_dict(), "model.foreign": torch.zeros(2)}
    del state["bbox_predictor.layers.0.bias"]
    model.save_pretrained(tmp_path, state_dict=state)
    for loader, inside in ((hfvision.DetrForObjectDetection, ""), (hfvision.DetrForSegmentation, "detr.")):
        _, loading = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert f"{inside}bbox_predictor.layers.0.bias" in loading["missing_keys"]
        assert any(key.endswith("foreign") for key in loading["unexpected_keys"])


# --- with the image processor ---------------------------------------------------------------------


def processor_of(channels=3, **options):
    size = {"shortest_edge": 64, "longest_edge": 96}
    return hfvision.DetrImageProcessor(
        size=size, image_mean=[0.5] * channels, image_std=[0.25] * channels, do_convert_rgb=None, **options
    )


@torch.no_grad()
@pytest.mark.parametrize("auto_class", [DETECTION, SEGMENTATION])
def test_photos_of_mixed_sizes_give_the_same_objects_alone_and_in_a_batch(auto_class):
    model, processor = with_visible_statistics(tiny_model("detr", auto_class)), processor_of()
    generator = np.random.default_rng(0)
    photos = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((50, 70), (120, 40), (64, 64))]
    sizes = [photo.shape[:2] for photo in photos]
    together = model(**processor(photos, return_tensors="pt"))
    found = processor.post_process_object_detection(together, threshold=0.0, target_sizes=sizes)
    for index, photo in enumerate(photos):
        alone = model(**processor(photo, return_tensors="pt"))
        for name in ("logits", "pred_boxes"):
            torch.testing.assert_close(together[name][index], alone[name][0], rtol=0, atol=1e-5)
        (wanted,) = processor.post_process_object_detection(alone, threshold=0.0, target_sizes=[sizes[index]])
        for name, values in wanted.items():
            torch.testing.assert_close(found[index][name], values, rtol=0, atol=1e-3)  # pixels; 1e-5 of the image
        if auto_class == SEGMENTATION:
            height, width = alone.pred_masks.shape[-2:]
            masks = together.pred_masks[index, :, :height, :width]
            torch.testing.assert_close(masks, alone.pred_masks[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_bands_go_from_the_processor_through_the_stem_of_an_auto_class(tmp_path):
    model = tiny_model("detr", DETECTION)
    model.save_pretrained(tmp_path)
    bands = {"B02": "blue", "B03": "green", "B04": "red", "B08": None, "B11": None}
    wider = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path, num_channels=5, channel_init=bands)
    processor = processor_of(5, bands=list(bands), input_range=(0, 10_000))
    processor.save_pretrained(tmp_path / "wider")
    wider.save_pretrained(tmp_path / "wider")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "wider")
    wider = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "wider").eval()
    scene = np.random.default_rng(0).integers(0, 10_000, (80, 60, 5), dtype=np.uint16)
    inputs = processor(scene, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 5, 85, 64)
    rgb = inputs["pixel_values"][:, [2, 1, 0]]  # red, green, blue
    torch.testing.assert_close(wider(**inputs).logits, model(rgb).logits, rtol=0, atol=1e-5)
    with pytest.raises(ImageShapeError):
        wider(**processor_of()(scene[..., :3], input_range=(0, 10_000), return_tensors="pt"))


def test_checkpointing_reaches_the_blocks_of_the_trunk():
    model = tiny_model("detr", SEGMENTATION)
    model.activation_checkpointing_enable()
    saving = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing]
    assert sum(isinstance(module, ResNetBlock) for module in saving) == sum(model.config.backbone_config.depths)
    assert {id(block) for block in model.blocks()} <= {id(module) for module in saving}
