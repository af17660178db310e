"""`pipeline("image-classification")`: every kind of input, batches of mixed sizes, other people's models unchanged."""

import logging
import threading

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import pipeline

import hfvision
from hfvision.errors import ImageReadError, ImageValueError, UnknownNameError
from hfvision.pipelines.image_classification import ImageClassificationPipeline
from hfvision.pipelines.predict import predict
from tests.models import CLASSIFIERS, takes_any_size, tiny_model


def picture(height=40, width=52, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def processor(**options):
    return hfvision.ViTImageProcessor(**{"size": {"height": 32, "width": 32}, **options})


@pytest.fixture(params=CLASSIFIERS)
def classify(request):
    return pipeline("image-classification", model=tiny_model(request.param), image_processor=processor())


def assert_same(got, wanted):
    """Scores within 1e-6, float32 rounding of a softmax over logits of order ten."""
    assert [row["label"] for row in got] == [row["label"] for row in wanted]
    assert [row["score"] for row in got] == pytest.approx([row["score"] for row in wanted], abs=1e-6)


def test_every_kind_of_input_gives_the_same_answer(classify, tmp_path):
    image = picture()
    image.save(tmp_path / "image.png")
    array = np.asarray(image)
    wanted = classify(image)
    assert [set(row) for row in wanted] == [{"label", "score"}] * 5
    assert sum(row["score"] for row in wanted) == pytest.approx(1, abs=1e-5)
    for same in (
        str(tmp_path / "image.png"),
        tmp_path / "image.png",
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()),
        torch.from_numpy(array.transpose(2, 0, 1).copy()),
    ):
        assert_same(classify(same), wanted)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_preparing_ahead_changes_no_answer(batch_size):
    classify = pipeline("image-classification", model=tiny_model("vit"), image_processor=processor())
    images = [picture(seed=seed) for seed in range(5)]
    wanted = classify(images, batch_size=batch_size, num_workers=0)  # transformers' DataLoader
    assert classify(images, batch_size=batch_size) == wanted
    assert list(classify((image for image in images), batch_size=batch_size)) == wanted
    assert not [thread for thread in threading.enumerate() if thread.name == "hfvision-ahead"]


def test_an_image_that_cannot_be_read_ends_the_list_and_leaves_no_thread():
    classify = pipeline("image-classification", model=tiny_model("vit"), image_processor=processor())
    with pytest.raises(ImageReadError, match=r"missing\.png"):
        classify([picture(), "missing.png", picture(), picture()])
    assert not [thread for thread in threading.enumerate() if thread.name == "hfvision-ahead"]
    answers = iter(classify(image for image in [picture(), "missing.png", picture()]))
    first = next(answers)
    with pytest.raises(ImageReadError, match=r"missing\.png"):
        next(answers)
    assert next(answers) == first


def test_lists_generators_batches_and_columns_give_a_list_each(classify):
    images = [picture(seed=seed) for seed in range(3)]
    wanted = [classify(image) for image in images]
    column = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 2]}).cast_column("image", datasets.Image())
    stacked = np.stack([np.asarray(image) for image in images])
    for many in (images, tuple(images), (image for image in images), column["image"], stacked, torch.tensor(stacked)):
        answers = list(classify(many))
        for got, want in zip(answers, wanted, strict=True):
            assert_same(got, want)
    assert isinstance(classify(column["image"]), list)


def test_a_batch_of_mixed_sizes_answers_as_its_images_alone(classify):
    """Also where the processor leaves sizes different: such images are not padded to each other."""
    images = [picture(40, 52, 0), picture(33, 47, 1), picture(40, 52, 2), picture(64, 20, 3)]
    processors = (processor(), processor(do_resize=False)) if takes_any_size(classify.model) else (processor(),)
    for image_processor in processors:
        classify.image_processor = image_processor
        wanted = [classify(image) for image in images]
        for batch_size in (2, 3, 8):
            for got, want in zip(classify(images, batch_size=batch_size), wanted, strict=True):
                assert_same(got, want)


def test_options_are_transformers(classify):
    image = picture()
    assert len(classify(image, top_k=2)) == 2
    assert len(classify(image, top_k=99)) == 5
    logits = classify(image, function_to_apply="none", top_k=5)
    sigmoid = classify(image, function_to_apply="sigmoid", top_k=5)
    for row, raw in zip(sigmoid, logits, strict=True):
        assert row["score"] == pytest.approx(1 / (1 + np.exp(-raw["score"])), abs=1e-6)
    classify.model.config.problem_type = "multi_label_classification"
    assert_same(classify(image), sigmoid)


def test_one_instance_equals_transformers_on_the_same_folder(tmp_path):
    model = tiny_model("vit")
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    image = picture()
    ours = pipeline("image-classification", model=str(tmp_path))
    assert type(ours) is ImageClassificationPipeline
    hfvision.unregister()
    try:
        theirs = pipeline("image-classification", model=str(tmp_path), image_processor=peer_processor(tmp_path))
        assert type(theirs) is transformers.ImageClassificationPipeline
        assert_same(ours(image), theirs(image))
    finally:
        hfvision.register()


def peer_processor(folder):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil.from_pretrained(folder)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}])
def test_a_foreign_model_goes_through_transformers_code_unchanged(options):
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    torch.manual_seed(0)
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=4)
    model = transformers.ConvNextForImageClassification(config)
    parts = {"model": model, "image_processor": ConvNextImageProcessorPil(size={"shortest_edge": 64})}
    ours = pipeline("image-classification", **parts)
    assert type(ours) is ImageClassificationPipeline
    theirs = transformers.ImageClassificationPipeline(**parts)
    images = [picture(seed=seed) for seed in range(2)]
    assert ours(images, **options) == theirs(images, **options)
    assert ours(images[0], top_k=2) == theirs(images[0], top_k=2)
    for wrong in ([], None, 3):
        with pytest.raises(Exception) as raised:
            theirs(wrong)
        with pytest.raises(type(raised.value)):
            ours(wrong)


def test_a_model_that_does_not_classify_is_named_as_transformers_does(caplog):
    with caplog.at_level(logging.ERROR, logger="transformers"):
        pipeline("image-classification", model=tiny_model("vit"), image_processor=processor())
        assert caplog.text == ""


def test_bad_input_ends_in_one_error(classify, tmp_path):
    with pytest.raises(ImageValueError, match="at least one image; got an empty list"):
        classify([])
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageReadError, match=r"empty\.png"):
        classify(str(tmp_path / "empty.png"))
    with pytest.raises(ImageReadError, match=r"nowhere\.png"):
        classify([picture(), str(tmp_path / "nowhere.png")])
    with pytest.raises(ImageValueError, match="NaN"):
        classify(np.full((8, 8, 3), np.nan, dtype=np.float32))


def test_predict_answers_for_a_folder_and_names_what_it_knows(tmp_path):
    model = tiny_model("vit")
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    images = [picture(40, 52, 0), picture(33, 47, 1)]
    answers = predict(images, str(tmp_path), top_k=2, batch_size=2)
    assert [len(answer) for answer in answers] == [2, 2]
    with pytest.raises(UnknownNameError, match=r"'no-such-model' is none of the starter models \(vit-digits, "):
        predict(images, "no-such-model")
