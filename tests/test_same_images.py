"""Images that are trained on and measured with are found by their contents, whatever they are called."""

import json
import logging
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from hfvision.data.classification import prepare_classification
from hfvision.data.detection import prepare_detection
from hfvision.data.same_images import PIECE, image_digests, read_written, written
from hfvision.data.segmentation import prepare_segmentation
from hfvision.errors import DatasetError


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8))


def mask(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 2, (16, 16), np.uint8))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def class_folders(root, train, validation):
    for split, seeds in (("train", train), ("val", validation)):
        for seed in seeds:
            save(picture(seed), root / split / "ab"[seed % 2] / f"{split}{seed}.png")
    return prepare_classification, {"source": root}


def mask_folders(root, train, validation):
    for split, seeds in (("train", train), ("val", validation)):
        for seed in seeds:
            save(picture(seed), root / "images" / split / f"{split}{seed}.png")
            save(mask(seed), root / "masks" / split / f"{split}{seed}.png")
    return prepare_segmentation, {"source": root, "names": ["no", "yes"]}


def coco_files(root, train, validation):
    """One folder of images; both files may list the same ones."""
    for split, seeds in (("train", train), ("val", validation)):
        images = [{"id": s, "file_name": f"{s}.png", "width": 16, "height": 16} for s in seeds]
        box = {"category_id": 1, "bbox": [2, 2, 8, 8], "area": 64, "iscrowd": 0}
        boxes = [{"id": s, "image_id": s, **box} for s in seeds]
        for seed in seeds:
            save(picture(seed), root / "images" / f"{seed}.png")
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return prepare_detection, {"source": root}


def yolo_folders(root, train, validation):
    """`train: images` above `val: images/val`."""
    for seed in [*train, *validation]:
        place = "val" if seed in validation else "train"
        save(picture(seed), root / "images" / place / f"{seed}.png")
        label = root / "labels" / place / f"{seed}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.4 0.4\n")
    above = "images" if set(validation) <= set(train) else "images/train"
    (root / "data.yaml").write_text(f"path: {root}\ntrain: {above}\nval: images/val\nnames: [thing]\n")
    return prepare_detection, {"source": root / "data.yaml"}


def array_columns(root, train, validation):
    labels = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Array3D((16, 16, 3), "uint8"), "label": labels})
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [np.asarray(picture(seed)) for seed in seeds], "label": [seed % 2 for seed in seeds]}, features
        )
        for split, seeds in (("train", train), ("validation", validation))
    }
    return prepare_classification, {"source": splits}


def image_columns(root, train, validation):
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [picture(seed) for seed in seeds], "mask": [mask(seed) for seed in seeds]}
        )
        for split, seeds in (("train", train), ("validation", validation))
    }
    return prepare_segmentation, {"source": splits, "names": ["no", "yes"]}


FORMS = [class_folders, mask_folders, coco_files, yolo_folders, array_columns, image_columns]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@every_form
def test_measuring_with_the_training_images_is_refused(form, tmp_path):
    prepare, options = form(tmp_path, range(8), range(4))
    with pytest.raises(DatasetError, match=r"4 of 4 images of '.*' are images of '.*', too: .*eval_split=.*overlap="):
        prepare(**options)


@every_form
def test_it_may_be_asked_for_all_the_same(form, tmp_path, reports):
    prepare, options = form(tmp_path, range(8), range(4))
    data = prepare(**options, overlap="report")
    assert (len(data.train), len(data.evaluation)) == (8, 4)
    assert "4 of 4 images of" in reports.text
    dropped = prepare(**options, overlap="drop")
    assert (len(dropped.train), len(dropped.evaluation)) == (4, 4)
    assert "They were left out of training" in reports.text


@pytest.mark.parametrize("form", [form for form in FORMS if form is not yolo_folders], ids=lambda form: form.__name__)
def test_a_few_are_reported_with_their_names(form, tmp_path, reports):
    prepare, options = form(tmp_path, range(8), [7, 20, 21, 22])
    data = prepare(**options)
    assert (len(data.train), len(data.evaluation)) == (8, 4)
    assert "1 of 4 images of" in reports.text
    assert "7.png" in reports.text or "row 0 (row 7 there)" in reports.text


@every_form
def test_other_images_pass_without_a_word(form, tmp_path, reports):
    prepare, options = form(tmp_path, range(8), range(10, 14))
    prepare(**options)
    assert "are images of" not in reports.text


def test_what_is_not_checked_is_not_compared(tmp_path):
    prepare, options = class_folders(tmp_path, range(8), range(4))
    assert prepare(**options, check_images=0).train.digests is None


def test_copies_within_a_split_are_held_out_together(tmp_path, reports):
    for seed in range(10):
        folder = tmp_path / "ab"[seed % 2]
        save(picture(seed), folder / f"{seed}.png")
        for copy in range(2):
            shutil.copy(folder / f"{seed}.png", folder / f"{seed} copy {copy}.png")
    data = prepare_classification(tmp_path, held_out=0.2)
    assert (len(data.train), len(data.evaluation)) == (24, 6)
    assert not set(data.train.digests.tolist()) & set(data.evaluation.digests.tolist())
    assert "are images of" not in reports.text


def test_large_files_differ_by_any_of_three_pieces_and_by_their_size():
    base = np.random.default_rng(0).integers(0, 256, 10 * PIECE, np.uint8)
    changed = []
    for place in (0, 5 * PIECE, 10 * PIECE - 1):
        other = base.copy()
        other[place] ^= 1
        changed.append(other)
    contents = [one.tobytes() for one in (base, base, *changed, base[:-1])]
    data = datasets.Dataset.from_dict(
        {"image": [{"bytes": content, "path": None} for content in contents]},
        datasets.Features({"image": datasets.Image(decode=False)}),
    )
    digests = image_digests(data, "train").tolist()
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_files_and_bytes_in_a_column_are_the_same_image(tmp_path):
    save(picture(1), tmp_path / "a.png")
    cells = [
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": (tmp_path / "a.png").read_bytes(), "path": None},
    ]
    cells.append({"bytes": None, "path": str(tmp_path / "nothing.png")})
    data = datasets.Dataset.from_dict({"image": cells}, datasets.Features({"image": datasets.Image(decode=False)}))
    digests = image_digests(data, "train")
    assert digests[0] == digests[1] != 0
    assert digests[2] == 0  # known of no other image


def test_digests_come_back_from_their_text():
    digests = np.array([5, 2**63 + 1, 0, 5], np.uint64)
    assert read_written(written(digests)).tolist() == [5, 2**63 + 1]
    assert written(None) is None
    assert read_written("no digests") is None


def test_images_of_one_color_are_alike_by_chance(tmp_path, reports):
    for split, count in (("train", 6), ("val", 4)):
        for number in range(count):
            save(Image.new("RGB", (16, 16), "black"), tmp_path / split / "ab"[number % 2] / f"{number}.png")
    data = prepare_classification(tmp_path)
    assert (len(data.train), len(data.evaluation)) == (6, 4)
    assert "are images of" not in reports.text


# What a run and an evaluation say


def train(form, root, validation, **options):
    from hfvision.data.classification import ClassificationData
    from hfvision.training.arguments import VisionTrainingArguments
    from hfvision.training.classification import train_classification
    from hfvision.training.segmentation import train_segmentation
    from tests import test_training, test_training_segmentation

    prepare, given = form(root / "data", range(8), validation)
    data = prepare(**given, **options)
    args = VisionTrainingArguments(max_steps=1, per_device_train_batch_size=4)
    if isinstance(data, ClassificationData):
        model, processor = test_training.tiny_model(num_channels=3), test_training.tiny_processor()
        processor.image_mean = processor.image_std = [0.5] * 3
        return train_classification(model, data, root / "out", processor=processor, args=args), given
    model, processor = test_training_segmentation.tiny_model(), test_training_segmentation.tiny_processor()
    return train_segmentation(model, data, root / "out", processor=processor, args=args), given


@pytest.mark.parametrize("form", [class_folders, mask_folders], ids=lambda form: form.__name__)
def test_figures_of_images_that_were_trained_on_are_not_called_held_out(form, tmp_path, reports):
    result, _ = train(form, tmp_path, range(4), overlap="report")
    assert result.trained_on == 4
    assert result.split == "validation, 4 of 4 images trained on"
    assert "held-out" not in result.measured_on
    card = (tmp_path / "out" / "README.md").read_text()
    assert "4 of the 4 images that it was measured on are training images, too" in card
    assert "validation, 4 of 4 images trained on" in card


@pytest.mark.parametrize("form", [class_folders, mask_folders], ids=lambda form: form.__name__)
def test_an_evaluation_knows_the_images_of_the_training(form, tmp_path, reports):
    from hfvision.cards.folder import write_folder_card
    from hfvision.training.evaluation import evaluate

    result, given = train(form, tmp_path, [7, 20, 21, 22], overlap="drop")
    assert (result.trained_on, result.train_samples) == (0, 7)
    assert result.measured_on == "4 held-out images (validation)"
    out = tmp_path / "out"
    options = {name: value for name, value in given.items() if name != "source"}
    again = evaluate(out, given["source"], data_options=options)
    assert (again.trained_on, again.split) == (0, "validation")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    reports.clear()
    seen = evaluate(out, tmp_path / "moved", split="train", data_options=options)
    assert (seen.trained_on, seen.samples) == (7, 8)
    assert seen.split == "train, 7 of 8 images trained on"
    assert "7 of 8 images were trained on" in reports.text
    write_folder_card(out)
    assert "train, 7 of 8 images trained on" in (out / "README.md").read_text()
    (out / "training_run.json").unlink()
    assert evaluate(out, tmp_path / "moved", split="train", data_options=options, record=False).trained_on is None
