"""What every architecture must do, once per row of the registry."""

import copy
import inspect
import logging
import re

import pytest
import torch
import transformers

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.drop_path import DropPath
from hfvision.models.detr.config import DetrConfig
from hfvision.models.semantic import SemanticModel
from hfvision.models.swin.model import SwinConfig
from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    load,
)
from hfvision.upsampling import upsample
from tests.models import (
    CLASSIFIERS,
    DENSE,
    DETECTORS,
    ROWS,
    WHOLE,
    has_attention,
    input_config,
    main_output,
    pads_to_patches,
    pixels,
    pixels_per_patch,
    takes_any_size,
    tiny_config,
    tiny_model,
)

CONVOLUTIONAL_STEMS = ("vit-hybrid", "google_vit_hybrid", "segformer", "nvlabs_segformer", "detr", "facebook_detr")
WITH_POSITIONS = ("vit", "deit", "google_vit", "vit-hybrid", "google_vit_hybrid", "microsoft_swin")  # of CLASSIFIERS
EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 0, "atol": 2e-5}  # outputs are of order one; another order of summation moves the last bits


@pytest.fixture(params=ROWS, ids="-".join)
def model(request):
    return tiny_model(*request.param)


# A graph takes seconds to make: those of models that people serve are made in every run, the others are slow.
SERVED = (IMAGE_CLASSIFICATION, SEMANTIC_SEGMENTATION, OBJECT_DETECTION, IMAGE_SEGMENTATION)


@pytest.fixture(
    params=[row if row[1] in SERVED else pytest.param(row, marks=pytest.mark.slow) for row in WHOLE], ids="-".join
)
def graphed(request):
    return tiny_model(*request.param)


@pytest.fixture(params=CLASSIFIERS)
def classifier(request):
    return tiny_model(request.param)


@pytest.fixture(params=DENSE)
def dense(request):
    return tiny_model(request.param, SEMANTIC_SEGMENTATION)


@pytest.fixture(
    params=[
        *((name, IMAGE_CLASSIFICATION) for name in CLASSIFIERS),
        *((name, SEMANTIC_SEGMENTATION) for name in DENSE),
        *DETECTORS,
    ],
    ids="-".join,
)
def trainable(request):
    return tiny_model(*request.param)


@pytest.fixture(params=[row for row in ROWS if row[0] != "mlp_mixer"], ids="-".join)
def resizable(request):
    """All but those that have the patch grid that they were trained with."""
    return tiny_model(*request.param)


@pytest.fixture(params=[row for row in WHOLE if row[0] != "mlp_mixer"], ids="-".join)
def attentive(request):
    return tiny_model(*request.param)


@pytest.fixture(params=[row for row in WHOLE if row[0] not in ("mlp_mixer", *CONVOLUTIONAL_STEMS)], ids="-".join)
def padding(request):
    """Those that pad images to whole patches; a convolutional stem pads by itself, the family's own tests say how."""
    return tiny_model(*request.param)


def auto_class_of(model):
    rows = ARCHITECTURES[model.config.model_type].models
    return next(getattr(transformers, name) for name, reference in rows.items() if load(reference) is type(model))


def heads_of_maps(model):
    """The heads of each attention map that an output has: one map a block; of a Swin, one a stage."""
    config = input_config(model.config)
    if isinstance(config, SwinConfig):
        return list(config.num_heads)
    if isinstance(config, DetrConfig):
        return [config.encoder_attention_heads] * config.encoder_layers
    heads = config.num_attention_heads
    by_block = [heads] * len(model.blocks()) if isinstance(heads, int) else zip(heads, config.depths, strict=True)
    return by_block if isinstance(heads, int) else [count for count, depth in by_block for _ in range(depth)]


def loss_on(model, x):
    """The loss of images against labels of the kind that the model learns from."""
    if isinstance(model.config, DetrConfig):
        masks = torch.zeros(2, *x.shape[-2:])
        masks[:, 4:20, 8:24] = 1
        boxes = torch.tensor([[0.5, 0.4, 0.5, 0.5], [0.3, 0.3, 0.2, 0.4]])
        objects = {"class_labels": torch.tensor([1, 3]), "boxes": boxes, "masks": masks}
        return model(x, labels=[objects, {name: values[:1] for name, values in objects.items()}]).loss
    labels = torch.arange(len(x) * x.shape[-2] * x.shape[-1]).reshape(len(x), *x.shape[-2:]) % 5
    return model(x, labels=labels if isinstance(model, SemanticModel) else torch.tensor([0, 2])).loss


def read_parameters(model):
    """All that learn, but what no answer depends on: a norm that the Hub's files of Swin backbones hold and nothing
    reads, and how DETR's queries first attend to each other, all being zero then.
    """
    unread = ("backbone.swin.layernorm.", "decoder.layers.0.self_attn")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [(name, p) for name, p in named if not any(part in name for part in unread)]


def has_position_table(model):
    return any("position_embeddings" in name for name, _ in model.named_parameters())


def coarse(model, x):
    """The main output before it is brought to the size of the images, where it is."""
    return main_output(model(x, upsample=False) if isinstance(model, SemanticModel) else model(x))


@torch.no_grad()
def test_a_saved_model_comes_back_identical_through_the_auto_class(model, tmp_path):
    model.save_pretrained(tmp_path)
    auto_class = auto_class_of(model)
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert auto_class.from_config(model.config).__class__ is type(model)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), **EXACT)
    x = pixels(model.config)
    # Equal weights at other addresses: some processors' kernels sum in an order that depends on the alignment.
    torch.testing.assert_close(main_output(loaded(x)), main_output(model(x)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_which_models_the_lists_leave_out(row):
    model = tiny_model(*row)
    assert takes_any_size(model) == has_attention(model) == (row[0] != "mlp_mixer")
    assert pads_to_patches(model) == (row[0] not in CONVOLUTIONAL_STEMS)
    assert row[0] not in CLASSIFIERS or has_position_table(model) == (row[0] in WITH_POSITIONS)


def test_every_parameter_gets_a_gradient(trainable):
    size = (96, 64) if takes_any_size(trainable) else None  # attention to a single place has no gradient
    loss_on(trainable, pixels(trainable.config, size=size)).backward()
    assert [name for name, p in read_parameters(trainable) if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_an_image_does_not_see_its_batch(model):
    x = pixels(model.config)
    torch.testing.assert_close(main_output(model(x))[:1], main_output(model(x[:1])), **ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("size", [(40, 27), (37, 61), (9, 9)])
def test_any_image_size_works_by_padding_to_whole_patches(padding, size):
    model = padding
    x, patch = pixels(model.config, size=size), input_config(model.config).patch_size
    padded = torch.nn.functional.pad(x, (0, -size[1] % patch, 0, -size[0] % patch))
    torch.testing.assert_close(coarse(model, x), coarse(model, padded), **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (37, 61), (64, 24), (9, 9)])
def test_every_pixel_of_an_image_of_any_size_gets_logits(dense, size):
    x = pixels(dense.config, size=size)
    logits = dense(x, upsample=True).logits
    assert logits.shape == (2, 5, *size)
    torch.testing.assert_close(upsample(coarse(dense, x), dense.upsampling(size)), logits, **EXACT)


def test_only_pixels_that_are_not_ignored_move_a_dense_model(dense):
    x = pixels(dense.config)
    labels = torch.randint(0, 5, (2, *x.shape[-2:]), generator=torch.Generator().manual_seed(0))
    ignored = torch.full_like(labels, 255)
    loss = dense(x, labels=ignored).loss
    loss.backward()
    assert loss == 0
    assert [name for name, p in dense.named_parameters() if p.grad is not None and p.grad.any()] == []
    assert dense(x, labels=labels).loss > 0


def test_label_maps_that_do_not_belong_to_the_images_are_refused(dense):
    for labels in (torch.zeros(3, 32, 32, dtype=torch.long), torch.zeros(2, 32, dtype=torch.long)):
        with pytest.raises(ImageShapeError, match=re.escape(f"got {tuple(labels.shape)}")):
            dense(pixels(dense.config), labels=labels)


def test_wrong_channels_name_both_counts(model):
    with pytest.raises(ImageShapeError, match=r"\(B, 3, H, W\); got \(2, 4, 32, 32\)"):
        model(pixels(model.config, channels=4))
    with pytest.raises(ImageShapeError, match=r"got \(3, 32, 32\)"):
        model(pixels(model.config)[0])


@torch.no_grad()
def test_eager_attention_equals_sdpa(attentive):
    model, x = attentive, pixels(attentive.config)
    model.set_attn_implementation("eager")
    eager = main_output(model(x))
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(main_output(model(x)), eager, **ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_maps_are_real_under_any_implementation(attentive, implementation):
    model = attentive
    model.set_attn_implementation(implementation)
    outputs = model(pixels(model.config), output_attentions=True, output_hidden_states=True)
    heads, name = heads_of_maps(model), next(name for name in ("attentions", "encoder_attentions") if name in outputs)
    assert [maps.shape[1] for maps in outputs[name]] == heads
    if len(set(heads)) == 1:  # trunks of several stages show a state for each stage
        assert len(outputs[name.replace("attentions", "hidden_states")]) == len(heads) + 1
    for maps in outputs[name]:
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]), **ROUNDING)
    assert model.config._attn_implementation == implementation
    assert name not in model(pixels(model.config))


def test_activation_checkpointing_changes_no_gradient(trainable):
    def gradients():
        trainable.zero_grad()
        torch.manual_seed(0)  # of dropout
        loss_on(trainable, pixels(trainable.config)).backward()
        return [p.grad.clone() for _, p in read_parameters(trainable)]

    trainable.train()
    plain = gradients()
    trainable.activation_checkpointing_enable()
    for got, wanted in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(got, wanted, **EXACT)


@torch.no_grad()
def test_compiles_as_one_graph(graphed):
    model, x = graphed, pixels(graphed.config)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(main_output(compiled(x)), main_output(model(x)), **ROUNDING)


@torch.no_grad()
def test_exports_with_any_batch_and_image_size(graphed):
    model = graphed
    inner = model.config.backbone_config if isinstance(model.config, DetrConfig) else input_config(model.config)
    stages = len(getattr(inner, "depths", [1]))
    # What is one place to a side is another graph: the smallest map has two, after halving from stage to stage.
    low = pixels_per_patch(model.config) + 1 if stages == 1 else 33
    batch, height, width = (
        torch.export.Dim(name, min=least, max=512) for name, least in (("batch", 1), ("height", low), ("width", low))
    )
    sizes = [(32, 32), (37, 61), (16, 80)] if stages == 1 else [(48, 48), (37, 61), (64, 80)]
    axes = {0: batch, 2: height, 3: width} if takes_any_size(model) else {0: batch}
    sizes = sizes if takes_any_size(model) else [(32, 32)] * 3
    example = pixels(model.config, size=None if stages == 1 else (64, 96))
    program = torch.export.export(model, (), {"pixel_values": example}, dynamic_shapes={"pixel_values": axes}).module()
    for count, size in zip((2, 3, 1), sizes, strict=True):
        x = pixels(model.config, count, size)
        torch.testing.assert_close(main_output(program(pixel_values=x)), main_output(model(x)), **ROUNDING)


def test_layer_groups_hold_every_parameter_once_in_order_of_depth(model):
    groups = model.layer_groups()
    trunk = [group.name for group in groups[:1] if group.name == "trunk"]  # of a detector: the map that it reads
    assert [g.name for g in groups] == [
        *trunk,
        "embeddings",
        *(f"block {index}" for index in range(len(model.blocks()))),
        "head",
    ]
    ids = [id(p) for group in groups for p in group.parameters]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    for block, group in zip(model.blocks(), groups[1 + len(trunk) : -1], strict=True):
        assert {id(p) for p in block.parameters()} <= {id(p) for p in group.parameters}


@torch.no_grad()
def test_stochastic_depth_is_linear_in_depth_and_only_in_training(trainable):
    model, x = trainable, pixels(trainable.config)
    if isinstance(model.config, DetrConfig):
        model.set_drop_path_rate(0.0)
        with pytest.raises(ConfigError, match="this one is a HubResNet"):
            model.set_drop_path_rate(0.5)
        return
    before = model(x).logits
    model.set_drop_path_rate(0.5)
    blocks = model.blocks()
    rates = [{part.rate for part in block.modules() if isinstance(part, DropPath)} for block in blocks]
    assert rates == [{0.5 * depth / (len(blocks) - 1)} for depth in range(len(blocks))]
    torch.testing.assert_close(model(x).logits, before, **EXACT)
    assert not torch.equal(model.train()(x).logits, before)
    with pytest.raises(ConfigError, match=r"in \[0, 1\); got 1.0"):
        model.set_drop_path_rate(1.0)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_the_problem_type_chooses_the_loss(classifier, problem_type):
    classifier.config.problem_type = problem_type
    x = pixels(classifier.config)
    logits = classifier(x).logits
    indices, numbers = torch.tensor([0, 2]), torch.rand(2, 5)
    labels, wanted = {
        "single_label_classification": (indices, torch.nn.functional.cross_entropy(logits, indices)),
        "multi_label_classification": (numbers, torch.nn.functional.binary_cross_entropy_with_logits(logits, numbers)),
        "regression": (numbers, torch.nn.functional.mse_loss(logits, numbers)),
    }[problem_type]
    torch.testing.assert_close(classifier(x, labels=labels).loss, wanted, **ROUNDING)


@torch.no_grad()
def test_loading_at_another_geometry_equals_resizing_after_loading(resizable, tmp_path, caplog):
    model = resizable
    model.save_pretrained(tmp_path)
    change = {"num_channels": 6}
    config = input_config(model.config)
    if "patch_size" in model.geometry_fields and hasattr(config, "patch_size"):
        change["patch_size"] = patch = max(1, config.patch_size // 2)
        side = pixels_per_patch(model.config) * patch // config.patch_size
        change["image_size"] = [12 * side, 10 * side]
    auto_class = auto_class_of(model)
    with caplog.at_level(logging.WARNING, logger="hfvision"):
        loaded = auto_class.from_pretrained(tmp_path, **change, channel_init="repeat")
    assert "channels became 6 (repeat)" in caplog.text
    assert {name: getattr(input_config(loaded.config), name) for name in change} == change
    model.resize_input(**change, channel_init="repeat")
    for (name, got), wanted in zip(loaded.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, **EXACT, msg=name)
    again = type(model).from_pretrained(loaded.save_pretrained(tmp_path / "resized") or tmp_path / "resized")
    x = pixels(again.config)
    torch.testing.assert_close(main_output(again(x)), main_output(loaded(x)), **EXACT)


@torch.no_grad()
def test_an_image_that_repeats_rgb_answers_as_rgb(trainable):
    x = pixels(trainable.config)
    wanted = trainable(x).logits
    wider = copy.deepcopy(trainable)
    wider.resize_input(num_channels=6, channel_init="repeat")
    torch.testing.assert_close(wider(torch.cat([x, x], dim=1)).logits, wanted, **ROUNDING)
    grey = copy.deepcopy(trainable)
    grey.resize_input(num_channels=1)
    torch.testing.assert_close(grey(x[:, :1]).logits, trainable(x[:, :1].expand(-1, 3, -1, -1)).logits, **ROUNDING)


@torch.no_grad()
def test_mapped_bands_answer_bit_for_bit_as_rgb(trainable):
    x = pixels(trainable.config)
    wanted = trainable(x).logits
    bands = {"B02": "blue", "B03": "green", "B04": "red", **{f"B{band:02}": None for band in range(5, 15)}}
    trainable.resize_input(num_channels=13, channel_init=bands)
    multispectral = torch.randn(2, 13, *x.shape[-2:])
    multispectral[:, :3] = x.flip(1)  # blue, green, red first
    torch.testing.assert_close(trainable(multispectral).logits, wanted, **ROUNDING)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size is a positive whole number or a pair"),
        ({"image_size": [32, 32, 32]}, "or a pair"),
        ({"num_channels": [3, 3]}, "num_channels is a positive whole number; got"),
        ({"num_channels": 4, "channel_init": "zeros"}, "channel_init is 'mean', 'repeat'"),
        ({"num_channels": 4, "channel_init": {7: 0}}, r"one of the 4 new channels \(0 to 3\)"),
        ({"num_channels": 4, "channel_init": {"red": "red"}}, "4 are wanted, got 1"),
        ({"num_channels": 4, "channel_init": lambda kernel, channels: kernel}, "must return a kernel of shape"),
    ],
)
def test_a_geometry_that_cannot_work_is_refused(classifier, change, message):
    if not set(change) & {*classifier.geometry_fields}:
        message = f"{message}|has no image_size to change"
    before = copy.deepcopy(classifier.state_dict())
    with pytest.raises(ConfigError, match=message):
        classifier.resize_input(**change)
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())


@pytest.mark.parametrize("model_type", WITH_POSITIONS)
def test_a_rule_for_positions_is_one_of_those_there_are(model_type):
    with pytest.raises(ConfigError, match=r"position_rule is 'bicubic'.* or '.*'; got 'nearest'"):
        tiny_model(model_type).resize_input(image_size=64, position_rule="nearest")


def test_weights_on_disk_are_not_resized(classifier):
    classifier.to("meta")
    with pytest.raises(ConfigError, match="Load without offloading"):
        classifier.resize_input(num_channels=4)


def test_half_precision_and_double_work(trainable):
    for dtype in (torch.bfloat16, torch.float64):
        assert trainable.to(dtype)(pixels(trainable.config)).logits.dtype is dtype


def test_forward_takes_images_first_and_further_options_by_name(model):
    parameters = list(inspect.signature(type(model).forward).parameters.values())
    assert parameters[1].name == "pixel_values" and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("model_type", ["vit", "deit", "google_vit", "vit-hybrid", "google_vit_hybrid"])
def test_a_config_that_cannot_work_is_refused(model_type):
    """Families with heads for each stage say more in tests of their own."""
    with pytest.raises(Exception, match="cannot be split among 5 attention heads"):
        tiny_config(model_type, num_attention_heads=5)
