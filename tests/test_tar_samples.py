"""WebDataset archives: members read where they lie, in a stable order, with classes, masks or nothing."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from hfvision.data import load_image_dataset, prepare_classification, prepare_detection, prepare_segmentation
from hfvision.data.image_sizes import size_of_cell
from hfvision.data.tar_samples import find_archives, read_samples
from hfvision.errors import DatasetError
from tests.exports import image_of


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def write_tar(path, members, **links):
    """An archive of {name: bytes}; links are {name: target}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return path


def shard(path, first, count, label="cls"):
    members = {}
    for number in range(first, first + count):
        members[f"{number:06}.png"] = png(image_of(6 + number, 4, number))
        members[f"{number:06}.{label}"] = str(number % 2).encode()
    return write_tar(path, members)


def test_shards_of_both_splits_with_names_beside_them(tmp_path):
    for place in range(3):
        shard(tmp_path / f"train-{place:06}.tar", 10 * place, 2)
    shard(tmp_path / "val-000000.tar", 90, 2)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = prepare_classification(tmp_path)
    assert data.names == ["cat", "dog"]
    assert data.train.labels.tolist() == [0, 1] * 3 and data.evaluation.split == "validation"
    assert [data.train.read(row).width for row in range(6)] == [6, 7, 16, 17, 26, 27]  # the order of the archives
    assert data.train.read(5).tobytes() == image_of(27, 4, 21).tobytes()
    assert [cell["path"].rpartition("/")[2] for cell in data.train.images["image"][:2]] == ["000000.png", "000001.png"]


def test_one_archive_braces_wildcards_and_lists(tmp_path):
    paths = [shard(tmp_path / f"part-{place:02}.tar", 10 * place, 4) for place in range(3)]
    counts = {
        str(paths[0]): 4,
        str(tmp_path / "part-{00..01}.tar"): 8,
        str(tmp_path / "part-0{0,2}.tar"): 8,
        str(tmp_path / "part-*.tar"): 12,
    }
    for source, images in counts.items():
        assert len(load_image_dataset(source, split="train")) == images
    assert len(load_image_dataset(paths, split="train")) == 12
    with pytest.raises(DatasetError, match=r"1 of 2 archives are not there: part-09\.tar"):
        load_image_dataset(str(tmp_path / "part-0{0,9}.tar"))
    with pytest.raises(DatasetError, match="no archive is called"):
        load_image_dataset(str(tmp_path / "nothing-*.tar"))


def test_sizes_come_from_headers_inside_the_archive(tmp_path):
    data = load_image_dataset(str(shard(tmp_path / "a.tar", 0, 2)), split="train")
    assert size_of_cell(data[1]["image"], data.features["image"]) == (4, 7)


def test_classes_in_json_or_text(tmp_path):
    members = {}
    for number, label in enumerate(["cat", "dog"] * 2):
        members[f"s/{number}.png"] = png(image_of(6, 4))
        members[f"s/{number}.json"] = json.dumps({"label": label}).encode()
    data = prepare_classification(str(write_tar(tmp_path / "a.tar", members)), held_out=0.5)
    assert data.names == ["cat", "dog"]
    members["s/4.png"], members["s/4.json"] = png(image_of(6, 4)), b"{}"
    members["s/5.png"], members["s/5.json"] = png(image_of(6, 4)), b"[1"
    with pytest.raises(DatasetError, match=r"labels that cannot be read in split 'train' \(1\): s/5"):
        prepare_classification(str(write_tar(tmp_path / "b.tar", members)), held_out=0.5)


def test_masks_by_their_ending(tmp_path):
    mask = np.resize(np.array([0, 1, 255], np.uint8), (4, 6))
    members = {}
    for number in range(4):
        members[f"{number}.png"] = png(image_of(6, 4))
        members[f"{number}.seg.png"] = png(Image.fromarray(mask))
    (tmp_path / "classes.txt").write_text("sky\ncow\n")
    data = prepare_segmentation(str(write_tar(tmp_path / "a.tar", members)), held_out=0.25)
    assert data.names == ["sky", "cow"]
    image, values = data.train.read(0)
    assert image.size == (6, 4) and values.tolist() == mask.tolist()
    del members["2.seg.png"]
    with pytest.raises(DatasetError, match=r"images without a mask in split 'train' \(1\): 2.png"):
        prepare_segmentation(str(write_tar(tmp_path / "b.tar", members)), held_out=0.25)


def test_objects_in_json(tmp_path):
    members = {}
    for number in range(4):
        members[f"{number}.png"] = png(image_of(20, 10))
        objects = {"bbox": [[1, 2, 5, 4], [8, 1, 6, 6]][: number + 1], "category": ["cat", "dog"][: number + 1]}
        members[f"{number}.json"] = json.dumps({"objects": objects}).encode()
    data = prepare_detection(str(write_tar(tmp_path / "a.tar", members)), held_out=0.25)
    assert data.names == ["cat", "dog"] and len(data.train) == 3
    image, found = data.train.read(len(data.train) - 1)
    assert image.size == (20, 10)
    assert found.boxes.tolist() == [[1, 2, 6, 6], [8, 1, 14, 7]]
    members["4.png"] = png(image_of(20, 10))
    with pytest.raises(DatasetError, match=r"samples without objects in split 'train' \(1\): 4: no JSON"):
        prepare_detection(str(write_tar(tmp_path / "b.tar", members)))


def test_members_that_are_no_plain_files_are_left_out(tmp_path, caplog):
    members = {"../../outside.png": png(image_of(6, 4)), "../../outside.cls": b"0", "README": b"read me"}
    path = write_tar(tmp_path / "in" / "a.tar", members, **{"1.png": "/etc/passwd"})
    samples = read_samples(find_archives(str(path))["train"])
    assert [sample.key for sample in samples] == ["../../outside"]
    assert "left out (2): README, 1.png" in caplog.text
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a.tar", "in"]  # nothing was unpacked anywhere


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tar", b"not an archive" * 100, "cannot be read as a tar archive"),
        ("a.tar.gz", b"\x1f\x8b", "is compressed"),
    ],
)
def test_broken_and_compressed_archives(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        load_image_dataset(str(tmp_path / name))


def test_samples_without_an_image_and_files_that_stand_twice(tmp_path):
    members = {"1.cls": b"0", "2.png": png(image_of(6, 4)), "2.cls": b"1"}
    with pytest.raises(DatasetError, match=r"samples without an image in split 'train' \(1\): 1"):
        prepare_classification(str(write_tar(tmp_path / "a.tar", members)))
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for _ in range(2):
            entry = tarfile.TarInfo("1.cls")
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"0"))
    with pytest.raises(DatasetError, match=r"holds 1\.cls twice"):
        load_image_dataset(str(tmp_path / "b.tar"))


def test_an_archive_that_was_cut_off_names_the_member(tmp_path):
    path = shard(tmp_path / "a.tar", 0, 4)
    data = prepare_classification(str(path), held_out=0.5, check_images=0)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DatasetError, match=r"in .*a\.tar is cut off"):
        data.train.read(len(data.train) - 1)


def test_images_trained_on_are_found_in_archives(tmp_path):
    for name in ("train", "val"):
        shard(tmp_path / f"{name}-0.tar", 0, 4)
    with pytest.raises(DatasetError, match="4 of 4 images of 'validation' are images of 'train', too"):
        prepare_classification(tmp_path)
