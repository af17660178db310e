"""Every published file is recognised by its keys and shapes, converts both ways in shape, and goes back with another
number of labels; variants of them are told by what differs.
"""

import json
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
import torch
from transformers import configuration_utils

from hfvision.catalog import BOOKKEEPING, row, rows, signature
from hfvision.checkpoints import Checkpoint, write_npz
from hfvision.conversion import convert
from hfvision.conversion.recognition import BY_NAME, compare_sizes
from hfvision.conversion.tensors import convert_tensors
from hfvision.conversion.to_hub import recognised_plan
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.unwrapping import unwrap
from hfvision.registry import architecture, load
from tests.manifests import meta_tensors
from tests.test_conversion import google_checkpoint

MANIFESTS = Path(__file__).parent / "data" / "manifests"
FAMILIES = sorted(path.stem for path in MANIFESTS.glob("*.json"))
NEW_LABELS = 7
RELABELLED = 5  # of so many models one gets other labels, too: it takes twice the time


@cache
def manifests(family):
    return json.loads((MANIFESTS / f"{family}.json").read_text(encoding="utf-8"))


def stored(manifest):
    """The tensors of a manifest, those of its blocks written out."""
    depth = manifest["config"].get("depth", 0)
    written = {}
    for key, shape in manifest["tensors"].items():
        for block in range(depth if "{i}" in key else 1):
            written[key.replace("{i}", str(block))] = shape
    return meta_tensors({"tensors": written})


def as_file(tensors, name, path=None):
    """A checkpoint as `read` gives it, of a file that has no content."""
    return Checkpoint(tensors, name, "torch", "", entry="model", path=path)


def row_of(manifest, tensors):
    """The row whose file it is; of files that are called alike or have no name, the one of these shapes."""
    own = signature({key: tensor.shape for key, tensor in tensors.items()})
    alike = [one for one in rows() if one.signature == own]
    return [one for one in alike if one.file == manifest.get("file")] or alike


@pytest.mark.parametrize("family", FAMILIES)
def test_every_published_file_is_recognised_and_goes_back_with_other_labels(family):
    for number, (name, manifest) in enumerate(manifests(family).items()):
        tensors = stored(manifest)
        expected = row_of(manifest, tensors)
        assert expected, f"{name} has no row of its shapes"
        checkpoint, format, _ = unwrap(as_file(tensors, "of_a_name_that_says_nothing.pth"))
        plan, recognition = recognised_plan(checkpoint, format, {})
        assert {one.name for one in expected} <= {one.name for one in recognition.rows}, (name, recognition.line())
        assert len(recognition.rows) == 1 or "one of " in recognition.line()
        converted, _, config = convert_tensors(tensors, format, plan)
        back, _ = revert_tensors(converted.tensors, config, format)
        assert shapes(back.tensors) == shapes(tensors), name
        if file := next((one.file for one in expected if one.file), None):
            named = as_file(tensors, PurePosixPath(file).name, Path("/nowhere") / file)
            _, recognition = recognised_plan(named, format, {})
            assert (recognition.by, recognition.row.file) == (BY_NAME, file), name
        if number % RELABELLED == 0 and plan.config.get("num_labels"):
            assert_relabelled(name, tensors, config, format, plan)


def assert_relabelled(name, tensors, config, format, plan):
    """With new labels, converted and never converted, the file has the original's keys, and its heads other rows."""
    old = plan.config["num_labels"]
    for recorded in (True, False):
        config.num_labels = NEW_LABELS
        if not recorded:
            del config.hfvision_conversion
        with torch.device("meta"):
            model = load(architecture(plan.model_type).model(plan.auto_class, plan.model_name))(
                config, **plan.model_options
            )
        back, _ = revert_tensors(model.state_dict(), config, format)
        assert back.tensors.keys() == tensors.keys(), (name, recorded)
        for key, tensor in back.tensors.items():
            was = tuple(tensors[key].shape)
            changed = [(now, then) for now, then in zip(tensor.shape, was, strict=True) if now != then]
            queries = {(NEW_LABELS + more, old + more) for more in (0, 1)}  # detectors have one for "no object"
            assert set(changed) <= queries, (name, recorded, key, tuple(tensor.shape), was)
    config.num_labels = old


def shapes(tensors):
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def test_as_many_manifests_are_tested_as_the_catalogue_has_rows():
    assert sum(len(manifests(family)) for family in FAMILIES) == len(rows()) == 173


# --- what only the hash or the name tells -----------------------------------------------------------------


def recognised(name, family, file=None, sha256="", change=lambda tensors: tensors):
    tensors = change(stored(manifests(family)[name]))
    checkpoint, format, _ = unwrap(Checkpoint(tensors, file or "w.pth", "torch", sha256, entry="model"))
    return recognised_plan(checkpoint, format, {})


def test_the_hash_tells_which_of_several_files_of_one_shape_it_is():
    dilated = row("detr-resnet-50-dc5")
    plan, recognition = recognised("detr_resnet50", "detr", sha256=dilated.sha256_prefix + "0" * 56)
    assert recognition.row is dilated and recognition.published
    assert plan.config["dilation"] is True and plan.assumed == ()
    assert "dilation = True" in recognition.taken
    plan, recognition = recognised("detr_resnet50", "detr")
    assert plan.config["dilation"] is False and not recognition.published
    assert "one of detr-resnet-50, detr-resnet-50-dc5" in recognition.line()
    assert recognised("detr_resnet50", "detr", "own-dc5.pth")[1].row is dilated


def test_a_name_with_another_hash_is_not_the_published_file():
    published = row("deit-tiny-patch16-224")
    _, recognition = recognised("deit_tiny_patch16_224", "deit", published.file.split("/")[-1], "f" * 64)
    assert recognition.row is published and not recognition.published
    assert f"its sha256 does not begin with {published.sha256_prefix}" in recognition.line()


def test_labels_and_preprocessing_that_all_candidates_share_are_taken_and_said():
    plan, recognition = recognised("SETR_PUP_768x768_40k_cityscapes_bs_8", "setr")
    assert len(recognition.rows) == 2 and recognition.line().startswith("the architecture of one of setr-pup-")
    assert plan.labels[:2] == ("road", "sidewalk") and plan.preprocessing["label_map"] == "cityscapes-19"
    assert recognition.taken == (
        "the classes are called as in cityscapes-19, as for all of these; give --labels if yours are others",
    )


# --- variants -----------------------------------------------------------------------------------------------


def head_of(classes):
    def change(tensors):
        return {
            key: torch.empty((classes, *tensor.shape[1:]), device="meta") if key.startswith("head.") else tensor
            for key, tensor in tensors.items()
        }

    return change


def without_blocks(*blocks):
    def change(tensors):
        return {key: tensor for key, tensor in tensors.items() if not key.startswith(tuple(blocks))}

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (head_of(7), ("a head of 7 classes instead of 1000",)),
        (without_blocks("head."), ("no head, where it has one of 1000 classes",)),
        (without_blocks("blocks.10.", "blocks.11."), ("10 blocks instead of 12",)),
    ],
    ids=["head", "headless", "shallower"],
)
def test_a_variant_is_told_by_what_differs_from_the_nearest_row(change, said):
    plan, recognition = recognised("deit_small_patch16_224", "deit", change=change)
    assert (recognition.nearest.name, recognition.differences) == ("deit-small-patch16-224", said)
    assert recognition.line() == f"a variant of deit-small-patch16-224: {said[0]}"
    assert plan.labels == ()  # what is certain of the row is not of its variant


def without_biases(tensors):
    return {key: tensor for key, tensor in tensors.items() if not key.endswith((".attn.q.bias", ".attn.kv.bias"))}


def test_a_published_architecture_without_biases_is_told_as_that():
    _, recognition = recognised("mit_b0", "segformer", change=without_biases)
    assert recognition.row.name == "mit-b0" and not recognition.published
    assert recognition.differences == ("it has no biases of queries, keys and values",)


def test_the_report_the_record_and_the_card_name_the_row(tmp_path):
    write_npz(tmp_path / "w.npz", google_checkpoint())
    report = convert(tmp_path / "w.npz", tmp_path / "model")
    assert report.recognised.startswith("a variant of vit-") and report.catalog_row is None
    assert f"catalogue: {report.recognised}" in report.text()
    record = json.loads((tmp_path / "model" / "hfvision_conversion.json").read_text())
    assert record["recognition"]["nearest"] == report.recognition["nearest"]
    assert report.recognised in (tmp_path / "model" / "README.md").read_text()
    assert report.dtype == "float32" and "written as float32" in report.text()


@pytest.mark.parametrize("version", ["4.57.0", "5.99.0"])
def test_a_hybrid_is_recognised_by_its_sizes_whatever_release_of_transformers_runs(version, monkeypatch):
    monkeypatch.setattr(configuration_utils, "__version__", version)
    for name, manifest in manifests("hybrid").items():
        checkpoint, format, _ = unwrap(as_file(stored(manifest), "of_a_name_that_says_nothing.pth"))
        plan, _ = recognised_plan(checkpoint, format, {})
        assert BOOKKEEPING.isdisjoint(plan.config["backbone_config"])
        found = compare_sizes(plan, format.model_types, "it stores other tensors", format.name)
        assert not [line for line in found.differences if "backbone_config" in line], (name, found.line())
