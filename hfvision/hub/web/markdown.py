"""Cards as HTML: CommonMark with what cards of the Hub use besides, sanitised, its addresses led to the right places.

Besides CommonMark: tables, struck text, task lists, bare addresses, alerts (`> [!NOTE]`), anchors of headings, and HTML
that only shapes text. Whatever survives the sanitiser cannot run, submit, style or load anything from another host; the
page's policy forbids the same once more.
"""

import re
from collections.abc import Callable
from functools import cache
from html import unescape
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from mdit_py_plugins.tasklists import tasklists_plugin

CARD_LIMIT = 128 * 1024  # bytes of a card that are rendered
TAGS = {
    *("a", "abbr", "b", "blockquote", "br", "caption", "center", "code", "dd", "del", "details", "div", "dl", "dt"),
    *("em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark"),
    *("ol", "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td"),
    *("tfoot", "th", "thead", "tr", "u", "ul", "var"),
}
ALIGNED = ("p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "img", "table", "td", "th")
ATTRIBUTES: dict[str, set[str]] = {
    **{tag: {"align"} for tag in ALIGNED},
    "a": {"href", "title"},
    "blockquote": {"class"},
    "code": {"class"},
    "details": {"open"},
    "img": {"src", "alt", "title", "width", "height", "align"},
    "li": {"class"},
    "ol": {"start"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
    "*": {"id"},
}
ALERTS = {"NOTE": "Note", "TIP": "Tip", "IMPORTANT": "Important", "WARNING": "Warning", "CAUTION": "Caution"}
CLASSES = re.compile(r"language-[A-Za-z0-9_+#.-]{1,40}|task-list-item|alert (?:note|tip|important|warning|caution)")
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
DEEPEST = 100  # nested blocks and quotes
MOST_BRACKETS = 1000  # of one paragraph: the time that links take grows with their square
BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
HEADING = re.compile(r"<h([1-6])((?: align=\"\w+\")?)>(.*?)</h\1>", re.DOTALL)
ALERT = re.compile(r"\[!(\w{3,9})\][ \t]*(?:\n|\Z)")
BARE = re.compile(r"\bhttps?://[^\s<>\"`]*[^\s<>\"`.,;:!?'()\[\]*_]")

IMAGE = re.compile(r"<img\b[^<>]{0,4000}>", re.IGNORECASE)
SOURCE = re.compile(r"\ssrc\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))", re.IGNORECASE)
WORDS = re.compile(r"\salt\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)

Locate = Callable[[str, bool], str | None]  # (address without a scheme, or of an image; whether an image) -> address


def body_of(card: str) -> str:
    """A card without its front matter."""
    return FRONT_MATTER.sub("", card, count=1)


def rendered(text: str, locate: Locate) -> Markup:
    """Safe HTML of a card's body. Takes up to some seconds.

    `locate` gives the addresses of what is on this hub, and None for what is elsewhere: it is asked about every
    relative address, and about every address of an image.
    """
    text = text[:CARD_LIMIT]
    if any(paragraph.count("[") > MOST_BRACKETS for paragraph in BLANK_LINE.split(text)):
        return Markup("<pre>{}</pre>").format(text)
    parser = _parser()
    tokens = parser.parse(text)
    _mark_tasks_and_alerts(tokens)
    for token in tokens:
        if token.type == "inline" and token.children:
            token.children = _with_links(token.children)
        elif side := str(token.attrs.pop("style", "")):  # only cells have one: how their column is aligned
            token.attrSet("align", side.removeprefix("text-align:"))
    html = parser.renderer.render(tokens, parser.options, {})
    html = IMAGE.sub(lambda found: _or_words(found, locate), html)

    def filtered(element: str, attribute: str, value: str) -> str | None:
        if attribute == "id":
            return f"card-{value}"[:100]
        if attribute == "class":
            return value if CLASSES.fullmatch(value) else None
        if attribute == "href":
            return _link(value, locate)
        if attribute == "src":
            return _image(value, locate)
        return value

    clean = nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=filtered,
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(_with_anchors(clean))


@cache
def _parser() -> MarkdownIt:
    options = {"html": True, "linkify": False, "maxNesting": DEEPEST}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"]).use(tasklists_plugin)


def _mark_tasks_and_alerts(tokens: list[Token]) -> None:
    """The box of `- [x] done` becomes a character, as the page has no inputs, and `> [!NOTE]` gets its heading."""
    for outer, paragraph, inline in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if paragraph.type != "paragraph_open" or not inline.children:
            continue
        if outer.type == "list_item_open" and outer.attrs.get("class") == "task-list-item":
            done = "checked=" in inline.children[0].content
            box = "\N{BALLOT BOX WITH CHECK}" if done else "\N{BALLOT BOX}"
            inline.children[0] = Token("text", "", 0, content=box)
        if outer.type != "blockquote_open" or inline.children[0].type != "text":
            continue
        if (alert := ALERT.match(inline.content)) and alert[1].upper() in ALERTS:
            kind = alert[1].upper()
            del inline.children[: 2 if len(inline.children) > 1 else 1]  # its text, and the line's end
            title = Token("html_inline", "", 0, content=f"<strong>{ALERTS[kind]}</strong><br>")
            inline.children.insert(0, title)
            outer.attrSet("class", f"alert {kind.lower()}")


def _with_links(children: list[Token]) -> list[Token]:
    """Addresses that stand in the text become links, unless they are part of one."""
    made: list[Token] = []
    inside = 0
    for child in children:
        if child.type in ("link_open", "link_close"):
            inside += child.nesting
        elif child.type == "html_inline" and re.match(r"</?a\b", child.content, re.IGNORECASE):
            inside += -1 if child.content.startswith("</") else 1
        if child.type != "text" or inside > 0:
            made.append(child)
            continue
        end = 0
        for found in BARE.finditer(child.content):
            made.append(Token("text", "", 0, content=child.content[end : found.start()]))
            made.append(Token("link_open", "a", 1, attrs={"href": found[0]}))
            made.append(Token("text", "", 0, content=found[0]))
            made.append(Token("link_close", "a", -1))
            end = found.end()
        made.append(Token("text", "", 0, content=child.content[end:]))
    return made


def _link(address: str, locate: Locate) -> str | None:
    if address.startswith("#"):
        return f"#card-{address[1:]}"
    scheme, host = _split(address)
    if scheme in ("http", "https", "mailto"):
        return address
    return None if scheme or host else locate(address.strip(), False)


def _image(address: str, locate: Locate) -> str | None:
    """Images of this hub only: one from elsewhere would tell its host who reads the card."""
    scheme, host = _split(address)
    if scheme == "data":
        return address if re.match(r"data:image/(png|jpeg|gif|webp);base64,", address) else None
    if scheme not in ("", "http", "https") or (host and not scheme):
        return None
    return locate(address.strip(), True)


def _or_words(found: re.Match[str], locate: Locate) -> str:
    """An image that will be shown as it is; of another its words. The sanitiser comes after this."""
    source, words = SOURCE.search(found[0]), WORDS.search(found[0])
    if source and _image(unescape(source[1] or source[2] or source[3] or ""), locate):
        return found[0]
    return (words[1] or words[2] or "") if words else ""


def _split(address: str) -> tuple[str, str]:
    """Scheme and host; a scheme that nobody takes for what is no address."""
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return ("bad", "")
    return parts.scheme, parts.netloc


def _with_anchors(html: str) -> str:
    """Headings get an id made of their words, so that a table of contents leads to them.

    Made of the HTML, as many cards write their headings in HTML, which the parser's plugin for anchors does not see.
    """
    seen: dict[str, int] = {}

    def anchored(match: re.Match[str]) -> str:
        words = re.sub(r"<[^>]*>|&[a-z#0-9]+;", "", match[3]).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")[:80]
        if not name:
            return match[0]
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}-{seen[name] - 1}"
        return f'<h{match[1]}{match[2]} id="card-{name}">{match[3]}</h{match[1]}>'

    return HEADING.sub(anchored, html)
