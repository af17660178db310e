"""The classifier variants of google-research/vision_transformer that the "vit" format cannot say."""

import pytest
import torch

from hfvision.errors import ConfigError
from tests.models import pixels, tiny_model


@torch.no_grad()
@pytest.mark.parametrize(
    ("classifier", "tokens", "pool"),
    [
        ("token", 17, lambda t: t[:, 0]),
        ("gap", 16, lambda t: t.mean(dim=1)),
        ("token_unpooled", 17, lambda t: t),
        ("unpooled", 16, lambda t: t),
    ],
)
@pytest.mark.parametrize("representation_size", [None, 24])
def test_the_head_reads_what_the_classifier_option_says(classifier, tokens, pool, representation_size):
    model = tiny_model("google_vit", classifier=classifier, representation_size=representation_size)
    x = pixels(model.config)
    features = model.vit(x).last_hidden_state
    assert features.shape == (2, tokens, 32)
    pooled = pool(features)
    if representation_size:
        pooled = torch.tanh(model.vit.pooler.dense(pooled))
    torch.testing.assert_close(model(x).logits, model.classifier(pooled), rtol=0, atol=0)
    assert ("vit.embeddings.cls_token" in model.state_dict()) == classifier.startswith("token")


def test_a_loss_per_token_is_not_defined():
    model = tiny_model("google_vit", classifier="unpooled")
    with pytest.raises(ConfigError, match="logits per token"):
        model(pixels(model.config), labels=torch.tensor([0, 1]))


def test_an_unknown_classifier_is_refused():
    with pytest.raises(Exception, match="classifier"):
        tiny_model("google_vit", classifier="cls")


@torch.no_grad()
def test_outputs_come_as_a_tuple_where_that_is_asked_for():
    model = tiny_model("google_vit", "AutoModel")
    x = pixels(model.config)
    tokens, pooled = model(x, return_dict=False)
    assert torch.equal(pooled, model(x).pooler_output) and torch.equal(tokens, model(x).last_hidden_state)
