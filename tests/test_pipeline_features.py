"""`pipeline("image-feature-extraction")`: what the README's table promises, for every model that has a trunk."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from hfvision.errors import ConfigError, ImageValueError
from hfvision.registry import ARCHITECTURES, load
from tests.models import takes_any_size, tiny_model

TRUNKS = [model_type for model_type, row in ARCHITECTURES.items() if "AutoModel" in row.models]
BACKBONES = [model_type for model_type, row in ARCHITECTURES.items() if "AutoBackbone" in row.models]
RNG = np.random.default_rng(0)


def picture(height=40, width=52):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pipe(model_type, auto_class="AutoModel", **options):
    processor = load(ARCHITECTURES[model_type].processor)(size={"height": 32, "width": 32}, **options)
    return pipeline("image-feature-extraction", model=tiny_model(model_type, auto_class), image_processor=processor)


def assert_same(got, wanted):
    """Within 1e-5 of the scale: images that run together sum in another order."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.fixture(params=TRUNKS)
def extract(request):
    return pipe(request.param)


def test_features_are_those_of_the_model(extract):
    image = picture()
    inputs = extract.image_processor(images=image, return_tensors="pt")
    with torch.no_grad():
        wanted = extract.model(**inputs)
    got = extract(image, return_tensors=True)
    torch.testing.assert_close(got, wanted[0], rtol=0, atol=0)
    assert extract(image) == wanted[0].tolist()
    if wanted.get("pooler_output") is not None:
        assert extract(image, pool=True) == wanted.pooler_output.tolist()
    else:
        with pytest.raises(ConfigError, match=f"{type(extract.model).__name__} gives no pooled output"):
            extract(image, pool=True)


def test_every_kind_of_input_gives_the_same_features(extract, tmp_path):
    image = picture()
    image.save(tmp_path / "image.png")
    array = np.asarray(image)
    wanted = extract(image)
    column = datasets.Dataset.from_dict({"image": [image]}).cast_column("image", datasets.Image())["image"]
    for same in (tmp_path / "image.png", str(tmp_path / "image.png"), array, torch.from_numpy(array.copy())):
        assert extract(same) == wanted
    for several in ([image], column, array[None], torch.from_numpy(array.copy())[None]):
        assert extract(several) == [wanted]
    assert list(extract(one for one in [image, array])) == [wanted, wanted]


def test_a_batch_of_mixed_sizes_gives_each_image_its_features(extract):
    images = [picture(), picture(32, 32), np.asarray(picture(20, 60)), picture(40, 52)]
    one_by_one = [extract(image) for image in images]
    for got, wanted in zip(extract(images, batch_size=3), one_by_one, strict=True):
        assert_same(got, wanted)
    if takes_any_size(extract.model):
        free = [extract(image, do_resize=False, return_tensors=True) for image in images]
        for got, wanted in zip(extract(images, batch_size=4, do_resize=False, return_tensors=True), free, strict=True):
            assert_same(got.numpy(), wanted.numpy())


def test_options_of_the_image_processor_are_taken_in_both_forms():
    extract = pipe("vit")
    floats = np.asarray(picture()).astype(np.float32) / 255
    wanted = extract(floats, input_range=(0, 1))
    assert extract(floats, image_processor_kwargs={"input_range": (0, 1)}) == wanted


@pytest.mark.parametrize("model_type", BACKBONES)
def test_a_backbone_gives_its_feature_maps(model_type):
    extract = pipe(model_type, "AutoBackbone")
    images = [picture(), picture(32, 32)]
    for image, got in zip(images, extract(images, batch_size=2, return_tensors=True), strict=True):
        with torch.no_grad():
            wanted = extract.model(**extract.image_processor(images=image, return_tensors="pt")).feature_maps
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_same(one.numpy(), other.numpy())


def test_an_empty_list_is_refused():
    with pytest.raises(ImageValueError, match="at least one image"):
        pipe("vit")([])
