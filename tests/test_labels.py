"""Label sets that ship with hfvision, and how they get into a converted model."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor
from typer.testing import CliRunner

from hfvision.catalog import rows
from hfvision.checkpoints import write_npz
from hfvision.cli import build_app
from hfvision.conversion import convert
from hfvision.errors import ConversionError, UnknownNameError
from hfvision.labels import UNNAMED, label_set, label_sets
from hfvision.processing.label_map import LabelMap
from tests.test_conversion import google_checkpoint
from tests.test_conversion_segmenter import GOLDENS as SEGMENTERS


def test_every_set_names_the_outputs_of_the_published_heads():
    sizes = {name: len(label_set(name).names) for name in label_sets()}
    assert sizes == {
        "ade20k-150": 150,
        "cityscapes-19": 19,
        "coco-detection-91": 91,
        "coco-panoptic-133": 250,
        "imagenet-1k": 1000,
        "imagenet-21k": 21843,
        "imagenet-22k": 21841,
        "pascal-context-60": 60,
        "pascal-voc-21": 21,
    }
    for row in rows():
        assert row.labels is None or sizes[row.labels] == row.num_labels, row.name


@pytest.mark.parametrize("name", [name for name in label_sets() if label_set(name).is_label_map])
def test_a_set_agrees_with_the_label_map_of_its_name(name):
    chosen, label_map = label_set(name), LabelMap.named(name)
    assert dict(enumerate(chosen.names)) == label_map.id2label
    assert dict(chosen.colors) == label_map.palette and len(chosen.colors) == len(chosen.names)


def test_the_heads_of_swin_have_the_places_that_their_authors_map_to_imagenet_1k():
    """Of data/map22kto1k.txt in microsoft/Swin-Transformer: ImageNet-1k's classes -> places in the 22k head."""
    large, small = label_set("imagenet-22k").names, label_set("imagenet-1k").names
    places = {0: 359, 1: 368, 2: 460, 16: 648, 840: 11003, 845: 11045, 852: 11186, 995: 21181, 998: 21369, 999: 21817}
    assert [large[place] for place in places.values()] == [small[line] for line in places]
    whole = label_set("imagenet-21k").names
    assert (large[9205], large[15027]) == (whole[21841], whole[21842])  # data/imagenet22k_dataset.py there
    changed = [place for place, (one, other) in enumerate(zip(large, whole, strict=False)) if one != other]
    assert changed == [9205, 15027]


def test_coco_counts_by_category_and_leaves_gaps():
    names = label_set("coco-detection-91").names
    assert (names[0], names[1], names[12], names[90]) == (UNNAMED, "person", UNNAMED, "toothbrush")


def test_the_large_sets_are_read_when_they_are_asked_for():
    code = (
        "import builtins, io, pathlib\n"
        "opened = []\n"
        "real = io.open\n"
        "def watch(file, *a, **k):\n"
        "    opened.append(str(file))\n"
        "    return real(file, *a, **k)\n"
        "io.open = builtins.open = watch\n"
        "import hfvision, hfvision.labels, hfvision.catalog\n"
        "hfvision.labels.label_set('imagenet-1k')\n"
        "print([name for name in opened if name.endswith('k.json')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "imagenet-1k.json" in done.stdout and "imagenet-2" not in done.stdout


def test_an_unknown_set_is_answered_with_all_and_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no label set is called 'ade20k'; .*Did you mean 'ade20k-150'"):
        label_set("ade20k")


# --- attached by the converter --------------------------------------------------------------------------------------


def npz(tmp_path, labels):
    write_npz(tmp_path / "w.npz", google_checkpoint(labels=labels))
    return tmp_path / "w.npz"


def test_a_set_is_attached_by_its_name_on_the_command_line(tmp_path):
    command = ["convert", str(npz(tmp_path, 1000)), str(tmp_path / "model"), "--labels", "imagenet-1k"]
    done = CliRunner().invoke(build_app(), command)
    assert done.exit_code == 0, done.output
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert config.id2label[999] == "toilet tissue, toilet paper, bathroom tissue"
    assert config.id2label[134] == config.id2label[517] == "crane"  # a bird and a machine: the first has the name
    assert config.label2id["crane"] == 134


@pytest.mark.parametrize("form", ["set", "rows"])
def test_the_colours_of_a_data_set_go_along_into_the_image_processor(form, tmp_path):
    source = tmp_path / "seg"
    source.mkdir()
    path = SEGMENTERS / "linear" / "checkpoint.pth"
    classes = read_classes(path)
    rows = [{"id": 10 + i, "train_id": i, "name": f"kind {i}", "color": [i, 2 * i, 3 * i]} for i in range(classes)]
    (tmp_path / "rows.json").write_text(json.dumps({"labels": rows}))
    if form == "set":
        grown = torch.load(path, weights_only=True)
        for key in ("decoder.head.weight", "decoder.head.bias"):
            grown["model"][key] = torch.randn(19, *grown["model"][key].shape[1:])
        torch.save(grown, source / "checkpoint.pth")
        convert(source, tmp_path / "model", labels="cityscapes-19", overrides={"num_attention_heads": 2})
        wanted = dict(label_set("cityscapes-19").colors)
    else:
        convert(path, tmp_path / "model", labels=tmp_path / "rows.json")
        wanted = {i: (i, 2 * i, 3 * i) for i in range(classes)}
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert dict(LabelMap.of(processor.label_map).palette) == wanted
    names = AutoConfig.from_pretrained(tmp_path / "model").id2label
    assert names[1] == ("sidewalk" if form == "set" else "kind 1")


def read_classes(path):
    return len(torch.load(path, weights_only=True)["model"]["decoder.head.bias"])


def test_names_that_do_not_fit_the_head_are_refused_with_the_sets_that_do(tmp_path):
    with pytest.raises(ConversionError, match=r"has 150 outputs.* got 19 labels .*Sets of that size: ade20k-150\."):
        convert(npz(tmp_path, 150), tmp_path / "model", labels="cityscapes-19")
    with pytest.raises(UnknownNameError, match=r"there are ade20k-150, .*Did you mean 'cityscapes-19'"):
        convert(npz(tmp_path, 19), tmp_path / "model", labels="cityscape")
    with pytest.raises(ConversionError, match=r"nowhere\.json cannot be read as a JSON list of labels.*ade20k-150"):
        convert(npz(tmp_path, 19), tmp_path / "model", labels=tmp_path / "nowhere.json")
    with pytest.raises(ConversionError, match="labels are given by id, from 0; got 'a' as ids"):
        convert(npz(tmp_path, 1), tmp_path / "model", labels={"a": "ant"})
    assert not (tmp_path / "model").exists()
