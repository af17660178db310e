"""Cards as HTML: CommonMark with tables, sanitised, its relative addresses led to the repository's own files.

Whatever survives the sanitiser cannot run, submit, style or load anything from another host; the page's policy forbids
the same once more.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

CARD_LIMIT = 128 * 1024  # bytes of a card that are rendered
TAGS = {
    *("a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt", "em"),
    *("figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark", "ol"),
    *("p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td"),
    *("tfoot", "th", "thead", "tr", "u", "ul", "var"),
}
ATTRIBUTES = {
    "a": {"href", "title"},
    "img": {"src", "alt", "title", "width", "height"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
    "ol": {"start"},
    "details": {"open"},
    "*": {"id"},
}
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
DEEPEST = 100  # nested blocks and quotes
MOST_BRACKETS = 1000  # of one paragraph: the time that links take grows with their square
BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
HEADING = re.compile(r"<h([1-6])>(.*?)</h\1>", re.DOTALL)

Locate = Callable[[str, bool], str]  # (relative path, whether it is an image) -> address


def body_of(card: str) -> str:
    """A card without its front matter."""
    return FRONT_MATTER.sub("", card, count=1)


def rendered(text: str, locate: Locate) -> Markup:
    """Safe HTML of a card's body; `locate` gives addresses of the repository's files. Takes up to some seconds."""
    parser = MarkdownIt("commonmark", {"html": True, "linkify": False, "maxNesting": DEEPEST}).enable(
        ["table", "strikethrough"]
    )
    text = text[:CARD_LIMIT]
    if any(paragraph.count("[") > MOST_BRACKETS for paragraph in BLANK_LINE.split(text)):
        return Markup("<pre>{}</pre>").format(text)
    html = parser.render(text)

    def filtered(element: str, attribute: str, value: str) -> str | None:
        if attribute == "id":
            return f"card-{value}"[:100]
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


def _link(address: str, locate: Locate) -> str | None:
    if address.startswith("#"):
        return f"#card-{address[1:]}"
    scheme, host, path = _split(address)
    if scheme in ("http", "https", "mailto"):
        return address
    return None if scheme or host or not path else locate(path, False)


def _image(address: str, locate: Locate) -> str | None:
    """Images of the repository only: one from elsewhere would tell its host who reads the card."""
    scheme, host, path = _split(address)
    if scheme == "data":
        return address if re.match(r"data:image/(png|jpeg|gif|webp);base64,", address) else None
    return None if scheme or host or not path else locate(path, True)


def _split(address: str) -> tuple[str, str, str]:
    """Scheme, host and path; a scheme that nobody takes for what is no address."""
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return ("bad", "", "")
    return parts.scheme, parts.netloc, parts.path


def _with_anchors(html: str) -> str:
    """Headings get an id made of their words, so that a table of contents leads to them."""
    seen: dict[str, int] = {}

    def anchored(match: re.Match[str]) -> str:
        words = re.sub(r"<[^>]*>|&[a-z#0-9]+;", "", match[2]).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")[:80]
        if not name:
            return match[0]
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}-{seen[name] - 1}"
        return f'<h{match[1]} id="card-{name}">{match[2]}</h{match[1]}>'

    return HEADING.sub(anchored, html)
