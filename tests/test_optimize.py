"""hfvision.optimize: what it changes, what it leaves alone, and that it says what it costs."""

import copy
import io
import logging

import pytest
import torch
import transformers
from PIL import Image
from torch import nn

import hfvision
from hfvision.errors import ConfigError, HfvisionError, ImageShapeError
from hfvision.layers.token_merging import TokenMerging
from hfvision.optimizing import compiling
from hfvision.optimizing.merging import MergingLayer
from hfvision.optimizing.options import optimize_options
from hfvision.optimizing.packed import PackedLinear, can_pack
from hfvision.pipelines.predict import predict
from hfvision.registry import IMAGE_CLASSIFICATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from tests.models import ROWS, main_output, pixels, tiny_config, tiny_model

TASKS = (IMAGE_CLASSIFICATION, SEMANTIC_SEGMENTATION, OBJECT_DETECTION)
FAMILIES = [(kind, task) for kind, task in ROWS if task in TASKS]
WITH_VIT = [
    ("vit", IMAGE_CLASSIFICATION),
    ("vit", "AutoBackbone"),
    ("deit", IMAGE_CLASSIFICATION),
    ("google_vit", IMAGE_CLASSIFICATION),
    ("vit-hybrid", IMAGE_CLASSIFICATION),
    ("segmenter", SEMANTIC_SEGMENTATION),
    ("setr", SEMANTIC_SEGMENTATION),
]


@pytest.fixture
def vit():
    return tiny_model("vit")


def images(model, **options):
    return pixels(model.config, **options)


def run(model, batch):
    with torch.no_grad():
        return main_output(model(batch))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize(("kind", "task"), FAMILIES)
def test_every_family_keeps_its_answers_in_fewer_bytes(kind, task, dtype):
    model = tiny_model(kind, task)
    sample = images(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    faster = hfvision.optimize(model, dtype=dtype, sample=sample)

    found = faster.optimization
    assert found.cosine > 0.999
    assert 0 < found.largest_difference <= 0.06 * found.largest_value
    assert found.bytes_after < found.bytes_before
    assert faster is not model and "optimization" not in vars(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert type(model) is type(faster)


def test_the_report_is_logged_once_with_the_error_and_the_sample(vit, caplog):
    with caplog.at_level(logging.WARNING, logger="hfvision"):
        found = hfvision.optimize(vit, dtype="int8", token_merging=2).optimization
    (message,) = [record.getMessage() for record in caplog.records if "optimised" in record.getMessage()]
    assert str(found) in message
    for said in ("int8", "2 tokens are merged in each of 3 blocks", "4 digit scenes of 32x32 pixels", "cosine", "%"):
        assert said in message


def test_the_reported_error_is_the_one_between_the_two_models():
    model = tiny_model("segmenter", SEMANTIC_SEGMENTATION)
    sample = images(model)
    faster = hfvision.optimize(model, token_merging=8, sample=sample)
    with torch.no_grad():
        old, new = (one(sample, upsample=False).logits for one in (model, faster))
    found = faster.optimization
    assert found.largest_difference == pytest.approx((old - new).abs().max().item(), rel=1e-4)
    assert found.agreement == pytest.approx((old.argmax(1) == new.argmax(1)).float().mean().item())
    assert found.largest_difference > 1e-4


def test_detectors_are_weighed_by_classes_and_boxes():
    model = tiny_model("detr", OBJECT_DETECTION)
    found = hfvision.optimize(model, dtype="bfloat16", sample=images(model)).optimization
    assert 0.5 < found.box_iou <= 1
    assert found.agreement is not None and found.answers == "the queries' classes"


# --- token merging ----------------------------------------------------------------------------------------------------


def test_merging_averages_the_most_alike_by_size_and_keeps_account():
    keys = torch.tensor([[9.0, 9.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.5]])[None]
    tokens = torch.arange(5.0).view(1, 5, 1) * torch.ones(1, 1, 3)
    merging = TokenMerging(merged_per_step=1, protected=1)
    merging.keys = keys
    merged = merging.merge(tokens)  # token 1 joins token 2
    torch.testing.assert_close(merged[0, :, 0], torch.tensor([0.0, 3.0, 1.5, 4.0]))
    assert merging.sizes[0, :, 0].tolist() == [1, 1, 2, 1]
    torch.testing.assert_close(merging.expand(merged)[0, :, 0], torch.tensor([0.0, 1.5, 1.5, 3.0, 4.0]))
    torch.testing.assert_close(merging.reduce(merging.expand(merged)), merged)

    merging.keys = torch.tensor([[9.0, 9.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])[None]
    again = merging.merge(merged)  # of sizes 1 and 2: (3 + 2 * 1.5) / 3
    torch.testing.assert_close(again[0, :, 0], torch.tensor([0.0, 4.0, 2.0]))
    assert merging.sizes[0, :, 0].tolist() == [1, 1, 3]
    torch.testing.assert_close(merging.expand(again)[0, :, 0], torch.tensor([0.0, 2.0, 2.0, 2.0, 4.0]))


def test_merged_equal_tokens_change_nothing():
    """Patches that are the same give the same answer merged or not: attention counts a token for all it stands for."""
    model = tiny_model("vit")
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.zero_()
    flat = torch.ones(1, 3, 32, 32) * 0.7
    faster = hfvision.optimize(model, token_merging=5, sample=flat)
    torch.testing.assert_close(run(faster, flat), run(model, flat), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "task"), WITH_VIT)
def test_merging_keeps_shapes_at_every_size_and_merges(kind, task):
    model = tiny_model(kind, task)
    sample = images(model)
    faster = hfvision.optimize(model, token_merging=4, sample=sample)
    for size in (None, (40, 24)):
        batch = images(model, size=size)
        wanted, got = run(model, batch), run(faster, batch)
        assert got.shape == wanted.shape
        assert not torch.allclose(got, wanted, atol=1e-6)
    alone = torch.cat([run(faster, image[None]) for image in sample])
    torch.testing.assert_close(run(faster, sample), alone, rtol=1e-4, atol=1e-4)  # a neighbour changes nothing


def test_a_dense_model_over_a_vit_merges_in_its_trunk():
    trunk = hfvision.ViTConfig(
        **{**hfvision.registry.ARCHITECTURES["vit"].tiny, "out_features": ["stage1", "stage2", "stage3"]}
    )
    config = hfvision.UperNetConfig(backbone_config=trunk, hidden_size=16, pool_scales=[1, 2], auxiliary_channels=8)
    model = hfvision.UperNetForSemanticSegmentation(config).eval()
    faster = hfvision.optimize(model, token_merging=3)
    assert faster(images(model)).logits.shape == model(images(model)).logits.shape
    assert faster.optimization.largest_difference > 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_patches_left_are_those_that_attention_sees(vit, attention):
    vit.set_attn_implementation(attention)
    faster = hfvision.optimize(vit, token_merging=4)
    outputs = faster(images(vit), output_attentions=True, output_hidden_states=True)
    assert [one.shape[-1] for one in outputs.attentions] == [17, 13, 9]
    assert {one.shape[1] for one in outputs.hidden_states} == {17}


def test_merging_refuses_what_it_cannot_do(vit):
    with pytest.raises(ConfigError, match="at most 5"):
        hfvision.optimize(vit, token_merging=6)
    with pytest.raises(ConfigError, match="number of tokens"):
        hfvision.optimize(vit, token_merging=0)
    with pytest.raises(ConfigError, match="ViT inside"):
        hfvision.optimize(tiny_model("swin"), token_merging=1)
    faster = hfvision.optimize(vit, token_merging=2)
    with pytest.raises(ConfigError, match="attention_mask"):
        faster(images(vit), attention_mask=(torch.arange(17) < 9).expand(2, -1))
    with pytest.raises(ConfigError, match="inference"):
        faster.train()(images(vit))


# --- the models that come of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "int8"}, {"token_merging": 2}], ids=str)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # which torch's own int8 weights still use
def test_copies_and_pickles_give_the_same(vit, options):
    faster = hfvision.optimize(vit, **options)
    sample = images(vit)
    buffer = io.BytesIO()
    torch.save(faster, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(faster), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(run(again, sample), run(faster, sample), rtol=0, atol=0)
        assert again.optimization == faster.optimization


def test_saving_writes_the_weights_or_refuses(vit, tmp_path):
    names = set(vit.state_dict())
    faster = hfvision.optimize(vit, dtype="bfloat16", token_merging=2)
    assert set(faster.state_dict()) == names
    faster.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16 and not any(isinstance(part, MergingLayer) for part in again.modules())
    torch.testing.assert_close(again.classifier.weight, vit.classifier.weight.bfloat16())
    with pytest.raises(ConfigError, match="int8"):
        hfvision.optimize(vit, dtype="int8").save_pretrained(tmp_path / "int8")


def test_in_place_it_is_the_model_itself(vit):
    assert hfvision.optimize(vit, dtype="bfloat16", inplace=True) is vit
    with pytest.raises(ConfigError, match="optimised already"):
        hfvision.optimize(vit, dtype="int8")


@pytest.mark.skipif(not can_pack(), reason="this CPU or torch has no packed products in bfloat16")
def test_packed_weights_follow_the_weight():
    linear, x = nn.Linear(24, 16).bfloat16().requires_grad_(False), torch.randn(3, 5, 24).bfloat16()
    linear.__class__ = PackedLinear

    def check():
        torch.testing.assert_close(linear(x), nn.functional.linear(x, linear.weight, linear.bias), rtol=0.02, atol=0.02)

    check()
    assert linear.packed_bytes == linear.weight.nbytes
    linear.weight.mul_(2)
    check()
    linear.weight.data = -linear.weight.data
    check()
    linear.weight = nn.Parameter(torch.randn(16, 24).bfloat16())  # wants a gradient
    linear(x).sum().backward()
    assert linear.weight.grad is not None
    assert set(linear.state_dict()) == {"weight", "bias"}
    linear.float()
    torch.testing.assert_close(linear(x.float()), nn.functional.linear(x.float(), linear.weight, linear.bias))


@pytest.mark.slow
def test_compiling_gives_the_same_numbers_and_a_failing_compiler_leaves_the_model_as_it_is(vit, monkeypatch):
    sample = images(vit)
    faster = hfvision.optimize(vit, compile="aot_eager", token_merging=2, sample=sample)
    merged = hfvision.optimize(vit, token_merging=2, sample=sample)
    torch.testing.assert_close(run(faster, sample), run(merged, sample), rtol=1e-5, atol=1e-5)
    assert "compiled by aot_eager" in faster.optimization.steps[-1]
    torch.compiler.reset()

    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler here")

    from torch._dynamo.backends import registry

    no_compiler._tags = ()
    monkeypatch.setitem(registry._COMPILER_FNS, "failing", no_compiler)
    monkeypatch.setitem(registry._BACKENDS, "failing", None)
    left = hfvision.optimize(vit, compile="failing", sample=sample)
    assert "not compiled, because failing failed" in left.optimization.steps[0]
    torch.testing.assert_close(run(left, sample), run(vit, sample), rtol=0, atol=0)


@pytest.mark.parametrize("compiled_seconds", [0.5, 2.0])
def test_the_default_compiler_is_kept_only_where_it_makes_the_sample_faster(vit, compiled_seconds, monkeypatch):
    monkeypatch.setattr(compiling, "DEFAULT", "aot_eager")

    def seconds(run, device):
        model = run.args[0]
        return 1.0 if model._compiled_call_impl is None else compiled_seconds

    monkeypatch.setattr(compiling, "run_seconds", seconds)
    faster = hfvision.optimize(vit, compile=True, sample=images(vit))
    kept = compiled_seconds < 1
    assert (faster._compiled_call_impl is not None) == kept
    wanted = "it is compiled by aot_eager" if kept else "it is not compiled, because aot_eager makes it slower here"
    assert faster.optimization.steps[0].startswith(wanted)
    assert f"{compiled_seconds * 1e3:.3g} ms, and 1e+03 ms uncompiled" in faster.optimization.steps[0]
    torch.testing.assert_close(run(faster, images(vit)), run(vit, images(vit)), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()
    named = hfvision.optimize(vit, compile="aot_eager", sample=images(vit))
    assert named._compiled_call_impl is not None


def test_models_of_transformers_own_take_all_but_merging():
    config = transformers.ViTConfig(**{**tiny_config("vit").to_dict(), "architectures": None})
    model = transformers.models.vit.modeling_vit.ViTForImageClassification(config).eval()
    for dtype in ("bfloat16", "int8"):
        assert hfvision.optimize(model, dtype=dtype).optimization.cosine > 0.99
    with pytest.raises(ConfigError, match=r"transformers\.models\.vit"):
        hfvision.optimize(model, token_merging=1)


@pytest.mark.parametrize(
    ("prepare", "options", "said"),
    [
        (lambda model: model, {}, "asked for nothing"),
        (lambda model: model, {"dtype": "float8"}, "'bfloat16' or 'int8'"),
        (lambda model: model, {"compile": "turbo"}, "torch's backends"),
        (lambda model: model.train(), {"dtype": "int8"}, "training mode"),
        (lambda model: model.bfloat16(), {"dtype": "bfloat16"}, "already"),
        (lambda model: model.half(), {"dtype": "int8"}, "float32 weights"),
        (lambda model: model.to("meta"), {"dtype": "int8"}, "meta"),
        (lambda model: model, {"dtype": "int8", "sample": torch.zeros(3, 32, 32)}, "batch of images"),
        (lambda model: model, {"dtype": "int8", "sample": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}, "floats"),
        (lambda model: nn.Linear(2, 2), {"dtype": "int8"}, "got Linear"),
    ],
)
def test_bad_input_is_named_before_anything_is_done(vit, prepare, options, said):
    with pytest.raises(HfvisionError, match=said) as caught:
        hfvision.optimize(prepare(vit), inplace=True, **options)
    assert isinstance(caught.value, (ConfigError, ImageShapeError))
    assert not any(isinstance(part, PackedLinear) for part in vit.modules())


# --- pipelines and the command ----------------------------------------------------------------------------------------


def test_options_are_read_from_a_string_or_a_mapping():
    wanted = {"dtype": "int8", "token_merging": 8, "compile": True}
    assert optimize_options("int8, token_merging=8, compile") == wanted == optimize_options(wanted)
    for bad in ("int4", "int8,bfloat16", "token_merging", {"speed": 1}, 8):
        with pytest.raises(ConfigError):
            optimize_options(bad)


@pytest.mark.parametrize("wanted", ["bfloat16", "int8"])
@pytest.mark.parametrize("starter", ["vit-digits", "segformer-digit-scenes"])
def test_an_optimised_pipeline_answers_as_the_exact_one(starter, wanted):
    picture = hfvision.load_digit_scenes(train=1, validation=1)["validation"][0]["image"]
    (exact,), (faster,) = (predict([picture], starter, optimize=optimize) for optimize in (None, wanted))
    if isinstance(exact, dict):
        assert (exact["classes"] == faster["classes"]).mean() > 0.99
    else:
        assert exact[0]["label"] == faster[0]["label"]


def test_a_pipeline_leaves_the_model_given_to_it_alone(vit):
    processor = hfvision.ViTImageProcessor(size={"height": 32, "width": 32})
    find = hfvision.pipeline(
        "image-classification", model=vit, image_processor=processor, device="cpu", optimize={"token_merging": 2}
    )
    assert find.model is not vit and "processed to 32x32" in find.model.optimization.sample
    assert len(find(Image.new("RGB", (50, 40)))) == 5
