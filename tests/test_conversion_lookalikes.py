"""Files of other families that look like ours are told for what they are, and nothing of them is dropped in silence."""

import pytest
import torch
from typer.testing import CliRunner

from hfvision.checkpoints import Checkpoint, read
from hfvision.cli import build_app
from hfvision.conversion import convert
from hfvision.conversion.lookalikes import KINDS, kind_of
from hfvision.conversion.tables import FORMATS
from hfvision.conversion.to_hub import recognised_plan
from hfvision.conversion.unwrapping import unwrap
from hfvision.errors import ConversionError
from tests.originals import BY_NAME, settings_of, tensors_of, write
from tests.test_recognition import FAMILIES, manifests, stored

HEADS = {"num_attention_heads": 4}
CFG = "TRAIN:\n  DATASET: kinetics\nDATA:\n  NUM_FRAMES: 8\nMODEL:\n  MODEL_NAME: vit_base_patch16_224\n"
SPACE_ONLY = f"{CFG}TIMESFORMER:\n  ATTENTION_TYPE: 'space_only'\n"


def vit(extra=(), without=()):
    tensors = {key: tensor for key, tensor in tensors_of("timm_vit").items() if not key.startswith(tuple(without))}
    return tensors | {key: torch.ones(shape) for key, shape in dict(extra).items()}


def training_file(path, **entries):
    """As TimeSformer's training writes it."""
    weights = {f"model.{key}": tensor for key, tensor in vit().items()}
    torch.save({"epoch": 15, "model_state": weights, "optimizer_state": {"state": {}}, **entries}, path)
    return path


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"cfg": SPACE_ONLY}, "say NUM_FRAMES = 8"),
        ({"cfg": "TIMESFORMER:\n  ATTENTION_TYPE: 'space_only'\n"}, "say TIMESFORMER"),
        ({"cfg": "attention_type: space_only"}, "say attention_type = space_only"),
        ({"config": {"data": {"clip_len": 16}}}, "say clip_len = 16"),
        ({"hyper_parameters": {"num_frames": 4}}, "say num_frames = 4"),
    ],
)
@pytest.mark.parametrize("family", [None, "deit", "timm"])
def test_a_space_only_timesformer_is_told_by_the_settings_in_its_file(entries, said, family, tmp_path):
    source = training_file(tmp_path / "w.pyth", **entries)
    with pytest.raises(ConversionError, match="holds a model of videos") as caught:
        convert(source, tmp_path / "model", family=family, overrides=HEADS)
    assert said in str(caught.value) and "'model_state'" in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["TimeSformer_spaceOnly_8x32_224_K400.pyth", "my-timesformer.pth", "videomae_b.pth"])
def test_a_file_called_after_a_model_of_videos_is_refused(name, tmp_path):
    source = training_file(tmp_path / name)
    done = CliRunner().invoke(build_app(), ["convert", str(source), str(tmp_path / "model")])
    assert done.exit_code == 1 and isinstance(done.exception, ConversionError)
    assert "a model of videos. There is no such model here" in str(done.exception)


@pytest.mark.parametrize("cfg", [None, "DATA:\n  NUM_FRAMES: 1\n", "{" * 5000, {"epochs": 3, "num_frames": 1}])
def test_settings_that_speak_of_no_video_are_no_hindrance(cfg, tmp_path):
    entries = {} if cfg is None else {"cfg": cfg}
    report = convert(training_file(tmp_path / "w.pyth", **entries), tmp_path / "model", overrides=HEADS)
    assert report.entry == "model_state" and not any("videos" in note for note in report.notes)


@pytest.mark.parametrize("classes", [174, 400, 600, 700])
def test_a_bare_classifier_with_the_classes_of_a_video_set_converts_with_a_word(classes, tmp_path):
    tensors = vit({"head.weight": (classes, 32), "head.bias": (classes,)})
    torch.save(tensors, tmp_path / "w.pth")
    report = convert(tmp_path / "w.pth", tmp_path / "model", overrides=HEADS)
    (note,) = [note for note in report.notes if "videos" in note]
    assert f"{classes} classes are as many as" in note and note in (tmp_path / "model" / "README.md").read_text()


ATTENTION = {"blocks.0.attn.q_bias": (32,), "blocks.0.attn.v_bias": (32,)}
OTHERS = {  # keys beside those of a ViT -> what the error says
    "divided TimeSformer": ({"time_embed": (1, 8, 32), "blocks.0.temporal_attn.qkv.weight": (96, 32)}, "TimeSformer"),
    "joint TimeSformer": ({"time_embed": (1, 8, 32)}, "a TimeSformer by its time_embed"),
    "tubelets": ({"patch_embed.proj.weight": (32, 3, 2, 8, 8)}, "out of several frames"),
    "MAE": ({"mask_token": (1, 1, 32), "decoder_pos_embed": (1, 17, 16)}, "masked autoencoder by its decoder_pos"),
    "BEiT": (ATTENTION, "a BEiT or a model after it"),
    "BEiT, shared": ({"rel_pos_bias.relative_position_bias_table": (732, 4)}, "a BEiT"),
    "EVA": ({"rope.freqs_cos": (16, 8)}, "EVA or DINOv3"),
    "CLIP": ({"logit_scale": (), "text_projection": (32, 32)}, "a CLIP by its logit_scale, text_projection"),
    "DINO": ({"head.mlp.0.weight": (64, 32), "head.last_layer.weight_g": (8, 1)}, "a DINO in training"),
    "DINOv2": ({"register_tokens": (1, 4, 32)}, "register tokens have no place"),
    "iBOT": ({"mask_token": (1, 32)}, "trained on masked images"),
    "CaiT": ({"blocks_token_only.0.norm1.weight": (32,)}, "a CaiT"),
    "SAM": ({"blocks.0.attn.rel_pos_h": (7, 8)}, "Segment Anything"),
    "unheard of": ({"blocks.0.adapter.down.weight": (4, 32)}, "blocks.0.adapter.down.weight"),
}


@pytest.mark.parametrize("family", ["timm_vit", "deit"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_a_file_has_beyond_a_vit_is_named(other, family, tmp_path):
    extra, said = OTHERS[other]
    torch.save({"model": vit(extra)}, tmp_path / "w.pth")
    with pytest.raises(ConversionError) as caught:
        convert(tmp_path / "w.pth", tmp_path / "model", family=family, overrides=HEADS)
    assert said in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("transformer.decoder.layers.0.cross_attn.sampling_offsets.weight", "Deformable DETR"),
        ("transformer.decoder.layers.0.ca_qcontent_proj.weight", "Conditional DETR"),
        ("patch2query.weight", "UP-DETR"),
        ("insmask_head.conv.weight", "VisTR"),
    ],
)
def test_detectors_after_detr_are_told_apart(key, said, tmp_path):
    source = write("detr", tensors_of("detr") | {key: torch.ones(2, 2)}, tmp_path)
    with pytest.raises(ConversionError, match=said):
        convert(source, tmp_path / "model", overrides=settings_of("detr"))


@pytest.mark.parametrize("name", BY_NAME)
def test_every_surplus_tensor_of_every_format_is_named(name, tmp_path):
    source = write(name, tensors_of(name) | {"surplus.of.mine": torch.ones(2)}, tmp_path)
    with pytest.raises(ConversionError, match=r"surplus\.of\.mine"):
        convert(source, tmp_path / "model", family=name, overrides=settings_of(name))


def test_patches_of_a_jax_model_that_span_frames_are_told():
    kernel = {"embedding/kernel": torch.empty(2, 16, 16, 3, 32, device="meta")}
    assert "out of several frames" in kind_of(tensors_of("google_vit") | kernel)


@pytest.mark.parametrize("name", [format.name for format in FORMATS])
def test_no_file_of_ours_is_taken_for_another(name):
    assert kind_of(tensors_of(name)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_no_published_file_is_taken_for_another(family):
    assert {name: kind for name, one in manifests(family).items() if (kind := kind_of(stored(one)))} == {}


def test_each_kind_says_what_it_is():
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_what_timm_files_store_beside_their_weights_is_not_dropped_unseen(tmp_path):
    key = "layers.0.blocks.0.attn.relative_position_index"
    source = write("timm_swin", tensors_of("timm_swin") | {key: torch.zeros(16, 16, dtype=torch.int64)}, tmp_path)
    with pytest.raises(ConversionError, match="is not what the sizes of map and window give"):
        convert(source, tmp_path / "model", family="timm_swin")


def test_a_pvt_that_has_a_mits_tensors_is_named():
    tensors = {}
    for key, tensor in stored(manifests("segformer")["mit_b0"]).items():
        wide = key.startswith(("block1.", "block2.")) and ".mlp." in key
        axis = 1 if ".fc2.weight" in key else 0
        grows = wide and not key.endswith("fc2.bias")
        shape = [2 * size if grows and at == axis else size for at, size in enumerate(tensor.shape)]
        tensors[key] = torch.empty(shape, device="meta")
    checkpoint, format, _ = unwrap(Checkpoint(tensors, "w.pth", "torch", ""))
    plan, _ = recognised_plan(checkpoint, format, {})
    assert any("those of a PVT v2" in note for note in plan.notes)


def test_settings_beside_weights_are_read_as_text_and_numbers_only(tmp_path):
    deep = {}
    for _ in range(50):
        deep = {"a": deep}
    path = training_file(tmp_path / "w.pyth", cfg=SPACE_ONLY, config={"a": torch.ones(2), "b": [1, "x"], "c": deep})
    settings = read(path).settings
    assert settings["cfg"] == SPACE_ONLY and (settings["config"]["a"], settings["config"]["b"]) == (None, [1, "x"])
