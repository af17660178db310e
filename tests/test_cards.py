"""A model card is valid for the Hub, states measured figures as such and no others, and gives nothing away."""

import pytest
from huggingface_hub import EvalResult, ModelCard

from hfvision.cards import Result, model_card, write_card
from hfvision.errors import ConfigError
from hfvision.models.google_vit import GoogleViTConfig
from hfvision.models.vit import ViTConfig

ACCURACY = Result("image-classification", "me/beans", "test", "accuracy", 0.97123, 128)
LOSS = Result("image-classification", "me/beans", "test", "loss", 0.12, 128)
URL = "https://example.org/results"
QUOTED = Result("image-classification", "imagenet-1k", "validation", "accuracy", 0.8198, 50_000, source="the paper")


def card(**arguments):
    return model_card(ViTConfig(num_labels=3), **{"name": "me/beans-vit", "license": "apache-2.0"} | arguments)


def front(text):
    return ModelCard(text).data


def test_the_front_matter_is_what_the_hub_reads():
    data = front(card(datasets=["me/beans"], base_model="google/vit-base-patch16-224"))
    assert data.license == "apache-2.0"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-classification"
    assert data.tags == ["hfvision", "vision", "vit"]
    assert data.datasets == ["me/beans"]
    assert data.base_model == "google/vit-base-patch16-224"
    assert data.eval_results is None


def test_measured_results_come_back_through_the_hub_library():
    data = front(card(results=[ACCURACY, LOSS]))
    assert data.model_name == "me/beans-vit"
    assert data.eval_results == [
        EvalResult(
            task_type="image-classification",
            dataset_type="me/beans",
            dataset_name="me/beans",
            dataset_split="test",
            metric_type=result.metric,
            metric_value=result.value,
            metric_args={"samples": 128},
        )
        for result in (ACCURACY, LOSS)
    ]


def test_quoted_results_are_marked_and_stay_out_of_the_model_index():
    text = card(results=[ACCURACY, QUOTED])
    assert [result.metric_value for result in front(text).eval_results] == [0.97123]
    assert "| accuracy | 0.97123 | 128 | measured |" in text
    assert "| accuracy | 0.8198 | 50,000 | quoted from the paper, not measured |" in text
    assert front(card(results=[QUOTED])).eval_results is None


def test_quoted_results_with_an_address_are_in_the_model_index_with_their_source():
    percent = Result(
        *["image-classification", "me/beans", "test", "top-1 accuracy", 83.4], source="R", url=URL, percent=True
    )
    text = card(results=[ACCURACY, percent])
    measured, quoted = front(text).eval_results
    assert (measured.metric_value, measured.source_url, measured.verified) == (0.97123, None, None)
    assert (quoted.metric_type, quoted.metric_value, quoted.source_name, quoted.source_url) == (
        "accuracy",
        83.4,
        "R",
        URL,
    )
    assert (quoted.verified, "quoted, not measured" in quoted.metric_name) == (False, True)
    assert f"| top-1 accuracy | 83.4 % | not said | quoted from [R]({URL}), not measured |" in text


def test_without_results_the_card_says_that_nothing_was_measured():
    assert "No figure was measured" in card()
    assert "## Results" not in card()


@pytest.mark.parametrize(("value", "samples"), [(float("nan"), 5), (float("inf"), 5), (0.5, 0)])
def test_a_result_that_means_nothing_is_refused(value, samples):
    with pytest.raises(ConfigError, match="accuracy"):
        Result("image-classification", "beans", "test", "accuracy", value, samples)


def test_the_body_has_sizes_labels_provenance_training_and_notes():
    text = card(
        provenance={"source file": "ViT-B_16.npz", "sha256": "ab" * 32},
        training={"epochs": 3, "learning rate": 5e-5},
        notes=["The position table\nwas resampled."],
        preprocessing={
            "size": {"height": 224, "width": 256},
            "resample": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "do_center_crop": None,
        },
    )
    for words in (
        "12 blocks, width 768, 12 heads, 16 pixel patches, 224 pixel images, 3 labels.",
        "LABEL_0, LABEL_1, LABEL_2.",
        "| source file | ViT-B_16.npz |",
        f"| sha256 | {'ab' * 32} |",
        "| epochs | 3 |",
        "| learning rate | 5e-05 |",
        "- The position table was resampled.",
        "| size | 224 x 256 |",
        "| resample | bilinear |",
        "| image_mean | 0.5, 0.5, 0.5 |",
    ):
        assert words in text
    assert "do_center_crop" not in text


def test_many_labels_are_counted_and_not_listed():
    text = model_card(ViTConfig(num_labels=1000), name="vit", license="apache-2.0")
    assert "LABEL_19 and 980 more" in text
    assert "LABEL_20" not in text


def test_local_folders_are_neither_in_the_front_matter_nor_shown_with_their_path(tmp_path, monkeypatch):
    (tmp_path / "runs" / "vit").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = card(datasets=[str(tmp_path / "photos")], base_model="runs/vit")
    assert front(text).datasets is None
    assert front(text).base_model is None
    assert str(tmp_path) not in text
    assert "Fine-tuned from `vit`. Trained on `photos`." in text


def test_text_from_users_breaks_neither_table_nor_front_matter():
    text = card(name='odd: "name"\n---', training={"note": "a | b\nc"}, results=[ACCURACY])
    assert front(text).model_name == 'odd: "name"\n---'
    assert "| note | a \\| b c |" in text


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_the_snippet_runs_as_it_stands(task, tmp_path, monkeypatch, capsys):
    from PIL import Image

    from hfvision.models.vit import ViTForImageClassification, ViTModel
    from hfvision.processing.classification import ViTImageProcessor

    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=16)
    kind = ViTForImageClassification if task == "image-classification" else ViTModel
    kind(config).save_pretrained(tmp_path / "my-vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "my-vit")
    Image.new("RGB", (20, 30), "red").save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    text = model_card(config, name="my-vit", license="mit", task=task)
    snippet = text.split("```python\n")[1].split("```")[0]
    exec(compile(snippet, "snippet", "exec"), {})
    assert ("LABEL_0" in capsys.readouterr().out) == (task == "image-classification")


def test_other_architectures_and_sizes_are_described_as_they_are():
    config = GoogleViTConfig(image_size=[30, 42], patch_size=6, num_channels=1, num_labels=2)
    config.architectures = ["GoogleViTForImageClassification"]
    text = model_card(config, name="vit", license="apache-2.0")
    assert "A `google_vit` model (`GoogleViTForImageClassification`) for image classification" in text
    assert "30 x 42 pixel images" in text
    assert "takes 1 channel per pixel" in text


def test_a_card_is_written_as_the_readme(tmp_path):
    path = write_card(tmp_path, card())
    assert path == tmp_path / "README.md"
    assert ModelCard.load(path).data.license == "apache-2.0"
