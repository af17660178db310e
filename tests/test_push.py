"""Pushing a model: what is checked before, what arrives as one commit, and what is known when something goes wrong.

Against a Hub in a thread of this process (`tests/hub_stub.py`), or of the next where a process of its own is needed.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
from typer.testing import CliRunner

import hfvision
from hfvision.cards import write_folder_card
from hfvision.cli import build_app
from hfvision.errors import PublishError
from hfvision.publishing import add_code, push
from hfvision.registry import ARCHITECTURES, class_name
from hfvision.starters import STARTERS
from tests.hub_stub import hub_stub

# huggingface_hub hands files to its HTTP client in a way that the client calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

NAME = "me/digits"
MODEL_FILES = {"LICENSE", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with hub_stub() as stub:
        yield stub


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(STARTERS["vit-digits"], tmp_path / "vit-digits")
    return tmp_path / "vit-digits"


def pushed(hub, folder, name=NAME, **options):
    return push(folder, name, endpoint=hub.url, **{"token": "hf_me", **options})


def edit(path, **fields):
    contents = json.loads(path.read_text())
    path.write_text(json.dumps({**contents, **fields}))


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(code, hub=None, home=None, blocked=()):
    """The last line that fresh Python printed; it has hfvision on its path, and does not import it by itself."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"PYTHONPATH": str(Path(hfvision.__file__).parents[1]), "HF_HOME": str(home)}
    env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_me"} if hub else {"HF_HUB_OFFLINE": "1"}
    hide = f"""
    import sys, importlib.abc
    class Hidden(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {set(blocked) or "()"}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Hidden())
    """
    command = [sys.executable, "-c", textwrap.dedent(hide) + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=home)
    return done.stdout.splitlines()[-1] if done.returncode == 0 else done.stderr


# What arrives


def test_a_folder_becomes_one_commit_of_its_files_and_stays_as_it_is(hub, folder):
    before = bytes_of(folder)
    report = pushed(hub, folder, private=True, message="First try")
    there = hub.files(NAME)
    assert there.keys() - {".gitattributes"} == MODEL_FILES == report.sent.keys()
    assert {name: there[name] == content for name, content in before.items()} == {
        name: name != "README.md" for name in before
    }
    assert b'model="me/digits"' in there["README.md"]  # the snippet names the repository
    assert b"Apache License" in there["LICENSE"]
    assert bytes_of(folder) == before
    assert len(hub.asked("POST", "/commit/")) == 1
    assert (report.created, report.private, report.licence) == (True, True, "apache-2.0")
    assert hub.repositories[NAME].private and report.commit == hub.repositories[NAME].branches["main"]
    assert hub.asked("PUT", "/lfs/") and any("no Xet" in note for note in report.notes)


def test_the_same_push_again_sends_nothing_and_another_only_what_differs(hub, folder):
    first = pushed(hub, folder)
    again = pushed(hub, folder)
    assert (again.sent, again.commit) == ({}, first.commit)
    edit(folder / "config.json", my_note="another")
    hub.repositories[NAME].commit("main", {**hub.repositories[NAME].commits[first.commit]} | stale(), "theirs")
    third = pushed(hub, folder)
    assert third.sent.keys() == {"config.json"} and third.replaced == ("config.json",)
    assert third.removed == ("pytorch_model.bin",)  # or an older library would go on loading the former weights
    assert "notes.txt" in third.kept and "notes.txt" in hub.files(NAME)


def stale():
    from tests.hub_stub import blob

    return {"pytorch_model.bin": blob(b"old weights"), "notes.txt": blob(b"mine")}


def test_only_the_model_goes_up_and_the_rest_is_named(hub, folder):
    for name in ("training_args.bin", "training_run.json", ".secret", "model-00001-of-00002.safetensors", "tool.py"):
        (folder / name).write_bytes(b"x")
    for name in ("checkpoint-5/model.safetensors", "figures/curve.png", "figures/other.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    with (folder / "README.md").open("a") as card:
        card.write("\n![loss](figures/curve.png)\n")
    report = pushed(hub, folder)
    assert hub.files(NAME).keys() - {".gitattributes"} == {*MODEL_FILES, "figures/curve.png"}
    assert report.left_out.keys() == {
        "training_args.bin", "training_run.json", ".secret", "model-00001-of-00002.safetensors", "tool.py",
        "checkpoint-5/", "figures/",
    }  # fmt: skip


def test_sharded_weights_go_up_whole(hub, folder):
    hfvision.ViTForImageClassification.from_pretrained(folder).save_pretrained(folder / "new", max_shard_size="200KB")
    (folder / "model.safetensors").unlink()
    for path in (folder / "new").iterdir():
        path.replace(folder / path.name)
    report = pushed(hub, folder)
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 1 and set(shards) < report.sent.keys()
    (folder / shards[0]).unlink()
    with pytest.raises(PublishError, match=rf"index.json names {shards[0]}, which is not there"):
        pushed(hub, folder)


def test_a_pull_request_leaves_the_branch_as_it_is(hub, folder):
    hub.add(NAME, {".gitattributes": b""})
    head = hub.repositories[NAME].branches["main"]
    report = pushed(hub, folder, create_pr=True)
    assert report.pull_request == f"{hub.url}/{NAME}/discussions/1" and report.revision == "refs/pr/1"
    assert hub.repositories[NAME].branches["main"] == head
    assert hub.files(NAME, "refs/pr/1").keys() > MODEL_FILES


# What is refused before anything is sent


def nothing_was_sent(hub):
    return not hub.asked("POST", "/commit/") and not hub.asked("PUT") and not hub.asked("repos/create")


def break_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


BROKEN = {
    "has no README.md of UTF-8 text; write a model card with `hfvision card": lambda f: (f / "README.md").unlink(),
    "has no preprocessor_config.json": lambda f: (f / "preprocessor_config.json").unlink(),
    "only pytorch_model.bin, which run code when opened": lambda f: (f / "model.safetensors").rename(
        f / "pytorch_model.bin"
    ),
    "weights have missing keys: classifier.bias": lambda f: break_weights(f, lambda t: t.pop("classifier.bias")),
    "is not finite": lambda f: break_weights(f, lambda t: t["classifier.bias"].fill_(torch.nan)),
    "the model fails: ": lambda f: os.truncate(f / "model.safetensors", 5000),
    "the image processor fails: ": lambda f: edit(f / "preprocessor_config.json", size={"heigth": 3}),
    "one image fails: ": lambda f: edit(
        f / "preprocessor_config.json", do_convert_rgb=False, image_mean=[0] * 7, image_std=[1] * 7
    ),
    "names no class of vit": lambda f: edit(f / "config.json", architectures=["ResNetModel"]),
    "cannot check": lambda f: edit(f / "config.json", model_type="bert"),
    "config.json of": lambda f: (f / "config.json").write_text("{"),
    "README.md": lambda f: (f / "README.md").write_text("# vit-digits\n\nNo front matter.\n"),
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_folder_that_would_not_work_is_refused_with_the_reason(hub, folder, said):
    BROKEN[said](folder)
    with pytest.raises(PublishError) as refusal:
        pushed(hub, folder)
    assert said in str(refusal.value)
    assert hub.requests == []


def test_weights_without_a_licence_are_refused(hub, folder):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("license: apache-2.0\n", ""))
    with pytest.raises(PublishError, match="licen"):
        pushed(hub, folder)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "digits"}, "write OWNER/NAME"),
        ({"name": "me/what a name"}, "write OWNER/NAME"),
        ({"token": "hf_wrong"}, "does not accept this token"),
        (
            {"name": "other/digits"},
            "could not be created: This token may not write to other/digits (You don't",
        ),
        ({"name": "me/new", "revision": "dev"}, "has no revision 'dev'; push without --revision first"),
        ({"name": "me/full", "revision": "dev"}, "it has main. Create it with `hf repos branch create me/full dev`"),
        ({"name": "me/full", "private": True}, "exists and is public"),
        ({"name": "reader/full"}, "may not write to reader/full"),
        ({"name": "me/gated"}, "is gated, and this token has no access to it"),
        ({"name": "reader/hidden"}, "could not be created"),
    ],
)
def test_what_the_hub_will_not_take_is_said_with_the_next_step(hub, folder, options, said):
    hub.add("me/full")
    hub.add("reader/full")
    hub.add("reader/hidden", private=True)
    hub.add("me/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(PublishError) as refusal:
        pushed(hub, folder, **options)
    assert said in str(refusal.value)
    assert not any(MODEL_FILES & hub.files(name).keys() - {"config.json"} for name in hub.repositories)


def test_without_a_token_or_a_network_it_says_so(hub, folder, monkeypatch):
    monkeypatch.setattr("hfvision.publishing.hub.get_token", lambda: None)
    with pytest.raises(PublishError, match="hf auth login"):
        pushed(hub, folder, token=None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        pushed(hub, folder)
    assert hub.requests == []


def test_a_repository_with_other_content_needs_overwrite(hub, folder):
    theirs = {"config.json": b'{"model_type": "bert"}', "tokenizer.json": b"{}"}
    hub.add(NAME, theirs)
    with pytest.raises(PublishError) as refusal:
        pushed(hub, folder)
    for said in ("type bert", "config.json (22 bytes): would be replaced", "tokenizer.json (2 bytes): would stay"):
        assert said in str(refusal.value)
    assert nothing_was_sent(hub) and hub.files(NAME) == theirs
    report = pushed(hub, folder, overwrite=True)
    assert report.replaced == ("config.json",) and report.kept == ("tokenizer.json",)


# What goes wrong on the way


def test_a_connection_lost_before_the_commit_leaves_everything_as_it_was(hub, folder):
    hub.fault = "before commit"
    with pytest.raises(PublishError, match=r"(?s)did not land: me/digits \(main\) is as it was.*was created"):
        pushed(hub, folder)
    assert hub.files(NAME).keys() == {".gitattributes"}
    hub.fault = None
    assert pushed(hub, folder).sent.keys() == MODEL_FILES  # the same push again continues
    assert len(hub.asked("PUT", "/lfs/")) == len(hub.asked("POST", "/lfs/", "verify"))


def test_a_commit_that_landed_although_no_answer_came_is_recognised(hub, folder):
    hub.fault = "after commit"
    report = pushed(hub, folder)
    assert report.commit == hub.repositories[NAME].branches["main"]
    assert "the connection broke off before the Hub's answer came; the commit had landed" in report.notes


def test_other_bytes_than_were_sent_are_noticed(hub, folder):
    hub.fault = "damage"
    with pytest.raises(PublishError, match=r"holds other bytes than were sent: README\.md"):
        pushed(hub, folder)


def test_what_somebody_else_commits_meanwhile_is_not_written_over(hub, folder):
    pushed(hub, folder)
    edit(folder / "config.json", my_note="another")
    hub.fault = "overtaken"
    with pytest.raises(PublishError, match="changed by somebody else meanwhile"):
        pushed(hub, folder)
    assert hub.files(NAME) == {"theirs.txt": b"first"}


# With code


def test_every_class_that_code_may_name_is_public():
    rows = ARCHITECTURES.values()
    models = [one for row in rows for found in (row.models, row.also) for one in found.values()]
    flat = [name for one in models for name in (one if isinstance(one, tuple) else (one,))]
    references = [*flat, *(row.config for row in rows), *(row.processor for row in rows if row.processor)]
    assert {class_name(one) for one in references} <= set(hfvision.__all__)


USE = """
import sys
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
processor = AutoImageProcessor.from_pretrained({name!r}, trust_remote_code=True)
model = AutoModelForSemanticSegmentation.from_pretrained({name!r}, trust_remote_code=True)
segment = pipeline("image-segmentation", model={name!r}, trust_remote_code=True)
import numpy
answers = segment(numpy.full((96, 96, 3), 7, numpy.uint8))
model.save_pretrained("saved")
processor.save_pretrained("saved")
import os
print(*(type(one).__module__ for one in (processor, model, segment)), bool(answers), *sorted(os.listdir("saved")))
"""
OURS = "hfvision.processing.segmentation hfvision.models.segmenter hfvision.pipelines.image_segmentation True"


def test_code_makes_a_new_family_load_from_a_folder_without_importing_hfvision(tmp_path):
    folder = tmp_path / "segmenter"
    shutil.copytree(STARTERS["segmenter-digit-scenes"], folder)
    assert set(add_code(folder)) == {"config.json", "preprocessor_config.json", "hfvision_classes.py"}
    said = run(USE.format(name=str(folder)), home=tmp_path)
    # what is saved later holds no copies of hfvision's source files
    assert said == f"{OURS} config.json model.safetensors preprocessor_config.json", said
    without = run(USE.format(name=str(folder)), home=tmp_path, blocked=["hfvision"])
    assert "packages that were not found in your environment: hfvision. Run `pip install hfvision`" in without
    ours = AutoModelForSemanticSegmentation.from_pretrained(folder)  # with hfvision imported no trust is asked for
    assert type(ours).__module__ == "hfvision.models.segmenter"
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "SegmenterImageProcessor"


def test_code_goes_up_with_a_push_and_loads_from_there(hub, tmp_path):
    folder = STARTERS["segmenter-digit-scenes"]
    report = pushed(hub, folder, "me/scenes", with_code=True)
    assert "hfvision_classes.py" in report.sent and "config.json: written for trust_remote_code=True" in report.changed
    said = run(USE.format(name="me/scenes"), hub, tmp_path)
    assert said.startswith(OURS), said
    again = tmp_path / "saved"  # a fine-tune of it, as it were: it refers to the code, and has none
    shutil.copy(folder / "README.md", again)
    fine_tuned = pushed(hub, again, "me/tuned")
    assert (
        "hfvision_classes.py" not in hub.files("me/tuned") and b"auto_map" not in hub.files("me/tuned")["config.json"]
    )
    assert any("auto_map taken out" in line for line in fine_tuned.changed)


# From an original file to an answer


def test_an_original_file_is_converted_described_pushed_and_answers_by_its_name(hub, tmp_path):
    original, folder = tmp_path / "digits.pth", tmp_path / "digits"
    hfvision.convert_back(STARTERS["segmenter-digit-scenes"], original)
    labels = json.loads((STARTERS["segmenter-digit-scenes"] / "config.json").read_text())["id2label"]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    processor = json.loads((STARTERS["segmenter-digit-scenes"] / "preprocessor_config.json").read_text())
    heads = {"num_attention_heads": 6, "decoder_num_attention_heads": 6}
    hfvision.convert(original, folder, labels=tmp_path / "labels.json", overrides=heads, license="apache-2.0")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    outcome = CliRunner().invoke(build_app(), ["push", str(folder), "digits", "--token", "hf_me"])
    assert outcome.exit_code == 1 and isinstance(outcome.exception, PublishError)
    write_folder_card(folder, name="me/scenes")
    report = pushed(hub, folder, "me/scenes")
    assert report.model_class == "SegmenterForSemanticSegmentation"
    hub.requests.clear()
    code = """
    import hfvision, numpy
    from transformers import pipeline
    segment = pipeline(model="me/scenes")
    print(type(segment).__module__, {one["label"] for one in segment(numpy.zeros((96, 96, 3), numpy.uint8))})
    """
    said = run(code, hub, tmp_path)
    assert said == "hfvision.pipelines.image_segmentation {'background'}", said
    assert hub.asked("GET", f"/me/scenes/resolve/{report.commit}/model.safetensors")
