"""`import hfvision` makes transformers give our classes, in any order of imports, silently, and can be undone.

The cases of which module is imported first need a fresh interpreter each; they run with warnings as errors, and
must print nothing but their result.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
import transformers
from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

import hfvision
from hfvision.registry import ARCHITECTURES, load
from hfvision.tasks import PIPELINES
from tests.models import pixels, tiny_config, tiny_model
from tests.strictness import WARNINGS_ARE_ERRORS


def run(code, *arguments):
    """What the code printed; fails if it wrote anything to stderr."""
    command = [sys.executable, *WARNINGS_ARE_ERRORS, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    tiny_model("vit").save_pretrained(path)
    hfvision.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


WHOSE = """
import sys, transformers
transformers.utils.logging.disable_progress_bar()
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline
folder = sys.argv[1]
pipe = pipeline("image-classification", model=folder)
things = [AutoConfig.from_pretrained(folder), AutoModelForImageClassification.from_pretrained(folder),
          AutoImageProcessor.from_pretrained(folder), pipe, pipe.model, pipe.image_processor]
print({type(thing).__module__.split(".")[0] for thing in things})
"""

# One of each kind in every run (ours first, theirs first, a module of ours); the others are slow: a process each.
FIRST_STATEMENTS = [
    "import hfvision\nfrom transformers import Trainer",
    "from transformers import pipeline\nimport hfvision",
    "from hfvision.models.vit import ViTConfig",
]
OTHER_STATEMENTS = [
    "import hfvision",
    "import hfvision, transformers",
    "import transformers, hfvision",
    "from transformers import AutoModel\nimport hfvision",
    "from transformers import Trainer\nimport hfvision",
    "import hfvision\nfrom transformers.modeling_layers import GradientCheckpointingLayer",
    "import hfvision\nfrom transformers.models.vit.modeling_vit import ViTModel",
    "import hfvision\nfrom transformers import AutoTokenizer",
    "import hfvision\nimport accelerate, datasets",
    "from hfvision import ViTForImageClassification",
    "from hfvision.processing.classification import ViTImageProcessor",
    "from hfvision import pipeline",
    "import hfvision.pipelines.image_classification",
]


@pytest.mark.parametrize(
    "first", [*FIRST_STATEMENTS, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHER_STATEMENTS)]
)
def test_any_first_statement_registers_silently(first, folder):
    assert run(first + "\n" + WHOSE, folder) == "{'hfvision'}"


def test_registration_can_be_switched_off(folder):
    command = [sys.executable, "-c", "import hfvision\n" + WHOSE, str(folder)]
    off = {**os.environ, "HFVISION_REGISTER": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=off, check=True)
    assert done.stdout.strip() == "{'transformers'}"


def test_configs_are_not_imported_before_they_are_asked_for():
    code = """
    import hfvision, sys
    from transformers import AutoConfig
    print("hfvision.models.vit" in sys.modules, AutoConfig.for_model("vit").__module__)
    """
    assert run(code) == "False hfvision.models.vit"


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_worker_processes_have_our_classes(method, folder, tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import torch
        from hfvision.models.vit import ViTForImageClassification

        class Images(torch.utils.data.Dataset):
            def __init__(self, model, folder): self.model, self.folder = model, folder
            def __len__(self): return 2
            def __getitem__(self, i):
                from transformers import AutoConfig
                found = type(AutoConfig.from_pretrained(self.folder)).__module__
                return type(self.model).__module__ + " " + found

        if __name__ == "__main__":
            folder = sys.argv[1]
            model = ViTForImageClassification.from_pretrained(folder)
            loader = torch.utils.data.DataLoader(
                Images(model, folder), num_workers=1, multiprocessing_context=sys.argv[2], batch_size=None
            )
            print(sorted(set(loader)))
        """)
    )
    done = subprocess.run([sys.executable, script, folder, method], capture_output=True, text=True)
    assert done.stdout.strip() == "['hfvision.models.vit hfvision.models.vit']", done.stderr


def whose(thing):
    return type(thing).__module__.split(".")[0]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_row_is_behind_the_auto_classes(model_type):
    config = tiny_config(model_type)
    assert type(AutoConfig.for_model(model_type)) is load(ARCHITECTURES[model_type].config)
    for auto_class, reference in ARCHITECTURES[model_type].models.items():
        assert type(getattr(transformers, auto_class).from_config(config)) is load(reference)


def test_unregister_gives_transformers_its_classes_back_and_register_ours_again(folder):
    tasks = transformers.pipelines.PIPELINE_REGISTRY.supported_tasks
    try:
        hfvision.unregister()
        assert whose(AutoConfig.from_pretrained(folder)) == "transformers"
        assert whose(AutoModelForImageClassification.from_pretrained(folder)) == "transformers"
        assert whose(AutoModel.from_pretrained(folder, add_pooling_layer=False)) == "transformers"
        assert tasks["image-classification"]["impl"].startswith("transformers.")
        mapping = AutoModelForImageClassification._model_mapping
        assert type(mapping._extra_content) is dict
        hfvision.unregister()  # twice is once
    finally:
        hfvision.register()
    hfvision.register()
    assert whose(AutoConfig.from_pretrained(folder)) == "hfvision"
    assert whose(AutoImageProcessor.from_pretrained(folder)) == "hfvision"
    assert whose(AutoModelForImageClassification.from_pretrained(folder)) == "hfvision"
    assert whose(AutoBackbone.from_config(tiny_config("vit"))) == "hfvision"
    assert tasks["image-classification"]["impl"] == PIPELINES["image-classification"].replace(":", ".")


def test_unregister_holds_for_modules_imported_later(folder):
    code = "import hfvision; hfvision.unregister()\n" + WHOSE.split("pipe =")[0]
    code += "config = AutoConfig.for_model('vit')\nprint(type(config).__module__.split('.')[0], config)"
    printed = run(code, folder)
    assert printed.startswith("transformers ") and "transformers_version" in printed


def test_what_others_register_stays_and_comes_first():
    class TheirConfig(transformers.PreTrainedConfig):
        model_type = "their-model"

    AutoConfig.register("their-model", TheirConfig)
    try:
        hfvision.unregister()
        assert type(AutoConfig.for_model("their-model")) is TheirConfig
        hfvision.register()
        assert type(AutoConfig.for_model("their-model")) is TheirConfig
    finally:
        transformers.CONFIG_MAPPING._extra_content.pop("their-model")


def test_a_tasks_default_model_survives():
    task = transformers.pipelines.PIPELINE_REGISTRY.supported_tasks["image-classification"]
    assert task["default"]["model"] and task["type"] == "image"


def test_transformers_composites_take_our_trunk_with_equal_outputs(tmp_path):
    """A TrOCR-like model: an image encoder and a text decoder. The file is the same, whoever loads it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    encoder = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    decoder = transformers.BertConfig(**sizes, vocab_size=40, is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    hfvision.unregister()
    try:
        theirs = transformers.VisionEncoderDecoderModel(config=config).eval()
        assert whose(theirs.encoder) == "transformers"
        theirs.save_pretrained(tmp_path)
    finally:
        hfvision.register()
    composite = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path).eval()
    assert whose(composite.encoder) == "hfvision"
    x, tokens = pixels(composite.encoder.config), torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        got, wanted = (m(pixel_values=x, decoder_input_ids=tokens).logits for m in (composite, theirs))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_processors_of_other_model_types_stay_transformers(folder, tmp_path):
    """The class name ViTImageProcessor is shared by many families; the model_type beside it tells whose it is."""
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    for name, config in {
        "vit_mae": transformers.ViTMAEConfig(),
        "composite": transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            transformers.ViTConfig(), transformers.BertConfig()
        ),
        "vit": tiny_config("vit"),
        "none": None,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(processor))
        if config is not None:
            config.save_pretrained(tmp_path / name)
        loaded = AutoImageProcessor.from_pretrained(tmp_path / name, backend="pil")
        assert whose(loaded) == ("hfvision" if name in ("vit", "none") else "transformers"), name
    assert whose(hfvision.ViTImageProcessor.from_pretrained(tmp_path / "vit_mae")) == "hfvision"


def test_auto_backbone_loads_our_folders_without_the_hub(tmp_path, monkeypatch):
    """transformers' own asks the Hub whether a folder is a repository, for its own models still."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = load(ARCHITECTURES["vit"].models["AutoBackbone"])(tiny_config("vit"))
    model.save_pretrained(tmp_path)
    for folder in (tmp_path, str(tmp_path)):
        loaded, info = AutoBackbone.from_pretrained(folder, out_indices=[1], output_loading_info=True)
        assert type(loaded) is type(model)
        assert loaded.out_indices == [1]
        assert not info["missing_keys"]
    asked = []
    hfvision.unregister()
    try:
        assert "from_pretrained" not in vars(AutoBackbone)
    finally:
        hfvision.register()
    theirs = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    theirs.save_pretrained(tmp_path / "theirs")
    monkeypatch.setattr(AutoBackbone.__mro__[1], "from_pretrained", classmethod(lambda cls, *args: asked.append(args)))
    AutoBackbone.from_pretrained(tmp_path / "theirs")
    assert asked == [(tmp_path / "theirs",)]
