"""Trying models: real answers, and a process that can be broken without breaking the server."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from hfvision.confinement import clean_environment
from hfvision.data.digits import load_digit_scenes, load_digits
from hfvision.hub.settings import HubSettings
from hfvision.hub.try_it.models import MOST_WAITING, ModelTrials, lay_out
from hfvision.hub.try_it.previews import Previews
from hfvision.hub.try_it.process import Child, TrialBusy, TrialFailed
from tests.hub.publishing import png, publish, publish_starter
from tests.hub.server import add_users, running

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds a process's address space")


def bytes_of(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scene():
    return bytes_of(load_digit_scenes(train=1, validation=3)["validation"][2]["image"])


def ask(client, path, image, fragment=True):
    headers = {"X-Fragment": "1"} if fragment else {}
    return client.post(path, files={"image": ("image.png", image)}, headers=headers)


def test_a_classifier_answers_and_the_server_holds_no_torch(server, nobody):
    publish_starter(server.hub, "vit-digits", "me/try-vit")
    row = load_digits()["test"][0]
    answer = ask(nobody, "/me/try-vit/try", bytes_of(row["image"]))
    assert answer.status_code == 200 and answer.text.index(f">{row['label']}<") < answer.text.index("</tr>\n<tr>")
    whole = ask(nobody, "/me/try-vit/try", bytes_of(row["image"]), fragment=False)
    assert "<!doctype html>" in whole.text and "What it is" in whole.text
    if sys.platform.startswith("linux"):
        loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "torch" not in loaded and "_sqlite3" in loaded

    damaged = ask(nobody, "/me/try-vit/try", b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    assert damaged.status_code == 422 and "no image, or a damaged one" in damaged.text
    bomb = ask(nobody, "/me/try-vit/try", bytes_of(Image.new("1", (20_000, 20_000))))
    assert bomb.status_code == 422 and "20000 x 20000 pixels" in bomb.text
    assert ask(nobody, "/me/try-vit/try", b"").status_code == 400
    assert ask(nobody, "/me/try-vit/try", b"x" * (17 << 20)).status_code == 413
    assert nobody.post("/me/try-vit/try", content=b"x").status_code == 400
    assert "What it is" in ask(nobody, "/me/try-vit/try", bytes_of(row["image"])).text  # it lives on


def test_a_detector_draws_what_it_finds(server, nobody, scene):
    publish_starter(server.hub, "detr-digit-scenes", "me/try-detr")
    answer = ask(nobody, "/me/try-detr/try", scene)
    assert answer.status_code == 200 and "data:image/png;base64," in answer.text
    assert ">digit 0<" in answer.text and ">digit 3<" in answer.text


def test_a_segmenter_colours_every_pixel(server, nobody, scene):
    publish_starter(server.hub, "segformer-digit-scenes", "me/try-segformer")
    answer = ask(nobody, "/me/try-segformer/try", scene)
    assert "Share of the image" in answer.text and "data:image/png;base64," in answer.text


WIDGET = """---
pipeline_tag: image-classification
library_name: transformers
widget:
- src: digits/a%20b.png
  example_title: A <digit>
- src: https://elsewhere.example/me/try-widget/resolve/main/digits/two.png
- src: https://elsewhere.example/other/model/resolve/main/digits/three.png
- src: ../../secret.png
- {src: [x]}
- src: digits/missing.png
- text: words
---
"""


def test_a_card_offers_images_of_its_own_to_try(server, nobody):
    digit = bytes_of(load_digits()["test"][0]["image"])
    publish_starter(server.hub, "vit-digits", "me/try-widget")
    files = {"digits/a b.png": digit, "digits/two.png": b"damaged", "config.txt": "x", "digits/three.png": digit}
    publish(server.hub, "me/try-widget", {"README.md": WIDGET, **files})
    text = nobody.get("/me/try-widget/try").text
    assert re.findall(r'name="example" value="([^"]*)"', text) == ["digits/a b.png", "digits/two.png"]
    assert "A &lt;digit&gt;" in text and 'src="/me/try-widget/download/main/digits/a%20b.png"' in text
    answer = nobody.post("/me/try-widget/try", data={"example": "digits/a b.png"})
    assert answer.status_code == 200 and f">{load_digits()['test'][0]['label']}<" in answer.text
    assert nobody.post("/me/try-widget/try", data={"example": "digits/two.png"}).status_code == 422
    for other in ("config.txt", "digits/three.png", "../../secret.png", ""):
        assert nobody.post("/me/try-widget/try", data={"example": other}).status_code == 400


def test_models_that_cannot_be_tried_say_so(server, nobody):
    config = '{"model_type": "vit", "architectures": ["ViTForImageClassification"]}'
    publish(server.hub, "me/try-none", {"config.json": config, "pytorch_model.bin": b"\x80\x04pickle"})
    answer = ask(nobody, "/me/try-none/try", png())
    assert answer.status_code == 422 and "safetensors" in answer.text
    publish(server.hub, "me/try-broken", {"config.json": config, "model.safetensors": b"\xff" * 64})
    answer = ask(nobody, "/me/try-broken/try", png())
    assert answer.status_code == 422 and "cannot be loaded" in answer.text
    publish(server.hub, "me/try-data", {"a.txt": "a"}, "dataset")
    assert nobody.get("/datasets/me/try-data/try").status_code == 404


def test_only_configs_and_safetensors_reach_the_process(server, tmp_path):
    files = {"config.json": "{}", "model.safetensors": b"1", "model-00001-of-00002.safetensors": b"2"}
    extra = {"pytorch_model.bin": b"3", "modeling.py": "4", "sub/config.json": "{}", "tokenizer.json": "{}"}
    repo = publish(server.hub, "me/try-files", files | extra)
    lay_out(server.hub, repo, repo.sha, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"try_seconds": 1}, "No answer came within 1 seconds", id="time"),
        pytest.param({"try_memory": 200 << 20}, "memory|ran into a limit", id="memory", marks=LINUX),
        pytest.param({"try_model_limit": 1000}, "models of up to", id="size"),
    ],
)
def test_a_trial_ends_at_its_limits_and_the_server_goes_on(tmp_path, settings, words):
    with running(HubSettings(root=tmp_path, **settings)) as server:
        add_users(server.hub)
        publish_starter(server.hub, "vit-digits", "me/vit")
        with server.client(None) as nobody:
            answer = ask(nobody, "/me/vit/try", png())
            assert answer.status_code in (413, 422) and re.search(words, answer.text)
            assert nobody.get("/me/vit").status_code == 200


def test_trials_can_be_switched_off(tmp_path):
    with running(HubSettings(root=tmp_path, try_it=False)) as server:
        add_users(server.hub)
        publish_starter(server.hub, "vit-digits", "me/vit")
        with server.client(None) as nobody:
            assert nobody.get("/me/vit/try").status_code == 404
            assert ask(nobody, "/me/vit/try", png()).status_code == 404


def test_more_readers_than_may_wait_are_told_to_come_back():
    trials = ModelTrials(SimpleNamespace())
    trials.turns.taken = MOST_WAITING
    with pytest.raises(TrialBusy) as raised:
        trials.answer(None, "", b"")
    assert raised.value.headers["Retry-After"]


def test_the_process_is_told_no_secrets(monkeypatch):
    monkeypatch.setenv("HFVISION_HUB_SECRET", "s" * 20)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert "secret" not in json.dumps(clean_environment("/package", "/home")).lower()


PROBE = """
import json, socket, sys
from hfvision.confinement import confine, own_pipes
confine(512 << 20, file_size=1 << 20)
requests, answers = own_pipes()
print("not part of the protocol")
found = {}
try:
    bytearray(1 << 30)
except MemoryError:
    found["memory"] = "bounded"
try:
    with open("large", "wb") as file:
        file.write(b"x" * (2 << 20))
except OSError:
    found["files"] = "bounded"
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
except OSError:
    found["network"] = "none"
answers.write(json.dumps(found).encode() + b"\\n")
"""


@LINUX
def test_a_confined_process_has_bounds(server, tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(PROBE)
    port = server.endpoint.rpartition(":")[2]
    environment = clean_environment(str(Path(__file__).parents[2]), str(tmp_path))
    command = [sys.executable, str(tmp_path / "probe.py"), port]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert (found["memory"], found["files"]) == ("bounded", "bounded")
    unshared = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    if unshared.returncode == 0:  # some systems keep ordinary users from it
        assert found["network"] == "none"


def test_a_process_that_says_nonsense_or_dies_is_one_error(tmp_path):
    child = Child("json.tool", {"a": 1})  # ends at once: the argument is no file
    try:
        with pytest.raises(TrialFailed, match="ended early"), child.deadline(30):
            child.hear()
    finally:
        child.close()
    assert not child.home.exists()


def test_a_preview_reads_only_what_it_shows():
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": [f"{number:06}" + "x" * 5000 for number in range(20_000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=500, compression="none", use_dictionary=False)
    data, read = buffer.getvalue(), []

    def stored(key, start, end):
        read.append(end - start)
        return data[start:end]

    previews = Previews(SimpleNamespace(store=SimpleNamespace(read=stored)))
    found = SimpleNamespace(entry=SimpleNamespace(size=len(data)), key="k", data=None)
    shown = previews._read(found, 10_400, 20)
    assert [row["text"]["text"][:6] for row in shown.rows] == [f"{number:06}" for number in range(10_400, 10_420)]
    assert shown.total == 20_000 and sum(read) < len(data) / 10


@pytest.mark.parametrize("damage", ["cut", "junk", "length"])
def test_damaged_parquet_is_one_error(damage):
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(1000))}), buffer)
    data = buffer.getvalue()
    data = {"cut": data[:-20], "junk": data[:50] + b"\xff" * (len(data) - 58) + data[-8:], "length": data}[damage]
    size = len(data) + (100 if damage == "length" else 0)
    found = SimpleNamespace(entry=SimpleNamespace(size=size), key=None, data=data)
    with pytest.raises(TrialFailed, match="cannot be shown"):
        Previews(SimpleNamespace())._read(found, 0, 20)
