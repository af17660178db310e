"""Image processors by the originals' evaluation protocols, and DeiT's against transformers' own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import hfvision
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.processing.protocols import PROTOCOLS, protocol_options

GOLDENS = Path(__file__).parent / "data" / "goldens" / "preprocess"
CASES = {"deit_eval": "deit", "swin_eval_crop": "swin", "swin_eval_no_crop": "swin-no-crop"}


@pytest.mark.parametrize("kind", ["array", "PIL", "tensor"])
@pytest.mark.parametrize("case", CASES)
def test_a_protocol_prepares_images_as_the_original(case, kind):
    facts = json.loads((GOLDENS / case / "case.json").read_text())["config"]
    fraction = facts.get("eval_crop_ratio")
    processor = hfvision.ViTImageProcessor.from_protocol(CASES[case], facts["input_size"], crop_fraction=fraction)
    wanted = np.load(GOLDENS / case / "output.npz")
    for index in range(len(wanted.files)):
        image = np.load(GOLDENS / case / f"image_{index}.npy")
        image = {"array": image, "PIL": Image.fromarray(image), "tensor": torch.from_numpy(image)}[kind]
        got = processor(image, return_tensors="np")["pixel_values"][0]
        # the grey levels are equal; scaling them in another order moves the last bits of values up to 2.6
        np.testing.assert_allclose(got, wanted[f"pixel_values_{index}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "short"),
    [("deit", 224, 256), ("deit", 384, 438), ("swin", 224, 256), ("timm-vit", 224, 248), ("timm-deit", 384, 426)],
)
def test_the_short_side_is_rounded_as_the_originals_do(name, size, short):
    options = protocol_options(name, size)
    assert options["size"] == {"shortest_edge": short}
    assert options["crop_size"] == {"height": size, "width": size}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_gives_images_of_the_models_size_and_survives_saving(name, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 45, 3), dtype=np.uint8)
    processor = hfvision.DeiTImageProcessor.from_protocol(name, 32)
    pixel_values = processor(image, return_tensors="np")["pixel_values"]
    assert pixel_values.shape == (1, 3, 32, 32)
    processor.save_pretrained(tmp_path)
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(image, return_tensors="np")["pixel_values"], pixel_values)
    stays_shared = processor.do_center_crop is False
    assert (type(again) is hfvision.DeiTImageProcessor) == stays_shared  # else transformers would crop elsewhere


def test_the_crop_is_where_transformers_puts_it_unless_the_protocol_says_otherwise():
    image = np.arange(9 * 9, dtype=np.uint8).reshape(9, 9, 1).repeat(3, axis=2)
    crop = {"do_resize": False, "do_rescale": False, "do_normalize": False, "crop_size": 6, "do_center_crop": True}
    first = {
        rounding: int(hfvision.DeiTImageProcessor(**crop, crop_rounding=rounding)(image)["pixel_values"][0][0, 0, 0])
        for rounding in (None, "down", "nearest")
    }
    assert first == {None: 10, "down": 10, "nearest": 20}  # 1.5 pixels from the edge are 1, or the even 2
    with pytest.raises(ConfigError, match="crop_rounding must be down or nearest; got 'up'"):
        hfvision.DeiTImageProcessor(crop_rounding="up")


def test_google_is_what_a_vit_does_by_default():
    assert hfvision.ViTImageProcessor.from_protocol("google").to_dict() == (
        hfvision.ViTImageProcessor(do_center_crop=False, resample=2).to_dict()
    )


def test_further_options_replace_the_protocols():
    processor = hfvision.ViTImageProcessor.from_protocol("deit", 32, image_mean=[0.1] * 3)
    assert list(processor.image_mean) == [0.1] * 3 and processor.size["shortest_edge"] == 36


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("detr",), UnknownNameError, "no protocol is called 'detr'; there are google, deit, swin"),
        (("deit", 0), ConfigError, "size is a positive number"),
        (("deit", (32, 48)), ConfigError, "crops a square"),
        (("deit", 32, 1.5), ConfigError, "above 0 and up to 1; got 1.5"),
        (("google", 32, 0.9), ConfigError, "straight to the square: it has no crop_fraction"),
    ],
)
def test_a_protocol_that_cannot_work_is_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        protocol_options(*arguments)


# --- DeiT's processor -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"size": {"shortest_edge": 40}, "crop_size": 32}, {"do_center_crop": False}])
@pytest.mark.parametrize("shape", [(300, 400), (31, 500), (256, 256)])
def test_results_and_files_equal_transformers(fields, shape, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours, theirs = hfvision.DeiTImageProcessor(**fields), transformers.DeiTImageProcessorPil(**fields)
    for kind in (image, Image.fromarray(image)):
        got, wanted = (processor(kind, return_tensors="np")["pixel_values"] for processor in (ours, theirs))
        np.testing.assert_array_equal(got, wanted)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    mine, peers = (
        json.loads((tmp_path / side / "preprocessor_config.json").read_text()) for side in ("ours", "theirs")
    )
    peers["image_processor_type"] = peers["image_processor_type"].removesuffix("Pil")  # the backend's name, if any
    assert mine == peers


def test_a_file_of_a_deit_gives_our_processor(tmp_path):
    hfvision.DeiTImageProcessor(crop_size=192).save_pretrained(tmp_path)
    found = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(found) is hfvision.DeiTImageProcessor
    assert found.crop_size["height"] == 192
