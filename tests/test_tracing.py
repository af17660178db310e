"""torch.jit.trace and torch.export, once per kind of model: graphs that hold for other batches and sizes too."""

import pytest
import torch
from torch import nn

from hfvision.errors import ImageShapeError
from hfvision.registry import IMAGE_CLASSIFICATION, IMAGE_SEGMENTATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from tests.models import WHOLE, main_output, pixels, takes_any_size, tiny_model

# torch says of every size that it writes into the graph as a number that it does so, and that jit is old.
pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # a property that a recording asks
]

ROUNDING = {"rtol": 0, "atol": 5e-6}  # outputs are of order one; a graph sums in another order
SIZES = [(32, 32), (48, 64), (37, 61), (16, 80), (9, 9)]  # one is that of the recording; some need padding
# Graphs of any size are test_models_common's, for every model. In one of a fixed size the same code settles padding,
# positions and windows with numbers: one model of each way to do so.
OF_ONE_SIZE = [
    ("vit", IMAGE_CLASSIFICATION),
    ("vit-hybrid", IMAGE_CLASSIFICATION),
    ("segformer", SEMANTIC_SEGMENTATION),
    ("upernet", SEMANTIC_SEGMENTATION),
    ("detr", IMAGE_SEGMENTATION),
]


class Answer(nn.Module):
    """A model as a function of tensors alone."""

    def __init__(self, model, names=()):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        outputs = self.model(*inputs)
        return tuple(outputs[name] for name in self.names) if self.names else main_output(outputs)


@pytest.fixture(params=WHOLE, ids="-".join)
def model(request):
    return tiny_model(*request.param)


@torch.no_grad()
def test_a_recorded_model_answers_as_the_model_at_every_size_and_batch(model, tmp_path):
    """Read again from its file, as another process does: nothing in the graph lies outside of it."""
    answer = Answer(model)
    torch.jit.save(torch.jit.trace(answer, pixels(model.config)), tmp_path / "model.pt")
    recorded = torch.jit.load(tmp_path / "model.pt")
    for batch, size in [(2, SIZES[0]), (3, SIZES[0]), (1, SIZES[0]), *((2, size) for size in SIZES[1:])]:
        x = pixels(model.config, batch=batch, size=size)
        if size != SIZES[0] and not takes_any_size(model):
            with pytest.raises(ImageShapeError):
                answer(x)
            with pytest.raises(RuntimeError):
                recorded(x)
        else:
            torch.testing.assert_close(recorded(x), answer(x), **ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["detr", "facebook_detr"])
@pytest.mark.parametrize("auto_class", [OBJECT_DETECTION, IMAGE_SEGMENTATION])
def test_a_recorded_detector_takes_padding_from_the_mask_of_the_call(model_type, auto_class):
    model = tiny_model(model_type, auto_class)
    names = ("logits", "pred_boxes", *(("pred_masks",) if auto_class == IMAGE_SEGMENTATION else ()))
    answer = Answer(model, names)
    recorded = torch.jit.trace(answer, (pixels(model.config), torch.ones(2, 32, 32, dtype=torch.long)))
    for size, height, width in [((32, 32), 32, 32), ((32, 32), 20, 32), ((48, 64), 48, 30), ((48, 64), 21, 64)]:
        x, mask = pixels(model.config, size=size), torch.zeros(2, *size, dtype=torch.long)
        mask[0, :height, :width], mask[1] = 1, 1
        torch.testing.assert_close(recorded(x, mask), answer(x, mask), **ROUNDING)


def test_recording_leaves_no_trace_in_the_model(model):
    """Tables that are kept between calls hold no stand-ins of the recording."""
    x = pixels(model.config)
    wanted = main_output(model(x))
    torch.jit.trace(Answer(model), x, check_trace=False)
    torch.testing.assert_close(main_output(model(x)), wanted, rtol=0, atol=0)
    main_output(model(x)).square().mean().backward()


@torch.no_grad()
@pytest.mark.parametrize("row", OF_ONE_SIZE, ids="-".join)
def test_exports_at_a_size_of_its_own(row):
    model = tiny_model(*row)
    x = pixels(model.config, size=(40, 48))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(main_output(exported(x)), main_output(model(x)), **ROUNDING)
