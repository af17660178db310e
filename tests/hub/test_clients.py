"""Unmodified clients in fresh processes: they push, list and load as they would with the public Hub."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

UPLOAD = """
    import hashlib, os
    from pathlib import Path
    from huggingface_hub import HfApi, snapshot_download

    api, repo = HfApi(), os.environ["REPO"]
    api.create_repo(repo, private=True)
    folder = Path("folder")
    (folder / "deep").mkdir(parents=True)
    chance = __import__("random").Random(0)
    (folder / "weights.bin").write_bytes(chance.randbytes(3_000_000))
    (folder / "deep" / "more.safetensors").write_bytes(chance.randbytes(500_000) * 3)
    (folder / "README.md").write_text("---\\nlicense: mit\\n---\\n# A model\\n")
    (folder / "empty.txt").touch()
    api.upload_folder(folder_path=folder, repo_id=repo, commit_message="all of it")
    api.upload_file(path_or_fileobj=folder / "weights.bin", path_in_repo="again/weights.bin", repo_id=repo)
    api.upload_file(path_or_fileobj=b"a text", path_in_repo="näme #1%?.txt", repo_id=repo)
    before = api.repo_info(repo).sha
    api.upload_file(path_or_fileobj=b"a text", path_in_repo="näme #1%?.txt", repo_id=repo)
    assert api.repo_info(repo).sha == before, "an unchanged file made a commit"
    down = Path(snapshot_download(repo))
    hashes = {
        str(path.relative_to(down)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in down.rglob("*") if path.is_file()
    }
    for name in ("weights.bin", "deep/more.safetensors", "README.md", "empty.txt"):
        assert hashes[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest(), name
    assert hashes["again/weights.bin"] == hashes["weights.bin"]
    assert (down / "näme #1%?.txt").read_text() == "a text"
    print(len(api.list_repo_commits(repo)), sorted(hashes))
"""

MODEL = """
    import os, torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, ViTConfig
    from transformers import ViTForImageClassification, ViTImageProcessor, pipeline
    from PIL import Image

    torch.manual_seed(0)
    repo = os.environ["REPO"]
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=3, **sizes)).eval()
    model.push_to_hub(repo)
    ViTImageProcessor(size={"height": 32, "width": 32}).push_to_hub(repo)
    loaded = AutoModelForImageClassification.from_pretrained(repo).eval()
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)
    answers = pipeline(model=repo)(Image.new("RGB", (40, 30)))
    print(type(loaded).__name__, len(answers))
"""

DATASET = """
    import os
    from datasets import Dataset, load_dataset
    repo = os.environ["REPO"]
    Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]}).push_to_hub(repo)
    rows = load_dataset(repo, split="train")
    streamed = list(load_dataset(repo, split="train", streaming=True))
    assert streamed == list(rows)
    print(rows.num_rows, rows.column_names)
"""


def run(server, home, code, *, status=0, **environment):
    """Standard output of a fresh process that runs the code in `home`."""
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=server.environment(home / "cache", HFVISION_REGISTER="0", **environment),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == status, done.stderr[-4000:] + server.log.read_text()[-2000:]
    return done.stdout.strip()


def hf(server, home, *words):
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hf")), *words],
        env=server.environment(home / "cache"),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr + server.log.read_text()[-2000:]
    return done.stdout


@pytest.mark.parametrize("way", ["xet", "lfs"])
def test_folders_and_files_go_up_and_come_down_the_same(server, you, tmp_path, way):
    more = {"HF_HUB_DISABLE_XET": "1"} if way == "lfs" else {}
    out = run(server, tmp_path / "home", UPLOAD, REPO=f"me/upload-{way}", **more)
    names = [".gitattributes", "README.md", "again/weights.bin", "deep/more.safetensors", "empty.txt", "näme #1%?.txt",
             "weights.bin"]  # fmt: skip
    assert out == f"4 {names}"
    log = server.log.read_text()
    assert ("/v1/shards" in log) if way == "xet" else (f"upload-{way}.git/info/lfs" in log)
    assert you.get(f"/api/models/me/upload-{way}").status_code == 404


@pytest.mark.slow
def test_models_and_datasets_are_pushed_and_loaded(server, me, tmp_path):
    assert run(server, tmp_path / "a", MODEL, REPO="me/vit") == "ViTForImageClassification 3"
    info = me.get("/api/models/me/vit").json()
    assert (info["pipeline_tag"], info["library_name"]) == ("image-classification", "transformers")
    assert info["safetensors"]["total"] > 1000
    assert run(server, tmp_path / "b", DATASET, REPO="me/rows") == "3 ['text', 'label']"


def test_the_hf_command_works_unchanged(server, me, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert "me" in hf(server, home, "auth", "whoami")
    hf(server, home, "repos", "create", "me/cli")
    (home / "a.txt").write_text("from the command line")
    (home / "w.bin").write_bytes(b"\0" * 100_000)
    hf(server, home, "upload", "me/cli", "a.txt")
    hf(server, home, "upload", "me/cli", "w.bin", "weights/w.bin")
    hf(server, home, "repos", "tag", "create", "me/cli", "v1")
    hf(server, home, "download", "me/cli", "--local-dir", "down", "--revision", "v1")
    assert (home / "down" / "a.txt").read_text() == "from the command line"
    assert (home / "down" / "weights" / "w.bin").read_bytes() == b"\0" * 100_000
    listed = json.loads(hf(server, home, "models", "ls", "--author", "me", "--search", "cli", "--format", "json"))
    assert [row["id"] for row in listed] == ["me/cli"]
    hf(server, home, "repos", "delete", "me/cli", "--yes")
    assert me.get("/api/models/me/cli").status_code == 404
