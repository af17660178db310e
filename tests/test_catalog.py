"""The catalogue: its rows, the models that they build, and how it is asked."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import hfvision
from hfvision.catalog import BOOKKEEPING, FAMILIES, facts_of, list_models, row, rows, signature
from hfvision.conversion.tables import FORMATS
from hfvision.creation import costs_of
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.labels import label_set, label_sets
from hfvision.registry import ARCHITECTURES, class_name, load
from hfvision.tasks import TASKS
from tests.manifests import meta_tensors
from tests.strictness import WARNINGS_ARE_ERRORS

MANIFESTS = Path(__file__).parent / "data" / "manifests"

# Of every family, the trunks and heads that differ.
REBUILT = (
    "vit-tiny-patch16-384-augreg",
    "vit-base-patch32-224-in21k",
    "vit-hybrid-r26-small-32-224-augreg",
    "vit-hybrid-r-tiny-16-384-augreg",
    "mixer-small-patch16-224-gsam",
    "deit-small-distilled-patch16-224",
    "deit-tiny-patch16-224",
    "swin-tiny-patch4-window7-224",
    "mit-b0",
    "segformer-b1-ade20k-512",
    "segmenter-tiny-mask-16-pascal-context",
    "segmenter-base-deit-linear-16-ade20k",
    "setr-pup-deit-base-cityscapes-40k",
    "setr-mla-deit-base-ade20k-160k",
    "upernet-swin-tiny",
    "detr-resnet-50-dc5",
    "detr-resnet-50-panoptic",
)


def test_there_is_one_row_for_each_published_checkpoint_and_architecture():
    every = rows()
    assert (len(every), sum(one.published for one in every)) == (173, 127)
    assert len({one.name for one in every}) == len(every)
    files = [(one.repository, one.file) for one in every if one.published]
    assert len(set(files)) == len(files)
    assert {one.family for one in every} == set(FAMILIES)


def test_every_row_names_what_the_package_has():
    for one in rows():
        architecture = ARCHITECTURES[one.model_type]
        assert class_name(architecture.config) == one.config_class
        assert class_name(architecture.model(one.auto_class, one.model_class)) == one.model_class
        assert one.task_row in TASKS and one.name == one.name.lower()
        assert (one.labels is None) == (one.num_labels is None) == (one.auto_class == "AutoModel")
        assert one.labels is None or (one.labels in label_sets() and one.config["num_labels"] == one.num_labels)
        assert (one.license == "other") == (one.license_name is not None)
        assert len(one.signature) == 64 and one.protocol and one.datasets and one.preprocessing
        assert all(figure.source and 0 < figure.value < 100 for figure in one.figures)
        assert (one.flops is None) == any("can run" in note for note in one.notes)


def test_a_head_has_as_many_outputs_as_its_label_set_has_names():
    sets = {(one.labels, one.num_labels) for one in rows() if one.labels}
    assert {(name, len(label_set(name).names)) for name, _ in sets} == sets


def test_segformer_weights_are_the_only_ones_for_research_alone():
    other = {one.family for one in rows() if one.license == "other"}
    assert other == {"segformer"}
    assert {one.license for one in rows(family="segformer")} == {"other"}
    assert {one.license for one in rows() if one.family != "segformer"} == {"apache-2.0", "mit"}


def file_of(manifest):
    """The tensors of a published file without storage, but for the heads that are published as zeros."""
    depth = manifest["config"].get("depth")
    keys = {key.replace("{i}", f"{{0-{depth - 1}}}") if "{i}" in key else key: key for key in manifest["tensors"]}
    tensors = meta_tensors({"tensors": {key: manifest["tensors"][stored] for key, stored in keys.items()}})
    zeros = {key: torch.zeros(one.shape) for key, one in tensors.items() if key.startswith("head/")}
    return tensors | zeros if "pre_logits/bias" in tensors else tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_says_what_its_file_converts_to(family):
    of_family = [one for one in rows() if one.family == family]
    manifests = json.loads((MANIFESTS / f"{family}.json").read_text(encoding="utf-8")).values()
    assert len(of_family) == len(manifests)
    (format,) = (one for one in FORMATS if one.name == of_family[0].format)
    for manifest in manifests:
        tensors = file_of(manifest)
        same = [one for one in of_family if one.signature == signature({key: t.shape for key, t in tensors.items()})]
        same = [one for one in same if one.file == manifest["file"]] or [one for one in same if not one.published]
        told = {"segmenter": [manifest.get("variant_yml")], "detr": [{"dilation": "dc5" in manifest["file"]}]}
        plan = format.plan(tensors, {}, None, *told.get(family, []))
        made = [plan.model_type, plan.auto_class, dict(plan.config), dict(plan.model_options)]
        assert json.loads(json.dumps(made)) in [
            [one.model_type, one.auto_class, one.config, one.model_options] for one in same
        ]


@pytest.mark.parametrize("name", REBUILT)
def test_parameters_and_flops_are_those_of_the_model_that_is_built(name):
    assert costs_of(name) == (row(name).parameters, row(name).flops)


def test_flops_are_those_of_a_hand_count():
    """ViT-B/16: patches, 12 blocks (four square maps, two of the MLP, two products of attention), classifier."""
    tokens, width, inner = 197, 768, 3072
    block = 4 * tokens * width**2 + 2 * tokens * width * inner + 2 * tokens**2 * width
    assert row("deit-base-patch16-224").flops == 2 * (196 * width**2 + 12 * block + width * 1000)


def test_a_name_that_does_not_exist_is_met_with_the_nearest():
    with pytest.raises(UnknownNameError, match="the nearest are vit-base-patch16-384-augreg"):
        row("vit-base-patch16-384-augregs")
    with pytest.raises(UnknownNameError, match=r"no family 'swim'.* Did you mean 'swin'"):
        rows(family="swim")
    with pytest.raises(UnknownNameError, match=r"no task 'segmentation'.*Did you mean 'image-segmentation'"):
        rows(task="segmentation")


def test_a_task_and_a_family_choose_rows():
    assert {one.model_type for one in rows(family="deit")} == {"vit", "deit"}
    assert {one.name for one in rows(task="image-segmentation", family="detr", kind="panoptic")} == {
        f"detr-resnet-{depth}-panoptic" for depth in ("50", "50-dc5", "101")
    }
    assert rows(task="object-detection", family="vit") == ()


def test_the_signature_tells_keys_and_shapes_and_nothing_of_their_order():
    shapes = {"a.weight": (2, 3), "b": torch.Size([])}
    assert signature(shapes) == signature({"b": [], "a.weight": [2, 3]})
    assert len({signature(shapes), signature({**shapes, "b": (1,)}), signature({"a": (2, 3), "b": ()})}) == 3


def test_a_config_of_the_catalogue_has_the_names_of_its_labels():
    config = hfvision.SegmenterConfig.from_catalog("segmenter-small-mask-16-ade20k")
    assert (config.hidden_size, config.decoder_layers, config.num_labels) == (384, 2, 150)
    assert (config.id2label[2], config.label2id["sky"]) == ("sky", 2)
    assert hfvision.DetrConfig.from_catalog("detr-resnet-50").id2label[90] == "toothbrush"
    assert hfvision.SwinConfig.from_catalog("swin-tiny-patch4-window7-224-in22k").num_labels == 21841


@pytest.mark.parametrize("model_type", sorted({one.model_type for one in rows()}))
def test_every_config_class_reads_its_rows_and_its_own_settings_stay_apart(model_type):
    of_type = [one for one in rows(family=model_type) if one.model_type == model_type]
    config_class = load(ARCHITECTURES[model_type].config)
    before = json.dumps(of_type[0].config)
    config = config_class.from_catalog(of_type[0].name)
    told = config.to_dict()
    assert {field for field, value in of_type[0].config.items() if told.get(field, value) != value} <= {
        "backbone_config"  # holds all its fields in the config
    }
    if getattr(config, "backbone_config", None) is not None:
        config.backbone_config.hidden_sizes = [1]
    assert json.dumps(row(of_type[0].name).config) == before


def test_fields_of_the_config_can_be_set_and_labels_follow_their_number():
    small = {"num_hidden_layers": 1, "decoder_layers": 1}
    model = hfvision.create("segmenter-tiny-mask-16-ade20k", num_labels=7, image_size=64, **small)
    assert type(model).__name__ == "SegmenterForSemanticSegmentation" and model.training
    assert model.config.id2label == {index: f"LABEL_{index}" for index in range(7)}
    assert model.eval()(torch.zeros(1, 3, 64, 64)).logits.shape[1] == 7
    names = {0: "cat", 1: "dog"}
    model = hfvision.create("vit-tiny-patch16-224-augreg", id2label=names, num_hidden_layers=1, dtype=torch.bfloat16)
    assert (model.config.num_labels, model.config.label2id) == (2, {"cat": 0, "dog": 1})
    assert model.classifier.weight.dtype == torch.bfloat16


def test_a_row_without_head_builds_a_classifier_when_asked_for_one():
    name, small = "vit-base-patch32-224-in21k", {"num_hidden_layers": 1, "intermediate_size": 8}
    assert type(hfvision.create(name, **small)).__name__ == "ViTModel"
    with pytest.raises(ConfigError, match=r"no head, so num_labels cannot be used.*task='image-classification'"):
        hfvision.create(name, num_labels=3)
    assert hfvision.create(name, task="image-classification", num_labels=3, **small).classifier.out_features == 3
    with pytest.raises(UnknownNameError, match="no model for 'object-detection'; it has image-feature-extraction"):
        hfvision.create(name, task="object-detection")


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"hiden_size": 3}, UnknownNameError, "'hiden_size'; did you mean 'hidden_size'"),
        ({"num_attention_heads": 7}, ConfigError, "num_attention_heads=7: hidden_size 768 cannot be split among 7"),
        ({"image_size": "large"}, ConfigError, "image_size='large'"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, kind, said):
    with pytest.raises(kind, match=said):
        hfvision.create("vit-base-patch16-224", **settings)


def test_another_config_class_is_named():
    with pytest.raises(
        ConfigError, match=r"described by NvlabsSegformerConfig .* hfvision\.NvlabsSegformerConfig\.from"
    ):
        hfvision.SegformerConfig.from_catalog("segformer-b0-ade20k-512")
    with pytest.raises(UnknownNameError, match="the nearest are setr-pup"):
        hfvision.SetrConfig.from_catalog("setr-pup-huge-cityscapes-80k")


def test_the_processor_of_a_row_prepares_images_as_its_file_was_evaluated():
    processor = hfvision.create_processor("segmenter-large-mask-16-cityscapes")
    assert (processor.size["shortest_edge"], processor.window_size) == (1024, 768)
    assert hfvision.create_processor("swin-tiny-patch4-window7-224").size["shortest_edge"] == 256


def test_reading_the_catalogue_brings_neither_torch_nor_transformers():
    heavy = "[m for m in ('torch', 'transformers', 'numpy') if m in sys.modules]"
    code = f"from hfvision.catalog import rows; import sys; rows(); print({heavy})"
    done = subprocess.run(
        [sys.executable, *WARNINGS_ARE_ERRORS, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def listed(capsys, **options):
    from hfvision.cli.list import run

    run(**options)
    return capsys.readouterr().out


def test_the_list_shows_checkpoints_with_their_costs_figure_and_licence(capsys):
    shown = listed(capsys, family="segformer")
    line = next(line for line in shown.splitlines() if "segformer-b4-ade20k-512" in line)
    assert line.split()[1:4] == ["b4", "64.1", "M"] and "50.3 mIoU, ade20k" in line
    assert "84 mIoU *, cityscapes" in shown
    assert line.endswith("nvidia-source-code-license-segformer  segformer.b4.512x512.ade.160k.pth")
    assert "setr" not in shown and "Model families" not in shown


def test_architectures_without_weights_are_listed_when_asked_for(capsys):
    assert "18 more" not in listed(capsys, family="deit")
    assert "26 more architectures" in listed(capsys, family="setr")
    assert "setr-pup-large-cityscapes-80k" in listed(capsys, family="setr", all_=True)


def test_the_list_as_json_holds_whole_rows(capsys):
    document = json.loads(listed(capsys, task="object-detection", as_json=True))
    wanted = [json.loads(json.dumps(asdict(one))) for one in rows(task="object-detection")]
    assert [{**one, "task": "object-detection", "kind": None} for one in wanted] == document["checkpoints"]
    assert "families" in json.loads(listed(capsys, as_json=True))


def names_in(config):
    """Every field of a config and of the configs inside it."""
    for name, value in config.items():
        yield name
        if isinstance(value, dict):
            yield from names_in(value)


def test_no_row_holds_what_says_nothing_of_the_model():
    kept = {one.name: BOOKKEEPING & set(names_in(one.config)) for one in rows()}
    assert {name for name, fields in kept.items() if fields} == set()


def test_facts_of_a_config_leave_out_what_transformers_writes_beside_them_at_any_depth():
    stored = {"depths": [1], "auto_map": {}, "backbone_config": {"sizes": [2], "transformers_version": "5.23.0"}}
    assert facts_of(stored) == {"depths": [1], "backbone_config": {"sizes": [2]}}
    assert "auto_map" in stored


def test_names_are_listed_by_patterns_task_family_and_whether_weights_are_published():
    everything = list_models()
    assert everything == sorted(one.name for one in rows())
    published = list_models(pretrained=True)
    assert set(published) == {one.name for one in rows() if one.published} < set(everything)
    assert list_models("deit-tiny*", pretrained=True) == [name for name in published if name.startswith("deit-tiny")]
    assert list_models(["mit-b0", "mit-b1"]) == list_models("mit-b[01]") == ["mit-b0", "mit-b1"]
    assert {row(name).family for name in list_models(family="setr")} == {"setr"}
    assert list_models("no such model") == []
    with pytest.raises(UnknownNameError, match="Did you mean 'object-detection'"):
        list_models(task="object-detecton")
