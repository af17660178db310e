"""The pages of a hub on PostgreSQL and S3-compatible storage, where the machine has both."""

import io

import pytest

from hfvision.data.digits import load_digits
from hfvision.hub import pulls
from hfvision.hub.commits import AddFile
from hfvision.hub.settings import HubSettings
from tests.hub import backends
from tests.hub.publishing import LARGE, caller_of, png, publish, publish_starter
from tests.hub.server import TOKENS, add_users, running


@pytest.fixture(scope="module")
def server(tmp_path_factory, postgres_url, s3_environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        database, store = backends.new_database(postgres_url), backends.new_bucket(s3_environment)
        with running(HubSettings(root=tmp_path_factory.mktemp("grown"), database=database, store=store)) as own:
            add_users(own.hub)
            yield own


def test_a_model_is_found_shown_saved_and_tried(server, nobody):
    repo = publish_starter(server.hub, "vit-digits", "me/vit")
    assert "me/</span>vit" in nobody.get("/models?search=VIT&filter=vit&sort=downloads").text
    for rest, words in (
        ("", "ViTForImageClassification"),
        ("/tree/main", "model.safetensors"),
        ("/blob/main/model.safetensors", "stored as a large file"),
        ("/commits/main", "Add files"),
        (f"/commit/{repo.sha}", "added"),
        ("/compare", "hidden_size"),
    ):
        answer = nobody.get(f"/me/vit{rest}")
        assert answer.status_code == 200 and words in answer.text
    weights = nobody.get("/me/vit/download/main/model.safetensors")
    assert len(weights.content) == int(weights.headers["content-length"]) > 100_000
    digit, image = load_digits()["test"][0], io.BytesIO()
    digit["image"].save(image, format="PNG")
    answer = nobody.post("/me/vit/try", files={"image": ("d.png", image.getvalue())}, headers={"X-Fragment": "1"})
    assert answer.status_code == 200 and answer.text.index(f">{digit['label']}<") < answer.text.index("</tr>\n<tr>")


def test_tables_and_images_of_a_dataset_are_shown(server, nobody):
    file = io.BytesIO()
    load_digits()["train"].to_parquet(file)
    assert len(file.getvalue()) > LARGE  # so it lies in the store
    publish(server.hub, "me/digits", {"data/train.parquet": file.getvalue()}, "dataset")
    shown = nobody.get("/datasets/me/digits/viewer?row=700").text
    assert "rows 700 to 719" in shown and shown.count("data:image/png") == 20
    assert nobody.get("/datasets/me/digits").text.count("data:image/png") == 12
    publish(server.hub, "me/pictures", {"a/1.png": png(), "a/2.png": png(500, 500)}, "dataset")
    assert "2 images" in nobody.get("/datasets/me/pictures/viewer").text


def test_a_pull_request_is_merged_and_its_branch_shown(server, me, nobody):
    repo = publish(server.hub, "me/pulled", {"a.txt": "a\n"})
    pulls.propose(server.hub, caller_of(server.hub, "you"), repo, "main", [AddFile("a.txt", b"b\n")], "Better")
    shown = nobody.get("/me/pulled/discussions/1").text
    assert ">-a\n" in shown and ">+b\n" in shown
    assert nobody.get("/me/pulled/blob/refs%2Fpr%2F1/a.txt").status_code == 200
    assert me.post("/me/pulled/discussions/1/merge", data={"comment": "Yes"}).status_code == 303
    assert "<code>b\n</code>" in nobody.get("/me/pulled/blob/main/a.txt").text


def test_signing_in_settings_requests_and_tokens(server, me, nobody):
    publish(server.hub, "me/kept", {"README.md": "# Kept", "x.txt": "inside"})
    assert nobody.post("/login", data={"token": TOKENS["you"]}).status_code == 303
    me.post("/me/kept/settings/gate", data={"gated": "manual"})
    assert nobody.post("/me/kept/access").status_code == 303
    me.post("/me/kept/settings/access", data={"user": "you", "answer": "accept"})
    assert "inside" in nobody.get("/me/kept/blob/main/x.txt").text
    me.post("/me/kept/settings/visibility", data={"visibility": "private"})
    assert nobody.get("/me/kept").status_code == 404
    me.post("/me/kept/settings/rename", data={"name": "me/renamed"})
    assert me.post("/me/renamed/settings/delete", data={"name": "me/renamed"}).headers["location"] == "/me"
    assert "hf_" in nobody.post("/settings/tokens", data={"name": "second", "role": "read"}).text


@pytest.mark.parametrize(
    ("method", "address", "sent"),
    [
        ("GET", "/models?search=a%00b", {}),
        ("GET", "/me/%00/discussions", {}),
        ("GET", "/api/models?author=%00", {}),
        ("GET", "/api/models/me/%00", {}),
        ("POST", "/settings/tokens", {"data": {"name": "a\0b", "role": "read"}}),
        ("POST", "/api/repos/create", {"json": {"name": "x", "organization": "a\0b"}}),
        ("POST", "/api/models/me/pulled/discussions", {"json": {"title": "a\0bc", "pullRequest": True}}),
    ],
)
def test_a_nul_that_postgresql_would_choke_on_is_refused_before(server, me, method, address, sent):
    assert me.request(method, address, **sent).status_code == 400


def test_text_that_only_looks_like_a_nul_is_taken(server, me):
    body = {"title": "abc", "description": "a \\u0000 b", "pullRequest": True}
    publish(server.hub, "me/looks", {"a": "a"})
    assert me.post("/api/models/me/looks/discussions", json=body).status_code == 200
