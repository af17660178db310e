"""Images and masks that cannot be read stop a training, or are left out with their number and names."""

import logging

import pytest

from hfvision.data.detection import prepare_detection
from hfvision.errors import DatasetError
from tests.test_same_images import array_columns, class_folders, coco_files, image_columns, mask_folders, yolo_folders

FILES = {
    class_folders: ("train/a/train4.png", "val/a/val10.png"),
    mask_folders: ("images/train/train4.png", "masks/val/val10.png"),
    coco_files: ("images/4.png", "images/10.png"),
    yolo_folders: ("images/train/4.png", "images/val/10.png"),
}
every_form = pytest.mark.parametrize("form", FILES, ids=lambda form: form.__name__)


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


def broken(form, root):
    """A data set of 8 and 4 images, with a file that is cut off in either split."""
    prepare, options = form(root, range(8), range(10, 14))
    for name in FILES[form]:
        file = root / name
        file.write_bytes(file.read_bytes()[:60])
    return prepare, options


@every_form
def test_unreadable_files_are_an_error_that_names_the_option(form, tmp_path):
    prepare, options = broken(form, tmp_path)
    with pytest.raises(DatasetError, match=r"unreadable images.*skip.unreadable"):
        prepare(**options)


@every_form
@pytest.mark.parametrize("checked", [20_000, 0, 1])
def test_they_are_left_out_with_their_number_and_names(form, checked, tmp_path, reports):
    prepare, options = broken(form, tmp_path)
    data = prepare(**options, skip_unreadable=True, check_images=checked)
    assert (len(data.train), len(data.evaluation)) == (7, 3)
    assert reports.text.count("1 of 8 were left out: unreadable images") == 1
    assert reports.text.count("1 of 4 were left out: unreadable images") == 1
    assert FILES[form][0].rpartition("/")[2] in reports.text
    for part in (data.train, data.evaluation):
        for row in range(len(part)):
            part.read(row)


@every_form
def test_it_holds_where_a_share_is_held_out_and_where_a_model_is_measured(form, tmp_path):
    prepare, options = broken(form, tmp_path)
    if form is not mask_folders:
        measured = prepare(**options, skip_unreadable=True, evaluate_only=True)
        assert len(measured.evaluation) == 3


@pytest.mark.parametrize("form", [array_columns, image_columns], ids=lambda form: form.__name__)
def test_sound_data_is_left_alone(form, tmp_path, reports):
    prepare, options = form(tmp_path, range(8), range(10, 14))
    data = prepare(**options, skip_unreadable=True)
    assert (len(data.train), len(data.evaluation)) == (8, 4)
    assert "were left out: unreadable" not in reports.text


def test_nothing_readable_is_an_error(tmp_path):
    _, options = coco_files(tmp_path, range(2), range(10, 12))
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(DatasetError):
        prepare_detection(options["source"], skip_unreadable=True)
