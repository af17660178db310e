"""Options of every pipeline: those of the image processor, in a call and at construction; no others are passed over."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

import hfvision
from hfvision.errors import ConfigError, HfvisionError, ImageShapeError, ImageValueError, UnknownNameError
from hfvision.registry import ARCHITECTURES, load
from hfvision.tasks import PIPELINES
from tests.models import tiny_model

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 52, 3), dtype=np.uint8)
TASKS = {  # pipeline task -> for each kind of model that it serves, an architecture and an Auto class
    "image-classification": [("vit", "AutoModelForImageClassification")],
    "image-feature-extraction": [("vit", "AutoModel"), ("detr", "AutoModel")],
    "image-segmentation": [
        ("segformer", "AutoModelForSemanticSegmentation"),
        ("detr", "AutoModelForImageSegmentation"),
    ],
    "object-detection": [("detr", "AutoModelForObjectDetection")],
}
SERVED = [(task, *kind) for task, kinds in TASKS.items() for kind in kinds]
SPARE = {"object-detection": {"threshold": 0.0, "output": "arrays"}}  # so that there is something to compare


def pipe(task, model_type, auto_class, **options):
    processor = load(ARCHITECTURES[model_type].processor)(size={"height": 32, "width": 32})
    return pipeline(task, model=tiny_model(model_type, auto_class), image_processor=processor, **options)


def assert_same(got, wanted):
    """Numbers within 1e-5 of their scale: images that run together sum in another order."""
    if isinstance(wanted, dict):
        assert set(got) == set(wanted)
        for name, value in wanted.items():
            assert_same(got[name], value)
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict | list):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, list | float):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max(initial=0)))
    else:
        assert got == wanted


def plain(answer):
    """An answer as lists and numbers."""
    if hasattr(answer, "boxes"):
        return [answer.boxes.tolist(), answer.scores.tolist()]
    if isinstance(answer, dict):
        return {name: plain(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    return np.asarray(answer).tolist() if isinstance(answer, Image.Image | torch.Tensor | np.ndarray) else answer


def test_every_pipeline_of_ours_is_tested_here():
    assert set(TASKS) == set(PIPELINES)


@pytest.fixture(params=SERVED, ids=lambda kind: f"{kind[0]}-{kind[1]}-{kind[2]}")
def kind(request):
    return request.param


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (IMAGE.astype(np.float32) / 255, {"input_range": (0, 1)}),
        (IMAGE.astype(np.int64) * 4, {"input_range": [0, 1020]}),
        (IMAGE[..., ::-1], {"bands": ["blue", "green", "red"]}),
        (np.moveaxis(IMAGE, 2, 0), {"input_data_format": "channels_first"}),
    ],
    ids=["floats", "integers", "bands", "layout"],
)
def test_reading_options_are_taken_in_the_call_and_at_construction(kind, image, options):
    extra = SPARE.get(kind[0], {})
    plainly = pipe(*kind, **extra)
    if "bands" in options:
        plainly.image_processor.bands = ["red", "green", "blue"]
    wanted = plain(plainly(IMAGE))
    assert_same(plain(plainly(image, **options)), wanted)
    assert_same(plain(plainly([image, image], batch_size=2, **options)), [wanted, wanted])
    made = pipe(*kind, **extra, **({} if "bands" in options else options))
    if "bands" not in options:
        assert_same(plain(made(image)), wanted)


def test_what_the_call_says_goes_before_what_construction_said(kind):
    made = pipe(*kind, input_range=(0, 1), **SPARE.get(kind[0], {}))
    assert plain(made(IMAGE, input_range=(0, 255))) == plain(pipe(*kind, **SPARE.get(kind[0], {}))(IMAGE))


def test_values_are_left_as_they_are_where_rescaling_is_switched_off(kind):
    plainly = pipe(*kind, **SPARE.get(kind[0], {}))
    scaled = IMAGE.astype(np.float64) / 255
    size = {"height": 40, "width": 52}
    if kind[1] == "vit":
        size, scaled = {"height": 32, "width": 32}, scaled[:32, :32]
    image = np.round(scaled * 255).astype(np.uint8)
    got = plain(plainly(scaled.astype(np.float32), do_rescale=False, size=size))
    assert_same(got, plain(plainly(image, size=size)))


ADVICE = {  # an image that an error tells how to give -> the options that it advises
    "floats": (IMAGE.astype(np.float32) / 255, ImageValueError, ({"input_range": (0, 1)}, {"do_rescale": False})),
    "integers": (IMAGE.astype(np.int32), ImageValueError, ({"input_range": (0, 255)},)),
    "layout": (np.zeros((3, 40, 3), np.uint8), ImageShapeError, ({"input_data_format": "channels_last"},)),
    "alpha": (np.zeros((40, 40, 4), np.uint8), ImageShapeError, ({"do_convert_rgb": True},)),
}


@pytest.mark.parametrize("name", ADVICE)
def test_what_an_error_advises_can_be_done(kind, name):
    image, error, advised = ADVICE[name]
    plainly = pipe(*kind)
    with pytest.raises(error) as raised:
        plainly(image)
    for options in advised:
        assert next(iter(options)) in str(raised.value)
        plainly(image, **options)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("inputrange", "input_range"), ("do_recsale", "do_rescale"), ("batchsize", "batch_size")]
)
def test_a_misspelt_option_is_refused_with_the_nearest_name(kind, wrong, meant):
    with pytest.raises(UnknownNameError, match=rf"'{wrong}' is no option; did you mean '{meant}'"):
        pipe(*kind, **{wrong: 1})
    made = pipe(*kind)
    for images in (IMAGE, [IMAGE], (image for image in [IMAGE])):
        with pytest.raises(UnknownNameError, match=rf"'{wrong}' is no option; did you mean '{meant}'"):
            made(images, **{wrong: 1})


@pytest.mark.parametrize(
    ("place", "wrong", "meant"),
    [
        (0, "topk", "top_k"),
        (1, "pol", "pool"),
        (3, "tilesize", "tile"),
        (3, "outptu", "output"),
        (4, "treshold", "threshold"),
        (4, "outptu", "output"),
        (5, "treshold", "threshold"),
        (5, "tilesize", "tile"),
    ],
)
def test_a_misspelt_option_of_the_task_is_refused_with_the_nearest_name(place, wrong, meant):
    for attempt in (lambda: pipe(*SERVED[place], **{wrong: 1}), lambda: pipe(*SERVED[place])(IMAGE, **{wrong: 1})):
        with pytest.raises(UnknownNameError, match=f"{wrong!r} is no option; did you mean {meant!r}"):
            attempt()


def test_an_option_like_no_other_is_refused_with_all_there_are(kind):
    with pytest.raises(UnknownNameError, match=r"'zzz' is no option; there are .*input_range.*timeout"):
        pipe(*kind)(IMAGE, zzz=1)


def test_an_option_that_cannot_be_is_refused_at_construction(kind):
    with pytest.raises(ConfigError, match="input_range"):
        pipe(*kind, input_range=(1, 1))


def test_what_a_pipeline_decides_itself_is_no_option(kind):
    for name, value in {"return_tensors": "np", "data_format": "channels_last"}.items():
        if (kind[0], name) != ("image-feature-extraction", "return_tensors"):
            with pytest.raises(HfvisionError, match=f"{name!r} is no option"):
                pipe(*kind)(IMAGE, **{name: value})


def test_options_of_every_pipeline_of_transformers_are_taken(kind):
    made = pipe(*kind, batch_size=2, num_workers=0, device="cpu", dtype="float32", **SPARE.get(kind[0], {}))
    wanted = plain(made(IMAGE))
    assert plain(made([IMAGE] * 3, timeout=5, batch_size=1, num_workers=0)) == [wanted] * 3
    assert plain(made(images=[IMAGE])) == [wanted]


@pytest.mark.parametrize("task", ["image-segmentation", "object-detection", "image-feature-extraction"])
def test_models_of_others_ignore_what_transformers_ignores(task):
    hfvision.unregister()
    try:
        theirs = _theirs(task)
        wanted = plain(theirs(Image.fromarray(IMAGE), treshold=0.1))
    finally:
        hfvision.register()
    ours = _theirs(task)
    assert type(ours).__module__.startswith("hfvision")
    assert plain(ours(Image.fromarray(IMAGE), treshold=0.1)) == wanted


def _theirs(task):
    import transformers

    torch.manual_seed(0)
    size = {"height": 32, "width": 32}
    if task == "object-detection":
        config = transformers.YolosConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32]
        )
        model = transformers.YolosForObjectDetection(config)
        processor = transformers.YolosImageProcessorPil(size=size)
    elif task == "image-segmentation":
        config = transformers.BeitConfig(
            **{"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16},
            **{"image_size": 32, "out_indices": [1, 2, 3, 4], "num_labels": 3},
        )
        model = transformers.BeitForSemanticSegmentation(config)
        processor = transformers.BeitImageProcessorPil(size=size, do_center_crop=False)
    else:
        config = transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
        )
        model = transformers.Dinov2Model(config)
        processor = transformers.BitImageProcessorPil(size=size, do_center_crop=False)
    return pipeline(task, model=model.eval(), image_processor=processor)
