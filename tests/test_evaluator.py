"""The `evaluate` package's evaluator under transformers 5: what of it works, and what stands in for the rest."""

import evaluate
import pytest
import transformers

import hfvision
from hfvision.starters import resolve


@pytest.fixture(scope="module")
def digits():
    return hfvision.load_digits()["test"].select(range(40))


@pytest.fixture(scope="module")
def classify():
    return transformers.pipeline("image-classification", model=resolve("vit-digits"))


def options(classify, digits):
    metric = hfvision.ClassificationMetric(10, top_k=(1,))
    return {"data": digits, "metric": metric, "label_mapping": classify.model.config.label2id}


def test_it_does_not_take_a_pipeline_or_a_function(classify, digits):
    """It asks for a class that transformers 5 does not have. Where this fails, the README's sentence is out of date."""
    assert not hasattr(transformers, "TFPreTrainedModel")
    for given in (classify, lambda images, **_: classify(images)):
        with pytest.raises(AttributeError, match="TFPreTrainedModel"):
            evaluate.evaluator("image-classification").compute(model_or_pipeline=given, **options(classify, digits))


def test_it_takes_names_and_models_and_finds_what_hfvision_does(classify, digits):
    evaluator = evaluate.evaluator("image-classification")
    wanted = hfvision.evaluate(resolve("vit-digits"), {"test": digits}, record=False).metrics["accuracy"]
    by_name = evaluator.compute(model_or_pipeline=str(resolve("vit-digits")), **options(classify, digits))
    of_model = evaluator.compute(
        model_or_pipeline=classify.model,
        feature_extractor=classify.image_processor,
        **options(classify, digits),
    )
    assert by_name["accuracy"] == of_model["accuracy"] == wanted
    answers = [classify.model.config.label2id[best["label"]] for (best,) in classify(digits["image"], top_k=1)]
    found = options(classify, digits)["metric"].compute(predictions=answers, references=digits["label"])
    assert found["accuracy"] == wanted
