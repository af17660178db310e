"""Attention maps against what they are by definition, the colour map's evenness, and sheets pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from hfvision.errors import ConfigError
from hfvision.models.google_vit import GoogleViTConfig, GoogleViTForImageClassification
from hfvision.models.vit import ViTConfig, ViTForImageClassification, ViTModel
from hfvision.plots import attention_map, colourize, explain_attention, overlay, prediction_sheet
from hfvision.plots.colours import EMBER, PAPER, WRONG, ember_oklab, oklab_to_srgb
from hfvision.plots.pictures import as_picture, enlarged
from hfvision.processing.classification import ViTImageProcessor

TINY = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.2,
}


def random_attentions(blocks: int, tokens: int, batch: int = 2, heads: int = 3) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(batch, heads, tokens, tokens).softmax(dim=-1) for _ in range(blocks))


@pytest.fixture
def model() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**TINY, num_labels=3)).eval()


@pytest.fixture
def processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": 16, "width": 16})


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))


def test_last_is_the_class_tokens_row_of_the_last_block() -> None:
    attentions = random_attentions(blocks=3, tokens=7)
    expected = attentions[-1].mean(dim=1)[:, 0, 1:].reshape(2, 2, 3)
    torch.testing.assert_close(attention_map(attentions, (2, 3)), expected, rtol=0, atol=0)


def test_rollout_is_the_product_of_blocks_mixed_with_the_identity() -> None:
    attentions = random_attentions(blocks=4, tokens=5)
    for one in range(2):  # each image of the batch on its own, in float64
        product = np.eye(5)
        for attention in attentions:
            product = (0.5 * attention[one].double().numpy().mean(axis=0) + 0.5 * np.eye(5)) @ product
        found = attention_map(attentions, (2, 2), "rollout")[one].numpy()
        # float32 products of four 5 x 5 matrices whose rows sum to one: a few 1e-8
        np.testing.assert_allclose(found, product[0, 1:].reshape(2, 2), rtol=0, atol=1e-6)


def test_rollout_of_blocks_that_look_only_at_themselves_stays_at_the_class_token() -> None:
    nowhere = tuple(torch.eye(5).expand(1, 2, 5, 5) for _ in range(3))
    assert attention_map(nowhere, (2, 2), "rollout").abs().max() == 0


def test_without_prefix_tokens_the_mean_over_tokens_is_read() -> None:
    attentions = random_attentions(blocks=2, tokens=6)
    expected = attentions[-1].mean(dim=1).mean(dim=1).reshape(2, 2, 3)
    found = attention_map(attentions, (2, 3), prefix_tokens=0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(2))  # nothing is held by a prefix token


def test_every_fault_of_a_call_is_named() -> None:
    with pytest.raises(ConfigError, match=r"3 problems") as caught:
        attention_map(random_attentions(2, 7), (3, 3), "gradient")  # type: ignore[arg-type]
    message = str(caught.value)
    assert "last, rollout" in message
    assert "block 1 has attentions of shape (2, 3, 7, 7)" in message
    assert "(B, heads, 10, 10)" in message
    for nothing in ((), (None, None)):  # the second is what some models return under sdpa
        with pytest.raises(ConfigError, match="output_attentions=True"):
            attention_map(nothing, (3, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_explanation_is_the_map_of_the_image_as_the_model_saw_it(model, processor, image, attention) -> None:
    model.set_attn_implementation(attention)
    found = explain_attention(model, processor, image, "last")
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = model(pixels, output_attentions=True)
    expected = outputs.attentions[-1].mean(dim=1)[0, 0, 1:].reshape(4, 4).numpy()
    np.testing.assert_allclose(found.patches, expected, rtol=0, atol=1e-6)  # one float32 softmax apart at most
    assert found.label == model.config.id2label[int(outputs.logits.argmax())]
    assert found.score == pytest.approx(float(outputs.logits.softmax(-1).max()), abs=1e-6)
    assert found.heat.shape == (16, 16)
    assert (found.heat.min(), found.heat.max()) == (0, 1)
    seen = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(np.asarray(found.image).astype(int) - seen).max() <= 1  # normalised and back, in float32
    assert found.picture((64, 64)).size == (64, 64)


def test_heat_is_largest_where_most_attention_went(model, processor, image) -> None:
    found = explain_attention(model, processor, image)
    row, column = np.unravel_index(found.heat.argmax(), found.heat.shape)
    assert found.patches[row // 4, column // 4] == found.patches.max()


def test_images_that_are_no_whole_patches_give_a_map_of_their_own_size(model) -> None:
    odd = ViTImageProcessor(size={"height": 18, "width": 27})
    found = explain_attention(model, odd, Image.new("RGB", (27, 18)))
    assert found.patches.shape == (5, 7)
    assert found.heat.shape == (18, 27)
    assert found.image.size == (27, 18)


def test_a_model_in_training_is_explained_without_dropout_and_stays_in_training(processor, image) -> None:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**TINY, hidden_dropout_prob=0.5)).train()
    first, second = (explain_attention(model, processor, image).patches for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training


@pytest.mark.parametrize("classifier", ["token", "gap"])
def test_models_without_a_class_token_and_trunks_can_be_explained(processor, image, classifier) -> None:
    config = GoogleViTConfig(**TINY, classifier=classifier)
    found = explain_attention(GoogleViTForImageClassification(config), processor, image, "last")
    assert found.patches.shape == (4, 4)
    assert (abs(found.patches.sum() - 1) < 1e-5) == (classifier == "gap")
    trunk = explain_attention(ViTModel(ViTConfig(**TINY)), processor, image)
    assert (trunk.label, trunk.score) == (None, None)


def test_one_image_at_a_time(model, processor, image) -> None:
    with pytest.raises(ConfigError, match=r"one image.*\(2, 3, 16, 16\)"):
        explain_attention(model, processor, [image, image])


def test_models_without_a_patch_grid_are_refused(processor, image) -> None:
    with pytest.raises(ConfigError, match="Linear does not say on which patch grid"):
        model = torch.nn.Linear(1, 1)
        model.base_model = model
        explain_attention(model, processor, image)  # type: ignore[arg-type]


def test_equal_steps_of_the_colour_map_are_equal_differences_of_colour() -> None:
    curve = ember_oklab()
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.001  # the curve is sampled 16 times finer than its entries
    assert (np.diff(curve[:, 0]) > 0).all()  # lighter with every step
    shown = oklab_to_srgb(curve)
    assert shown.min() >= 0  # no colour had to be clipped, which would bend the curve
    assert shown.max() <= 1
    assert oklab_to_srgb(np.array([1.0, 0, 0])) == pytest.approx([1, 1, 1], abs=1e-6)  # OKLab's white is sRGB's


def test_values_get_their_colour_and_outliers_the_ends() -> None:
    np.testing.assert_array_equal(colourize([[-3, 0], [1, 9]]), EMBER[[[0, 0], [255, 255]]])
    assert colourize(np.zeros((2, 3))).shape == (2, 3, 3)


def test_overlay_mixes_grey_and_heat() -> None:
    image = Image.new("RGB", (4, 2), (200, 200, 200))
    heat = np.ones((1, 2))
    np.testing.assert_array_equal(np.asarray(overlay(image, heat, strength=0)), 200)
    assert np.asarray(overlay(image, heat, strength=1)).tolist() == [[EMBER[-1].tolist()] * 4] * 2
    half = np.asarray(overlay(image, heat, strength=0.5)).astype(float)
    assert np.abs(half - (200 + EMBER[-1].astype(float)) / 2).max() <= 0.5  # rounding to eight bits
    assert overlay(image, heat, (8, 4)).size == (8, 4)


def test_overlay_names_every_fault() -> None:
    with pytest.raises(ConfigError, match=r"2 problems:\n.*got -1..2\n.*strength lies in 0..1; got 3"):
        overlay(Image.new("L", (2, 2)), [[-1, 2]], strength=3)
    with pytest.raises(ConfigError, match=r"shape \(h, w\); got \(2, 2, 1\)"):
        overlay(Image.new("L", (2, 2)), np.zeros((2, 2, 1)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_can_be_shown(mode: str) -> None:
    grey = Image.fromarray(np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4))
    image = grey.convert("I").convert(mode) if mode == "I;16" else grey.convert(mode)
    shown = as_picture(image)
    assert (shown.mode, shown.size) == ("RGB", (4, 3))


def test_deep_values_are_stretched_and_transparency_is_white() -> None:
    deep = as_picture(np.array([[1000, 3000]], np.uint16))
    assert np.asarray(deep)[0, :, 0].tolist() == [0, 255]
    assert as_picture(np.full((2, 2), 7.0)).getpixel((0, 0)) == (0, 0, 0)
    assert as_picture(Image.new("RGBA", (1, 1), (9, 9, 9, 0))).getpixel((0, 0)) == PAPER
    with pytest.raises(ConfigError, match=r"shape \(4, 5, 2\)"):
        as_picture(np.zeros((4, 5, 2)))
    with pytest.raises(ConfigError, match="1 of the picture's 2 values are not finite"):
        as_picture(np.array([[0, np.nan]]))


def test_small_images_grow_by_squares_and_large_ones_shrink() -> None:
    checks = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    grown = np.asarray(enlarged(checks, (10, 10)))
    assert set(np.unique(grown)) == {0, 255}
    assert (grown[:5, :5] == 0).all()
    assert enlarged(Image.new("L", (1000, 10)), (100, 100)).size == (100, 1)


def digit_sheet(**changes) -> Image.Image:
    images = [Image.new("L", (8, 8)), Image.new("RGB", (300, 150)), np.zeros((5, 9), np.uint8)]
    arguments = {"predictions": [("0", 0.5), ("1", 1.0), ("2", 0.25)], "truths": ["0", "9", "2"], "tile": 64}
    return prediction_sheet(images, **{**arguments, **changes})


def test_wrong_predictions_alone_are_framed_and_marked() -> None:
    def marked(sheet: Image.Image) -> bool:
        return bool((np.asarray(sheet) == WRONG).all(axis=-1).any())

    assert marked(digit_sheet())
    assert not marked(digit_sheet(truths=["0", "1", "2"]))
    assert not marked(digit_sheet(truths=None))


def test_maps_add_a_picture_to_each_card() -> None:
    maps = [np.zeros((2, 2)), np.ones((4, 4)), np.eye(3)]
    narrow, wide = digit_sheet(columns=3, truths=None), digit_sheet(columns=3, truths=None, maps=maps)
    assert wide.width - narrow.width == pytest.approx(3 * 64, abs=3 * 4)  # three more tiles and the gaps between
    dark = (np.asarray(narrow) == 0).all(axis=-1).sum()
    assert dark == 64 * 64 + 64 * 32 + 64 * 36  # each image at its own proportions, none of them cut


def test_titles_and_columns_change_the_sheet_and_long_labels_do_not() -> None:
    plain = digit_sheet(columns=3)
    assert digit_sheet(columns=3, title="A title", subtitle="and more").height > plain.height
    assert digit_sheet(columns=1).height > plain.height
    long = [("a label that is much longer than its card is wide", 0.5)] * 3
    assert digit_sheet(columns=3, predictions=long, truths=["x " * 60] * 3).size == plain.size


def test_sheets_of_nothing_and_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 problems:\n.*2 predictions for 3 images\n.*1 truths.*\n.*columns"):
        digit_sheet(predictions=[("0", 1.0)] * 2, truths=["0"], columns=0)
    with pytest.raises(ConfigError, match="there are no images"):
        prediction_sheet([], [])
