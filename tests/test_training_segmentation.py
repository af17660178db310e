"""Fine-tuning semantic segmentation: what comes out, resuming, augmentation, new heads, refusals, the command."""

import json
import logging

import datasets
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, TrainerCallback
from typer.testing import CliRunner

from hfvision.cli import train as command
from hfvision.data import load_digit_scenes
from hfvision.data.segmentation import prepare_segmentation
from hfvision.errors import ConfigError, DatasetError
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.models.segformer.model import SegformerConfig, SegformerForSemanticSegmentation
from hfvision.processing.classification import ViTImageProcessor
from hfvision.processing.segmentation import SegformerImageProcessor
from hfvision.registry import ARCHITECTURES, SEMANTIC_SEGMENTATION, load
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.augmentation import StandardAugmentation, StandardPreparation
from hfvision.training.class_weights import balanced_weights
from hfvision.training.color_jitter import colour_matrix
from hfvision.training.head import class_names, replace_head
from hfvision.training.parameter_groups import head_parameters
from hfvision.training.segmentation import train_segmentation

FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_run.json"}
FAST = VisionTrainingArguments(
    num_train_epochs=2, per_device_train_batch_size=8, learning_rate=2e-3
)  # 24 scenes: 3 steps an epoch, 6 in all
SEMANTIC = [name for name, row in ARCHITECTURES.items() if SEMANTIC_SEGMENTATION in row.models]


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


@pytest.fixture(scope="module")
def scenes():
    """24 and 6 scenes of 32 x 32 pixels with a digit each."""
    return load_digit_scenes(train=24, validation=6, size=32, digits=(1, 1), digit_size=(16, 24))


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    return SegformerForSemanticSegmentation(SegformerConfig(**ARCHITECTURES["segformer"].tiny | changes))


def tiny_processor(**options):
    return SegformerImageProcessor(size={"height": 32, "width": 32}, **options)


def start(data, to, *, model=None, processor=None, args=FAST, augment=None, **options):
    return train_segmentation(
        model or tiny_model(),
        data,
        to,
        processor=processor or tiny_processor(),
        args=args,
        augment=augment,
        **options,
    )


class Stop(TrainerCallback):
    """Ends a run as a kill does: without a word to Trainer."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0)


# What comes out


def test_the_folder_has_a_model_that_scores_what_was_reported(scenes, tmp_path, capfd):
    result = start(scenes, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    right = either = torch.zeros(11)
    for row in scenes["validation"]:
        with torch.no_grad():
            outputs = model(**processor(row["image"], return_tensors="pt"))
        answer = processor.post_process_semantic_segmentation(outputs, [(32, 32)])[0]
        truth = torch.tensor(np.array(row["mask"])).long()
        ours, theirs = nn.functional.one_hot(answer, 11).bool(), nn.functional.one_hot(truth, 11).bool()
        right = right + (ours & theirs).sum((0, 1))
        either = either + (ours | theirs).sum((0, 1))
    present = either > 0
    assert result.mean_iou == pytest.approx((right[present] / either[present]).mean().item(), rel=1e-6)
    assert result.pixel_accuracy == pytest.approx(right.sum().item() / (6 * 32 * 32))
    assert (result.samples, result.train_samples, result.steps) == (6, 24, 6)
    assert [entry["step"] for entry in result.history] == [3, 6]
    assert result.history[-1]["mean_iou"] == result.mean_iou
    assert list(result.per_class) == ["background", *(f"digit {digit}" for digit in range(10))]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("held-out mean IoU") == 2


def test_figures_are_of_the_stored_masks_whatever_their_size(tmp_path):
    """A model of 32 pixels that answers class 1 everywhere, on two masks of other sizes: IoU counts their pixels."""
    images = [Image.new("RGB", size) for size in ((50, 40), (17, 90))]
    masks = [np.zeros((40, 50), np.uint8), np.ones((90, 17), np.uint8)]
    masks[0][:10] = 1
    masks[1][:30] = 255
    rows = {"image": images, "mask": [Image.fromarray(mask) for mask in masks]}
    data = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows), validation=datasets.Dataset.from_dict(rows))
    model = tiny_model(num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    model.decode_head.classifier.weight.data.zero_()
    model.decode_head.classifier.bias.data = torch.tensor([0.0, 1.0])
    args = VisionTrainingArguments(max_steps=1, learning_rate=1e-30)
    result = start(data, tmp_path / "out", model=model, args=args, data_options={"names": ["no", "yes"]})
    ones, zeros = 10 * 50 + 60 * 17, 30 * 50  # pixels that count
    assert result.per_class == {"no": 0.0, "yes": ones / (ones + zeros)}
    assert result.pixel_accuracy == ones / (ones + zeros)


def test_the_card_and_the_config_say_what_was_trained(scenes, tmp_path):
    loss = SegmentationLoss(terms="dice+cross_entropy")
    result = start(scenes, tmp_path / "out", loss=loss, license="mit", augment=StandardAugmentation(flip=0))
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (
        "license: mit",
        "pipeline_tag: image-segmentation",
        f"{result.mean_iou:.6g}",
        "terms dice+cross_entropy",
        "scale [0.5, 2.0]",
        "| class | IoU |",
        'pipeline("image-segmentation"',
    ):
        assert words in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"]["10"] == "digit 9"
    assert "dice" not in json.dumps(config)
    plan = json.loads((tmp_path / "out" / "training_run.json").read_text())["plan"]
    assert plan["loss"]["terms"] == "dice+cross_entropy"


def test_what_values_of_masks_mean_goes_into_the_processor(scenes, tmp_path, reports):
    label_map = {"labels": [{"id": 0, "train_id": None}, {"id": 9, "train_id": 0, "name": "ink", "color": [255, 0, 0]}]}
    label_map["labels"].append({"id": 5, "train_id": 1, "name": "five", "color": [0, 255, 0]})
    stored = {k: np.where(np.asarray(v) == 0, 0, 9).astype(np.uint8) for k, v in enumerate(scenes["train"]["mask"][:6])}
    for mask in stored.values():
        mask[:4, :4] = 5
    rows = {"image": scenes["train"]["image"][:6], "mask": [Image.fromarray(mask) for mask in stored.values()]}
    data = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows), validation=datasets.Dataset.from_dict(rows))
    processor = tiny_processor(do_reduce_labels=True)
    options = {"label_map": label_map, "overlap": "report"}
    result = start(data, tmp_path / "out", processor=processor, data_options=options)
    assert list(result.per_class) == ["ink", "five"]
    assert "do_reduce_labels of the processor was switched off" in reports.text
    saved = AutoImageProcessor.from_pretrained(tmp_path / "out")
    labels = saved(rows["image"][0], segmentation_maps=rows["mask"][0], return_tensors="pt")["labels"][0]
    assert set(labels.unique().tolist()) == {0, 1, 255}
    assert not saved.do_reduce_labels


def test_training_follows_the_loss_that_is_given(scenes, tmp_path):
    args = VisionTrainingArguments(max_steps=2, per_device_train_batch_size=8, learning_rate=2e-3)
    for name, options in {
        "plain": {},
        "named": {"loss": "cross_entropy"},
        "focal": {"loss": "focal"},
        "weighted": {"class_weights": "balanced"},
    }.items():
        start(scenes, tmp_path / name, args=args, **options)
    assert_same_weights(weights(tmp_path / "plain"), weights(tmp_path / "named"))
    for name in ("focal", "weighted"):
        assert not torch.equal(*(weights(tmp_path / one)["decode_head.classifier.weight"] for one in ("plain", name)))


def test_balanced_weights_are_one_for_the_median_class():
    np.testing.assert_array_equal(balanced_weights(np.array([100, 10, 0, 5])), [0.1, 1, 1, 2])
    with pytest.raises(ConfigError, match="check_images"):
        balanced_weights(np.zeros(3))


# Resuming


@pytest.mark.parametrize("killed_at", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_interrupted_and_resumed_equals_uninterrupted(scenes, tmp_path, killed_at):
    args = VisionTrainingArguments(
        num_train_epochs=2, per_device_train_batch_size=8, learning_rate=2e-3, drop_path_rate=0.2, save_steps=2
    )
    run = {"args": args, "augment": StandardAugmentation()}
    whole = start(scenes, tmp_path / "whole", **run)
    with pytest.raises(KeyboardInterrupt):
        start(scenes, tmp_path / "cut", callbacks=[Stop(killed_at)], **run)
    resumed = start(scenes, tmp_path / "cut", model=tiny_model(seed=1), resume=True, **run)
    # not one bit differs: batches, augmentation and dropout follow from the seed and the saved state
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert (resumed.history, resumed.metrics, resumed.per_class) == (whole.history, whole.metrics, whole.per_class)
    with pytest.raises(ConfigError, match=r"loss\.terms: it has 'cross_entropy', this call 'dice'"):
        start(scenes, tmp_path / "cut", resume=True, loss="dice", **run)


# Augmentation


def prepared(recipe, seed=0, *, image=None, mask=None, **options):
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (40, 60, 3), np.uint8) if image is None else image
    mask = rng.integers(0, 3, (40, 60), np.uint8) if mask is None else mask
    processor = SegformerImageProcessor(**{"size": {"height": 32, "width": 48}} | options)
    return StandardPreparation(processor, recipe, 255)(Image.fromarray(image), mask, np.random.default_rng(seed))


NOTHING = {"scale": (1, 1), "flip": 0, "colour": False}


def test_without_any_part_the_recipe_is_the_processor():
    pixels, labels = prepared(StandardAugmentation(**NOTHING))
    rng = np.random.default_rng(7)
    image, mask = rng.integers(0, 256, (40, 60, 3), np.uint8), rng.integers(0, 3, (40, 60), np.uint8)
    alone = SegformerImageProcessor(size={"height": 32, "width": 48})(
        Image.fromarray(image), segmentation_maps=mask, return_tensors="pt"
    )
    torch.testing.assert_close(pixels, alone["pixel_values"][0], rtol=0, atol=0)
    torch.testing.assert_close(labels, alone["labels"][0], rtol=0, atol=0)


def test_image_and_mask_move_together():
    """An image whose grey value is its class stays one through scaling, cutting and mirroring."""
    mask = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 3, (5, 7), np.uint8), 8, 0), 8, 1)
    image = np.repeat(mask[..., None] * 100, 3, 2)
    recipe = StandardAugmentation(colour=False, flip=0.5, crop=24, scale=(0.5, 2))
    shapes, right = set(), []
    for seed in range(20):
        pixels, labels = prepared(recipe, seed, image=image, mask=mask, do_normalize=False, resample=0)
        right.append(((pixels[0] * 2.55).round() == labels).float().mean().item())
        shapes.add(tuple(labels.shape))
    assert min(right) == 1.0  # nearest for both, so no pixel differs
    assert (24, 24) in shapes
    assert all(height <= 24 and width <= 24 for height, width in shapes)


def test_half_of_the_windows_are_mirrored_and_the_least_scale_leaves_less_than_a_window():
    plain, _ = prepared(StandardAugmentation(**NOTHING))
    mirrored = [
        torch.equal(prepared(StandardAugmentation(**NOTHING | {"flip": 0.5}), seed)[0], plain.flip(-1))
        for seed in range(40)
    ]
    assert 10 < sum(mirrored) < 30  # 20 expected, with a standard deviation of 3
    pixels, labels = prepared(StandardAugmentation(**NOTHING | {"scale": (0.5, 0.5)}))
    assert (tuple(pixels.shape), tuple(labels.shape)) == ((3, 16, 24), (16, 24))


def test_a_window_that_one_class_fills_is_passed_over():
    mask = np.zeros((40, 60), np.uint8)
    mask[30:, 45:] = 1
    recipe = StandardAugmentation(**NOTHING | {"crop": 16})
    seen = [prepared(recipe, seed, mask=mask)[1] for seed in range(30)]
    varied = np.mean([len(labels.unique()) == 2 for labels in seen])
    any_window = StandardAugmentation(**NOTHING | {"crop": 16, "most_of_one_class": 1})
    plain = np.mean([len(prepared(any_window, seed, mask=mask)[1].unique()) == 2 for seed in range(30)])
    assert varied > plain


def test_colours_vary_within_the_range_and_grey_stays_grey():
    grey = np.repeat(np.random.default_rng(1).integers(0, 256, (40, 60, 1), np.uint8), 3, 2)
    recipe = StandardAugmentation(**NOTHING | {"colour": True})
    for seed in range(10):
        pixels, _ = prepared(recipe, seed, image=grey, do_normalize=False)
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        torch.testing.assert_close(pixels[0], pixels[1], rtol=0, atol=1e-5)  # turned and scaled colour of no colour
    torch.testing.assert_close(colour_matrix(1.0, 0.0), torch.eye(3), rtol=0, atol=1e-6)
    turned = colour_matrix(1.0, 0.6)
    torch.testing.assert_close(turned @ colour_matrix(1.0, -0.6), torch.eye(3), rtol=0, atol=1e-5)


def test_augmentation_depends_on_the_generator_only_and_settings_are_checked():
    first, again, other = (prepared(StandardAugmentation(), seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)
    with pytest.raises(ConfigError, match="3 problems"):
        StandardAugmentation(scale=(2, 1), crop=0, flip=2)


def test_a_function_of_image_mask_and_generator_may_augment(scenes, tmp_path):
    drawn = []

    def upside_down(image, mask, generator):
        drawn.append(int(generator.integers(1 << 30)))
        return image.rotate(180), mask[::-1, ::-1]

    start(scenes, tmp_path / "out", augment=upside_down)
    assert len(drawn) == len(set(drawn)) == 48  # 24 scenes, two epochs
    assert "upside_down" in (tmp_path / "out" / "README.md").read_text()


# Heads


@pytest.fixture(params=SEMANTIC)
def segmenter(request):
    row = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    return load(row.models[SEMANTIC_SEGMENTATION])(load(row.config)(**row.tiny, num_labels=3)).eval()


def test_a_new_head_changes_what_depends_on_the_classes_and_nothing_else(segmenter):
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    changed = replace_head(segmenter, ["a", "b", "c", "d", "e"])
    after = segmenter.state_dict()
    assert after.keys() == before.keys()
    assert {name for name in after if after[name].shape != before[name].shape} == set(changed)
    for name in set(after) - set(changed):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    assert class_names(segmenter) == ["a", "b", "c", "d", "e"]
    assert all(after[name].isfinite().all() for name in changed)
    with torch.no_grad():
        assert segmenter(torch.randn(2, 3, 32, 32), upsample=True).logits.shape == (2, 5, 32, 32)
    segmenter.train()(torch.randn(2, 3, 32, 32), labels=torch.zeros(2, 32, 32, dtype=torch.long)).loss.backward()
    assert all(parameter.grad is not None for name, parameter in segmenter.named_parameters() if name in changed)


def test_a_new_head_of_the_mask_transformer_keeps_the_decoders_blocks():
    """`replace_head` on single parameters of a larger part: class embeddings beside blocks that stay."""

    class Config(SegformerConfig):
        pass

    class Decoder(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.classes = nn.Parameter(torch.zeros(classes, 4))
            self.kept = nn.Parameter(torch.zeros(4))
            self.block = nn.Linear(4, 4)

    class Model(SegformerForSemanticSegmentation):
        def __init__(self, config):
            super().__init__(config)
            self.decoder = Decoder(config.num_labels)

        def _init_weights(self, module):
            super()._init_weights(module)
            if isinstance(module, Decoder):
                nn.init.normal_(module.classes)
                nn.init.normal_(module.kept)

    model = Model(Config(**ARCHITECTURES["segformer"].tiny))
    before = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    assert "decoder.classes" in replace_head(model, ["a", "b", "c"])
    assert model.decoder.classes.shape == (3, 4)
    assert model.decoder.classes.std() > 0
    for name in ("kept", "block.weight"):
        assert torch.equal(model.decoder.state_dict()[name], before[name])


def test_a_new_head_on_a_pretrained_trunk_learns_ten_times_as_fast(scenes, tmp_path):
    rates = {}

    class Rates(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
            rate = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
            head = {id(parameter) for parameter in head_parameters(model)}
            rates["head"] = {rate[one] for one in head}
            rates["trunk"] = {value for one, value in rate.items() if one not in head}
            assert len(rate) == len(list(model.parameters()))

    tiny_model(num_labels=3).save_pretrained(tmp_path / "base")
    args = VisionTrainingArguments(max_steps=1, learning_rate=1e-3)
    start(scenes, tmp_path / "new", model=str(tmp_path / "base"), args=args, callbacks=[Rates()])
    assert rates == {"head": {1e-3 * 10}, "trunk": {1e-3}}
    start(scenes, tmp_path / "same", model=str(tmp_path / "new"), args=args, callbacks=[Rates()])
    assert rates == {"head": {1e-3}, "trunk": {1e-3}}


# Refusals


def test_faults_are_found_before_anything_is_written(scenes, tmp_path):
    wrong = datasets.DatasetDict(scenes)
    masks = [Image.fromarray(np.full((32, 32), 77, np.uint8)), *scenes["train"]["mask"][1:]]
    wrong["train"] = datasets.Dataset.from_dict({"image": scenes["train"]["image"][:], "mask": masks})
    names = [f"class {number}" for number in range(11)]
    with pytest.raises(DatasetError, match=r"77.*1,024 pixels"):
        start(wrong, tmp_path / "out", data_options={"names": names})
    with pytest.raises(ConfigError, match=r"takes 4 channels; image 0 .* has 3"):
        start(scenes, tmp_path / "out", model=tiny_model(num_channels=4))
    with pytest.raises(ConfigError, match=r"SegformerImageProcessor.*got ViTImageProcessor"):
        start(scenes, tmp_path / "out", processor=ViTImageProcessor(size={"height": 32, "width": 32}))
    with pytest.raises(ConfigError, match="2 problems") as caught:
        start(scenes, tmp_path / "out", loss=SegmentationLoss(ignore_index=99, class_weights=(1.0, 2.0)))
    assert "the loss ignores 99 and the label maps have 255" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# The command


def run_command(*arguments):
    app = typer.Typer()
    app.add_typer(command.app, name="train")
    return CliRunner().invoke(app, ["train", "segmentation", *map(str, arguments)], catch_exceptions=False)


def test_the_command_trains_new_weights_of_a_named_architecture(scenes, tmp_path):
    tiny_model().config.save_pretrained(tmp_path / "tiny")
    tiny_processor().save_pretrained(tmp_path / "tiny")
    scenes.save_to_disk(tmp_path / "data")
    arguments = ["--model", f"new:{tmp_path / 'tiny'}", "--dataset", tmp_path / "data", "--output", tmp_path / "out"]
    arguments += ["--max-steps", "2", "--batch-size", "8", "--scale", "0.8", "1.25", "--no-flip", "--json"]
    arguments += ["--loss", "dice+cross_entropy", "--names", ",".join(f"class {number}" for number in range(11))]
    ran = run_command(*arguments)
    result = json.loads(ran.stdout)
    assert (ran.exit_code, result["steps"], result["samples"]) == (0, 2, 6)
    record = json.loads((tmp_path / "out" / "training_run.json").read_text())
    assert (
        record["plan"]["settings"]["learning_rate"]
        == VisionTrainingArguments.for_task("image-classification", "new:x").learning_rate
    )
    assert record["plan"]["augment"]["scale"] == [0.8, 1.25]
    assert "| weights at the start | random |" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads(run_command(*arguments, "--resume").stdout)["mean_iou"] == result["mean_iou"]
    refused = run_command(*arguments, "--resume", "--class-weights", "1,two")
    assert refused.exit_code == 2


def test_binary_segmentation_trains_one_class(tmp_path, scenes):
    rows = {
        split: {
            "image": part["image"][:],
            "mask": [Image.fromarray((np.asarray(mask) > 0).astype(np.uint8)) for mask in part["mask"]],
        }
        for split, part in scenes.items()
    }
    data = datasets.DatasetDict({split: datasets.Dataset.from_dict(columns) for split, columns in rows.items()})
    binary = prepare_segmentation(data, names=["ink"])
    result = start(binary, tmp_path / "out", model=tiny_model(), augment=StandardAugmentation())
    assert list(result.per_class) == ["ink"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "ink"}
