"""Models under torch.func: gradients of each sample by vmap, which hands out tensors without a batch of their own."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from hfvision.registry import IMAGE_SEGMENTATION, OBJECT_DETECTION
from tests.models import WHOLE, main_output, pixels, tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning"
)  # torch's attention, under vmap

# Sums in another order move the last bits; gradients are compared with the largest number of their parameter's.
ROUNDING = 5e-5


def first_answer(outputs):
    """The tensors that a loss is made of."""
    also = [outputs[name] for name in ("pred_boxes", "pred_masks") if outputs.get(name) is not None]
    return [main_output(outputs), *also]


def loss_of(model, **options):
    def loss(parameters, image, *masks):
        given = {"pixel_mask": masks[0][None]} if masks else {}
        outputs = functional_call(model, parameters, (image[None],), {**given, **options})
        return sum(answer.square().mean() for answer in first_answer(outputs))

    return loss


def assert_gradients_of_each_sample(model, *inputs):
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    loss = loss_of(model)
    together = vmap(grad(loss), in_dims=(None, *(0 for _ in inputs)))(parameters, *inputs)
    for index in range(len(inputs[0])):
        alone = grad(loss)(parameters, *(values[index] for values in inputs))
        for name, wanted in alone.items():
            scale = max(wanted.abs().max().item(), 1e-3)
            torch.testing.assert_close(together[name][index], wanted, rtol=0, atol=ROUNDING * scale, msg=name)


@pytest.mark.parametrize("row", WHOLE, ids="-".join)
def test_gradients_of_each_sample_are_those_of_a_loop(row):
    # torch's convolution in float64 makes no gradient of a kernel whose batch of maps was one image's, repeated.
    model = tiny_model(*row).to(torch.float32 if "detr" in row[0] and "Segmentation" in row[1] else torch.float64)
    assert_gradients_of_each_sample(model, pixels(model.config).to(model.dtype))


@pytest.mark.parametrize("model_type", ["detr", "facebook_detr"])
@pytest.mark.parametrize("auto_class", [OBJECT_DETECTION, IMAGE_SEGMENTATION])
def test_gradients_of_padded_samples_are_those_of_a_loop(model_type, auto_class):
    model = tiny_model(model_type, auto_class).double()
    x = pixels(model.config).double()
    mask = torch.ones(2, *x.shape[-2:])
    mask[0, 20:], mask[1, :, 28:] = 0, 0
    assert_gradients_of_each_sample(model, x, mask)


@pytest.mark.parametrize("row", WHOLE, ids="-".join)
def test_answers_of_each_sample_are_those_of_a_loop(row):
    """Without gradients other fast paths would be taken."""
    model = tiny_model(*row)
    x = pixels(model.config)
    with torch.no_grad():
        together = vmap(lambda image: main_output(model(image[None]))[0])(x)
        torch.testing.assert_close(together, main_output(model(x)), rtol=0, atol=2e-5)
