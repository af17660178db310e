"""Swin: what is its own beside the suites over the registry and over shared file formats."""

import copy
import gc
import json
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers

import hfvision
from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.position import fit_bias_table
from hfvision.models.swin import windows as swin_windows
from tests.models import main_output, pixels, tiny_config, tiny_model, with_visible_weights

DATA = Path(__file__).parent / "data"
SIZES = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 4]}
SIZES |= {"window_size": 4, "num_labels": 5, "encoder_stride": 8}
NAMES = ["SwinModel", "SwinForImageClassification", "SwinForMaskedImageModeling", "SwinBackbone"]
EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 0, "atol": 1e-6}  # outputs of order one; the products are the same, their order may not be


def pair_of_models(name, folder, **fields):
    """transformers' own model, never called before, and ours from its file."""
    theirs = with_visible_weights(getattr(transformers, name)(transformers.SwinConfig(**SIZES, **fields)))
    theirs.save_pretrained(folder)
    return theirs, getattr(hfvision, name).from_pretrained(folder).eval()


def assert_equal_outputs(got, wanted):
    assert list(got) == list(wanted)
    for name in wanted:
        many = wanted[name] if isinstance(wanted[name], tuple) else (wanted[name],)
        ours = got[name] if isinstance(got[name], tuple) else (got[name],)
        for one, other in zip(ours, many, strict=True):
            torch.testing.assert_close(one, other, **ROUNDING, msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"use_absolute_embeddings": True, "qkv_bias": False}], ids=["plain", "options"])
@pytest.mark.parametrize("name", NAMES)
def test_files_and_outputs_are_those_of_transformers(name, fields, tmp_path):
    if name == "SwinBackbone":
        fields = {**fields, "out_features": ["stem", "stage1", "stage3"]}
    theirs, ours = pair_of_models(name, tmp_path / "theirs", **fields)
    ours.save_pretrained(tmp_path / "ours")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    wanted = {"output_hidden_states": True, "output_attentions": True}
    if "Masked" in name:
        wanted["bool_masked_pos"] = torch.rand(2, 256, generator=torch.Generator().manual_seed(3)) > 0.5
    theirs.set_attn_implementation("eager")  # for its maps
    x = pixels(ours.config)
    assert_equal_outputs(ours(x, **wanted), theirs(x, **wanted))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 48), (37, 61), (42, 34)])
@pytest.mark.parametrize("name", ["SwinForImageClassification", "SwinBackbone"])
def test_another_size_gives_what_a_fresh_model_of_transformers_gives(name, size, tmp_path):
    theirs, ours = pair_of_models(name, tmp_path)
    ours(pixels(ours.config))  # leaves nothing behind
    x = pixels(ours.config, size=size)
    assert_equal_outputs(ours(x), theirs(x))


@torch.no_grad()
def test_absolute_positions_are_resampled_as_transformers_does_on_request(tmp_path):
    theirs, ours = pair_of_models("SwinModel", tmp_path, use_absolute_embeddings=True)
    x = pixels(ours.config, size=(64, 48))
    assert_equal_outputs(ours(x), theirs(x, interpolate_pos_encoding=True))
    with pytest.raises(ImageShapeError, match="have the checkpoint's 16x16 patches; these have 32x24"):
        ours(x, interpolate_pos_encoding=False)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_the_hubs_files(name):
    wanted = json.loads((DATA / "hub_format" / f"swin_{name.removeprefix('Swin')}.json").read_text())
    model = getattr(hfvision, wanted["class"])(hfvision.SwinConfig(**wanted["config"]))
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == wanted["tensors"]


@torch.no_grad()
def test_windows_shrink_to_small_maps_but_not_in_a_backbone(tmp_path):
    """A map of 2 x 2 places is one window of its own size; a backbone pads it to 4 x 4 and shifts."""
    config = tiny_config("swin", image_size=8, depths=[2], num_heads=[2])
    trunk = with_visible_weights(hfvision.SwinModel(config))
    backbone = with_visible_weights(hfvision.SwinBackbone(config))
    x = pixels(config, size=(8, 8))
    shapes = [m(x, output_attentions=True).attentions[0].shape for m in (trunk, backbone)]
    assert shapes == [(2, 2, 4, 4), (2, 2, 16, 16)]
    # the middle of the table is in use, as it would be in a model with windows of that size
    small = hfvision.SwinModel(tiny_config("swin", image_size=8, depths=[2], num_heads=[2], window_size=2)).eval()
    weights = trunk.state_dict()
    for name, table in weights.items():
        if "bias_table" in name:
            weights[name] = fit_bias_table(table, 4, 2, 2, 2)
    small.load_state_dict(weights)
    torch.testing.assert_close(small(x).last_hidden_state, trunk(x).last_hidden_state, **EXACT)


@torch.no_grad()
def test_a_trunk_loads_from_a_classifiers_file_and_a_backbone_from_both(tmp_path):
    classifier = tiny_model("swin")
    classifier.save_pretrained(tmp_path / "classifier")
    trunk = hfvision.SwinModel.from_pretrained(tmp_path / "classifier").eval()
    x = pixels(trunk.config)
    torch.testing.assert_close(classifier.classifier(trunk(x).pooler_output), classifier(x).logits, **EXACT)
    trunk.save_pretrained(tmp_path / "trunk")
    for folder in ("classifier", "trunk"):
        backbone = hfvision.SwinBackbone.from_pretrained(tmp_path / folder, out_features=["stem"])
        for key, value in backbone.base_model.state_dict().items():
            assert torch.equal(value, trunk.state_dict()[key]), key


@torch.no_grad()
def test_models_share_plans_safely_across_threads_copies_and_modes():
    model = tiny_model("swin")
    batches = [pixels(model.config, size=size) for size in ((32, 32), (56, 40), (24, 72), (17, 33))] * 3
    wanted = [model(x).logits for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, logits in zip(pool.map(torch.no_grad()(lambda x: model(x).logits), batches), wanted, strict=True):
            torch.testing.assert_close(got, logits, **EXACT)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(batches[1]).logits, wanted[1], **EXACT)
    assert copy.deepcopy(model).double()(batches[1].double()).logits.dtype is torch.float64


def test_a_size_first_seen_in_inference_mode_can_be_trained_on():
    model = tiny_model("swin")
    x = pixels(model.config, size=(44, 28))
    with torch.inference_mode():
        model(x)
    model(x, labels=torch.tensor([0, 1])).loss.backward()
    tables = [p for name, p in model.named_parameters() if "bias_table" in name]
    assert all(p.grad is not None and p.grad.any() for p in tables)


def changed_in_place(table):
    table.mul_(2)
    return table


def changed_behind_the_version_counter(table):
    table.data[0] += 1
    return table


@pytest.mark.parametrize(
    "change",
    [
        changed_in_place,
        changed_behind_the_version_counter,
        lambda table: torch.nn.Parameter(table + 1),
        lambda table: torch.nn.Parameter(table.double(), requires_grad=False),
    ],
    ids=["in place", "data", "replaced", "dtype"],
)
def test_biases_follow_every_change_of_their_table(change):
    model = tiny_model("swin")
    x = pixels(model.config)
    with torch.inference_mode():
        before = model(x).logits
    for block in model.blocks():
        attention = block.attention.self
        with torch.no_grad():
            attention.relative_position_bias_table = change(attention.relative_position_bias_table)
    if model.blocks()[0].attention.self.relative_position_bias_table.dtype is torch.float64:
        model, x = model.double(), x.double()
    with torch.inference_mode():
        got = model(x).logits
        wanted = copy.deepcopy(model)(x).logits  # a copy begins with none
    torch.testing.assert_close(got, wanted, **EXACT)
    assert got.dtype is torch.float64 or not torch.equal(got, before)


@torch.no_grad()
def test_biases_are_made_once_for_all_sizes_and_leave_no_trace_in_the_model(monkeypatch):
    made = []
    make = swin_windows.WindowPlan._biases
    monkeypatch.setattr(swin_windows.WindowPlan, "_biases", lambda plan, table: made.append(1) or make(plan, table))
    model = tiny_model("swin")
    first = model.blocks()[0].attention.self
    before = set(vars(first))
    for size in ((64, 48), (80, 40), (64, 48), (96, 96)):  # no map is smaller than a window
        model(pixels(model.config, size=size))
    assert len(made) == len(model.blocks())
    assert set(vars(first)) == before and first in swin_windows._biases
    alive = weakref.ref(first)
    del model, first
    gc.collect()
    assert alive() is None


@torch.no_grad()
def test_few_kinds_of_biases_are_kept_for_maps_smaller_than_a_window():
    model = hfvision.SwinModel(tiny_config("swin", depths=[1], num_heads=[2], window_size=8)).eval()
    for places in (3, 4, 5, 6, 7, 9, 3):
        x = pixels(model.config, size=(places * 4, places * 4))
        got = model(x).last_hidden_state
        torch.testing.assert_close(got, copy.deepcopy(model)(x).last_hidden_state, **EXACT)
    (attention,) = [block.attention.self for block in model.blocks()]
    assert len(swin_windows._biases[attention]) == swin_windows.MOST_SIDES


@torch.no_grad()
def test_the_window_can_be_resized_at_load(tmp_path, caplog):
    model = tiny_model("swin", "AutoBackbone")
    model.save_pretrained(tmp_path)
    loaded = hfvision.SwinBackbone.from_pretrained(tmp_path, window_size=6)
    assert loaded.config.window_size == 6 and "windows of 4x4 became 6x6 (bicubic)" in caplog.text
    table, new = (m.blocks()[1].attention.self.relative_position_bias_table for m in (model, loaded))
    wanted = torch.nn.functional.interpolate(table.T.reshape(1, 2, 7, 7), size=(11, 11), mode="bicubic")
    torch.testing.assert_close(new, wanted.flatten(2)[0].T, **ROUNDING)
    again = hfvision.SwinBackbone.from_pretrained(loaded.save_pretrained(tmp_path / "six") or tmp_path / "six").eval()
    x = pixels(again.config, size=(56, 40))
    torch.testing.assert_close(main_output(again(x)), main_output(loaded.eval()(x)), **EXACT)
    with pytest.raises(ConfigError, match="window_size is a positive whole number"):
        loaded.resize_input(window_size=0)


def test_a_merging_layer_belongs_to_the_block_before_it():
    model = tiny_model("swin")
    groups = model.layer_groups()
    merging = {id(p) for p in model.swin.encoder.layers[0].downsample.parameters()}
    assert merging < {id(p) for p in groups[2].parameters}
    assert {id(p) for p in groups[-1].parameters} == {
        id(p) for part in (model.swin.layernorm, model.classifier) for p in part.parameters()
    }


def test_the_masked_image_loss_counts_hidden_pixels_alone():
    model = tiny_model("swin", "AutoModelForMaskedImageModeling")
    x = pixels(model.config, size=(36, 42))  # padded to 36 x 44: 9 x 11 patches, and those to 5 x 6 places
    hidden = torch.zeros(2, 99, dtype=torch.bool)
    hidden[:, 0] = True
    with torch.no_grad():
        outputs = model(x, bool_masked_pos=hidden)
    assert outputs.reconstruction.shape == x.shape
    error = (outputs.reconstruction - x)[..., :4, :4].abs().mean()
    torch.testing.assert_close(outputs.loss, error, rtol=1e-5, atol=0)  # the 1e-5 in the loss's divisor
    with pytest.raises(ImageShapeError, match=r"\(2, 64\) for these images; got \(2, 99\)"):
        model(pixels(model.config), bool_masked_pos=hidden)
    model.config.encoder_stride = 4
    with pytest.raises(ConfigError, match="a loss needs encoder_stride 8x8"):
        model(x, bool_masked_pos=hidden)
    with pytest.raises(ConfigError, match="use_mask_token=True"):
        tiny_model("swin", "AutoModel")(pixels(model.config), bool_masked_pos=torch.zeros(2, 64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"depths": [2, 2, 2]},
            r"one number, at least 1, for each stage; got depths \[2, 2, 2\] and num_heads \[2, 4\]",
        ),
        ({"num_heads": [3, 4]}, "a width of 16 cannot be split among 3 attention heads"),
        ({"window_size": 0}, "window_size is at least 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(Exception, match=message):
        tiny_config("swin", **fields)


def test_patches_without_a_norm_have_a_model_type_of_their_own(tmp_path):
    model = tiny_model("microsoft_swin")
    assert not any("embeddings.norm" in name for name in model.state_dict())
    normed = hfvision.MicrosoftSwinForImageClassification(tiny_config("microsoft_swin", patch_norm=True))
    assert "swin.embeddings.norm.weight" in normed.state_dict()
    normed.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "microsoft_swin"
