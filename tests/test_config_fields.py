"""Fields of configs: mistakes in code are refused with the nearest name, whatever a file holds is kept."""

import json
from pathlib import Path

import pytest
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    VisionEncoderDecoderConfig,
)

import hfvision
from hfvision.errors import UnknownNameError
from hfvision.models.catalog_config import own_fields
from hfvision.models.swin.model import SwinConfig
from hfvision.models.upernet import UperNetConfig
from hfvision.models.vit import ViTConfig, ViTForImageClassification
from hfvision.registry import ARCHITECTURES, load

PUBLISHED = sorted((Path(__file__).parent / "data" / "hub_format").glob("*.json"))
# Fields of files that neither hfvision nor today's transformers reads, of older versions and other people's.
OBSOLETE = {"reshape_last_stage": True, "downsampling_rates": [1, 4], "torchscript": False, "my_note": "kept"}
MISTAKES = {"hiden_size": "hidden_size", "imagesize": "image_size", "num_chanels": "num_channels"}


@pytest.fixture(params=ARCHITECTURES)
def row(request):
    return ARCHITECTURES[request.param]


def test_a_misspelt_field_is_refused_with_the_nearest_name(row):
    config_class = load(row.config)
    own = own_fields(config_class)
    checked = 0
    for wrong, right in MISTAKES.items():
        if right in own:
            with pytest.raises(UnknownNameError, match=f"'{wrong}'; did you mean '{right}'"):
                config_class(**row.tiny, **{wrong: 3})
            checked += 1
    assert checked or "UperNet" in config_class.__name__ or "Detr" in config_class.__name__


def test_another_familys_field_is_refused(row):
    config_class = load(row.config)
    foreign = {"decoder_ffn_dim", "token_mlp_size", "sr_ratios", "shift_window_size", "embed_dim", "tokens_mlp_dim"}
    known = {name for other in ARCHITECTURES.values() for name in own_fields(load(other.config))}
    strange = sorted((foreign & known) - own_fields(config_class))
    assert strange
    for name in strange:
        with pytest.raises(UnknownNameError, match=f"'{name}', a field of"):
            config_class(**row.tiny, **{name: 3})


def test_all_mistakes_of_a_call_are_listed():
    with pytest.raises(UnknownNameError, match="2 names") as error:
        ViTConfig(position_embedding="none", hiden_size=3)
    assert "'position_embedding', nearly 'position_embedding_type', a field of DetrConfig" in str(error.value)
    assert "'hiden_size'; did you mean 'hidden_size'?" in str(error.value)
    assert "ViTConfig has no such field" in str(error.value)


def test_fields_that_follow_from_others_are_taken_only_as_they_follow():
    assert SwinConfig(embed_dim=48, depths=(1, 1), num_heads=(1, 2), hidden_size=96).hidden_size == 96
    with pytest.raises(UnknownNameError, match="'hidden_size', a field of"):
        SwinConfig(embed_dim=48, depths=(1, 1), num_heads=(1, 2), hidden_size=768)


def test_a_field_of_ones_own_is_kept():
    assert ViTConfig(acquisition="drone", task_specific_params={"a": 1}).acquisition == "drone"


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_published_configs_load_and_keep_what_they_hold(file, tmp_path):
    stored = json.loads(file.read_text())["config"]
    (tmp_path / "config.json").write_text(json.dumps({**stored, **OBSOLETE, "hiden_size": 3, "embed_dims": 5}))
    for config in (AutoConfig.from_pretrained(tmp_path), AutoConfig.for_model(**stored)):
        assert type(config).__module__.startswith("hfvision.")
    config = AutoConfig.from_pretrained(tmp_path)
    for name, value in {**OBSOLETE, "hiden_size": 3, "embed_dims": 5}.items():
        assert getattr(config, name) == value
    assert config.to_dict()["hiden_size"] == 3
    assert type(config).from_dict(config.to_dict()).hiden_size == 3
    assert type(config)(**config.to_dict()).hiden_size == 3  # a dict that was written by a config
    assert type(config).from_json_file(tmp_path / "config.json").hiden_size == 3


def test_tiny_configs_of_every_family_come_back_from_their_files(row, tmp_path):
    config = load(row.config)(**row.tiny, acquisition="drone")
    config.hiden_size = 3  # as an older version would have stored it
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert (again.hiden_size, again.acquisition) == (3, "drone")


def test_overrides_of_from_pretrained_are_checked(tmp_path):
    model = ViTForImageClassification(ViTConfig(**ARCHITECTURES["vit"].tiny))
    model.save_pretrained(tmp_path)
    for load_with in (AutoConfig, ViTConfig, AutoModelForImageClassification, ViTForImageClassification):
        with pytest.raises(UnknownNameError, match="did you mean 'hidden_dropout_prob'"):
            load_with.from_pretrained(tmp_path, hiden_dropout_prob=0.5)
        with pytest.raises(UnknownNameError, match="a field of"):
            load_with.from_pretrained(tmp_path, sr_ratios=[1])
        load_with.from_pretrained(tmp_path, hidden_dropout_prob=0.5, local_files_only=True, trust_remote_code=False)
    options = {"dtype": "float32", "attn_implementation": "eager", "ignore_mismatched_sizes": True, "token": None}
    options |= {"low_cpu_mem_usage": True, "use_safetensors": True, "image_size": 32, "num_labels": 5}
    assert AutoModelForImageClassification.from_pretrained(tmp_path, **options).config.num_labels == 5


def test_configs_inside_others_are_checked_where_code_gives_them():
    with pytest.raises(UnknownNameError, match="did you mean 'embed_dim'"):
        UperNetConfig(backbone_config={"model_type": "swin", "embed_dims": 5})


def test_composites_of_transformers_take_our_configs_from_their_files(tmp_path):
    both = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**ARCHITECTURES["vit"].tiny), SwinConfig())
    stored = both.to_dict()
    stored["encoder"]["hiden_size"] = 3
    stored["encoder"]["is_decoder"] = False
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert AutoConfig.from_pretrained(tmp_path).encoder.hiden_size == 3


def test_models_of_the_catalogue_are_checked():
    with pytest.raises(UnknownNameError, match="did you mean 'hidden_size'"):
        hfvision.create("vit-base-patch16-224-augreg", hiden_size=3)


def test_sizes_for_the_part_that_takes_images_pass_through_the_auto_class(tmp_path):
    row = ARCHITECTURES["upernet"]
    model = AutoModelForSemanticSegmentation.from_config(load(row.config)(**row.tiny))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, num_channels=5, channel_init="mean")
    assert loaded.config.backbone_config.num_channels == 5
    with pytest.raises(UnknownNameError, match="'num_channels', a field of"):
        UperNetConfig.from_pretrained(tmp_path, num_channels=5)
