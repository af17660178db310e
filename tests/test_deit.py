"""DeiT: what is its own beside the suites over the registry and over shared file formats."""

import json
from pathlib import Path

import pytest
import torch
import transformers

import hfvision
from hfvision.errors import ConfigError, ImageShapeError
from tests.models import pixels, tiny_config, tiny_model, with_visible_weights

DATA = Path(__file__).parent / "data"
TEACHER = "DeiTForImageClassificationWithTeacher"


def tiny_teacher_model(**fields):
    """The classifier with two heads."""
    return with_visible_weights(hfvision.DeiTForImageClassificationWithTeacher(tiny_config("deit", **fields)))


@pytest.mark.parametrize("name", ["deit_ForImageClassification", "deit_ForImageClassificationWithTeacher"])
def test_names_and_shapes_are_those_of_the_hubs_files(name):
    wanted = json.loads((DATA / "hub_format" / f"{name}.json").read_text())
    model = getattr(hfvision, wanted["class"])(hfvision.DeiTConfig(**wanted["config"]))
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == wanted["tensors"]


# --- two heads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [TEACHER, "DeiTForImageClassification"])
def test_the_auto_class_gives_the_classifier_that_the_file_names(name, tmp_path):
    model = with_visible_weights(getattr(hfvision, name)(tiny_config("deit")))
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    x = pixels(model.config)
    torch.testing.assert_close(loaded(x).logits, model(x).logits, rtol=0, atol=0)


def test_without_a_file_the_auto_class_gives_the_one_with_one_head():
    model = transformers.AutoModelForImageClassification.from_config(tiny_config("deit"))
    assert type(model) is hfvision.DeiTForImageClassification


def test_each_head_reads_its_token_and_the_answer_is_their_mean():
    model = tiny_teacher_model()
    x = pixels(model.config)
    outputs = model(x)
    tokens = model.deit(x).last_hidden_state
    torch.testing.assert_close(outputs.cls_logits, model.cls_classifier(tokens[:, 0]), rtol=0, atol=0)
    torch.testing.assert_close(outputs.distillation_logits, model.distillation_classifier(tokens[:, 1]), rtol=0, atol=0)
    mean = torch.stack([outputs.cls_logits, outputs.distillation_logits]).mean(dim=0)
    torch.testing.assert_close(outputs.logits, mean, rtol=0, atol=1e-6)  # a sum of two, in another order
    assert model(x, return_dict=False)[0].equal(outputs.logits)


def test_labels_alone_train_both_heads():
    model = tiny_teacher_model()
    x, labels = pixels(model.config), torch.tensor([0, 2])
    outputs = model(x, labels=labels)
    wanted = torch.nn.functional.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(outputs.loss, wanted, rtol=0, atol=1e-6)  # of order one; the same sums
    outputs.loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_two_heads_compile_export_and_checkpoint():
    model = tiny_teacher_model()
    x = pixels(model.config)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    rounding = {"rtol": 0, "atol": 2e-5}  # outputs of order one; another order of summation moves the last bits
    torch.testing.assert_close(compiled(x).distillation_logits, model(x).distillation_logits, **rounding)
    sizes = {0: torch.export.Dim("batch", min=1, max=8)}
    sizes |= {axis: torch.export.Dim(name, min=9, max=512) for axis, name in ((2, "height"), (3, "width"))}
    program = torch.export.export(model, (), {"pixel_values": x}, dynamic_shapes={"pixel_values": sizes}).module()
    other = pixels(model.config, 1, size=(37, 61))
    torch.testing.assert_close(program(pixel_values=other).logits, model(other).logits, **rounding)
    model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(x, labels=torch.tensor([0, 2])).loss.backward()
        gradients.append(model.deit.embeddings.distillation_token.grad.clone())
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_new_head_for_other_classes_is_made_twice():
    from hfvision.training.head import replace_head

    model = tiny_teacher_model()
    made = replace_head(model, ["ant", "bee"])
    assert sorted(made) == [
        f"{head}.{p}" for head in ("cls_classifier", "distillation_classifier") for p in ("bias", "weight")
    ]
    assert model(pixels(model.config)).distillation_logits.shape == (2, 2)


# --- the second token -------------------------------------------------------------------------------------


def test_the_distillation_token_is_the_second_with_a_position_of_its_own():
    model = tiny_model("deit", "AutoModel")
    x = pixels(model.config, size=(48, 40))  # another grid: the prefix is not resampled
    with torch.no_grad():
        tokens = model(x, output_hidden_states=True).hidden_states[0]
    embeddings = model.embeddings
    for index, token in enumerate((embeddings.cls_token, embeddings.distillation_token)):
        wanted = (token[:, 0] + embeddings.position_embeddings[:, index]).expand(2, -1)
        torch.testing.assert_close(tokens[:, index], wanted, rtol=0, atol=0)
    assert tokens.shape == (2, 2 + 6 * 5, 32)


def test_dropout_hides_different_parts_of_it_in_each_image():
    model = tiny_model("deit", "AutoModel", hidden_dropout_prob=0.5).train()
    tokens, _ = model.embeddings(pixels(model.config))
    hidden = tokens[:, 1] == 0
    assert hidden.any(dim=1).all() and not hidden[0].equal(hidden[1])


def test_a_backbone_gives_maps_of_the_patches_alone(tmp_path):
    config = tiny_config("deit", out_features=["stem", "stage3"])
    backbone = with_visible_weights(hfvision.DeiTBackbone(config))
    x = pixels(config, size=(48, 33))
    with torch.no_grad():
        outputs = backbone(x, output_hidden_states=True)
    assert [tuple(m.shape) for m in outputs.feature_maps] == [(2, 32, 6, 5)] * 2
    tokens = backbone.layernorm(outputs.hidden_states[0])[:, 2:]
    torch.testing.assert_close(outputs.feature_maps[0].flatten(2).mT, tokens, rtol=0, atol=0)
    backbone.save_pretrained(tmp_path)
    assert hfvision.DeiTBackbone.from_pretrained(tmp_path).out_features == ["stem", "stage3"]


def test_the_masked_image_head_paints_patches_and_follows_the_input():
    model = tiny_model("deit", "AutoModelForMaskedImageModeling")
    x = pixels(model.config, size=(36, 40))  # padded to 40 x 40: 5 x 5 patches
    hidden = torch.zeros(2, 25, dtype=torch.bool)
    hidden[:, 0] = True
    with torch.no_grad():
        outputs = model(x, bool_masked_pos=hidden)
    error = (outputs.reconstruction - x)[..., :8, :8].abs().mean()
    torch.testing.assert_close(outputs.loss, error, rtol=1e-5, atol=0)  # the 1e-5 in the loss's divisor
    model.resize_input(patch_size=16, num_channels=1)
    outputs = model(pixels(model.config), bool_masked_pos=torch.ones(2, 4))
    assert outputs.reconstruction.shape == (2, 1, 32, 32) and outputs.loss.isfinite()
    model.config.encoder_stride = 8
    with pytest.raises(ConfigError, match="encoder_stride equal to patch_size 16x16"):
        model(pixels(model.config), bool_masked_pos=torch.ones(2, 4))


def test_interpolation_can_be_forbidden():
    model = tiny_teacher_model()
    with pytest.raises(ImageShapeError, match="have the checkpoint's size 32x32; got 40x32"):
        model(pixels(model.config, size=(40, 32)), interpolate_pos_encoding=False)
