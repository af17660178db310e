"""Names of classes, however `id2label` was written: in every pipeline, and where data is matched by name."""

import numpy as np
import pytest
import torch
import transformers

import hfvision
from hfvision.errors import ConfigError
from hfvision.labels.outputs import names_in_order, output_names
from hfvision.registry import ARCHITECTURES, IMAGE_CLASSIFICATION, IMAGE_SEGMENTATION, OBJECT_DETECTION, load
from hfvision.reporting import report_once
from hfvision.training.head import class_names
from tests.models import CLASSIFIERS, DENSE, DETECTORS, SEMANTIC_SEGMENTATION, tiny_model

NAMES = ["ant", "bee", "cat", "dog", "elk"]
PIPELINES = {
    IMAGE_CLASSIFICATION: "image-classification",
    SEMANTIC_SEGMENTATION: "image-segmentation",
    OBJECT_DETECTION: "object-detection",
    IMAGE_SEGMENTATION: "image-segmentation",
}
HEADS = [*((m, IMAGE_CLASSIFICATION) for m in CLASSIFIERS), *((m, SEMANTIC_SEGMENTATION) for m in DENSE), *DETECTORS]


@pytest.fixture(autouse=True)
def _reports_anew():
    report_once.cache_clear()


def labels_of(model, auto_class):
    """The labels that a pipeline answers with for an image."""
    processor = load(ARCHITECTURES[model.config.model_type].processor)(size={"height": 32, "width": 32})
    options = {"threshold": 0.0} if auto_class in (OBJECT_DETECTION, IMAGE_SEGMENTATION) else {}
    options |= {"top_k": 5} if auto_class == IMAGE_CLASSIFICATION else {}
    if auto_class == IMAGE_SEGMENTATION:
        options |= {"mask_threshold": 0.0, "overlap_mask_area_threshold": 0.0}
    pipe = transformers.pipeline(PIPELINES[auto_class], model=model, image_processor=processor)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return [row["label"] for row in pipe(image, **options)]


@pytest.mark.parametrize(("model_type", "auto_class"), HEADS)
def test_text_keys_are_numbers(model_type, auto_class):
    model = tiny_model(model_type, auto_class)
    model.config.id2label = dict(enumerate(NAMES))
    wanted = labels_of(model, auto_class)
    assert set(wanted) <= set(NAMES)
    model.config.id2label = {str(number): name for number, name in enumerate(NAMES)}
    assert labels_of(model, auto_class) == wanted


@pytest.mark.parametrize(("model_type", "auto_class"), HEADS)
def test_a_class_without_a_name_is_called_by_its_number(model_type, auto_class, caplog):
    model = tiny_model(model_type, auto_class)
    model.config.id2label = {f"{number}": name for number, name in enumerate(NAMES)}
    wanted = [f"LABEL_{name}" if name in "02" else name for name in labels_of(model, auto_class)]
    wanted = [{"ant": "LABEL_0", "cat": "LABEL_2"}.get(name, name) for name in wanted]
    model.config.id2label = {1: "bee", "3": "dog", 4: "elk", 7: "gnu", 9: "hen"}
    assert labels_of(model, auto_class) == wanted
    assert "no name for classes 0, 2, called LABEL_0" in caplog.text
    assert "names classes 7, 9, which the model does not have: the model has the classes 0 to 4" in caplog.text


@pytest.mark.parametrize(("model_type", "auto_class"), HEADS)
def test_a_model_answers_with_all_its_classes_where_few_are_named(model_type, auto_class):
    model = tiny_model(model_type, auto_class)
    model.config.id2label = dict(enumerate(NAMES))
    wanted = labels_of(model, auto_class)
    model.config.id2label = {0: "ant"}
    found = labels_of(model, auto_class)
    assert found == [name if name == "ant" else f"LABEL_{NAMES.index(name)}" for name in wanted]
    assert model.config.num_labels == 5


@pytest.mark.parametrize(("model_type", "auto_class"), HEADS)
def test_names_and_numbers_that_were_swapped_are_an_error(model_type, auto_class):
    model = tiny_model(model_type, auto_class)
    model.config.id2label = {name: number for number, name in enumerate(NAMES)}
    with pytest.raises(ConfigError, match=r"(?s)'ant': 0.*id2label and label2id swapped"):
        labels_of(model, auto_class)


def test_text_keys_are_sorted_as_numbers_wherever_classes_are_matched():
    model = hfvision.ViTForImageClassification(
        hfvision.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_labels=12, num_attention_heads=2, intermediate_size=8
        )
    )
    model.config.id2label = {str(number): f"name {number}" for number in reversed(range(12))}
    assert class_names(model) == output_names(model) == [f"name {number}" for number in range(12)]


def test_two_names_of_one_number_are_an_error():
    assert names_in_order({0: "a", "0": "a"}, 1) == ["a"]
    with pytest.raises(ConfigError, match="0 is 'a' and 'b'"):
        names_in_order({0: "a", "0": "b"}, 1)


def test_names_of_a_file_may_have_gaps(tmp_path):
    model = tiny_model("vit")
    model.config.id2label = {1: "bee", 2: "cat", 3: "dog", 4: "elk", 5: "fox"}
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert output_names(loaded) == ["LABEL_0", "bee", "cat", "dog", "elk"]
    assert loaded(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_config_takes_names_by_number_only(model_type, caplog):
    config_class = load(ARCHITECTURES[model_type].config)
    for names in ({str(number): name for number, name in enumerate(NAMES)}, NAMES):
        config = config_class(id2label=names)
        assert config.id2label == dict(enumerate(NAMES)) and config.num_labels == 5
    assert "id2label" not in caplog.text
    with pytest.raises(ConfigError, match="'ant': 0"):
        config_class(id2label={"ant": 0, "bee": 1})
    with pytest.raises(ConfigError, match="got 'ant'"):
        config_class(id2label="ant")
    config_class(id2label={0: "ant", 3: "dog"})
    assert "no name for class 1, called LABEL_1" in caplog.text and "names class 3" in caplog.text


def test_names_that_are_given_beside_a_file_may_have_text_keys(tmp_path):
    model = tiny_model("swin")
    model.save_pretrained(tmp_path)
    names = {str(number): name for number, name in enumerate(NAMES)}
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, id2label=names)
    assert loaded.config.id2label == dict(enumerate(NAMES))
    with pytest.raises(ConfigError, match="swapped"):
        transformers.AutoConfig.from_pretrained(tmp_path, id2label={"ant": 0})
