"""What a licence means at a glance: the banner above a model or dataset."""

import re
from dataclasses import dataclass
from typing import Any

PERMISSIVE = {
    "afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0",
    "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "ecl-2.0", "isc", "mit", "ms-pl", "ncsa", "odc-by", "pddl", "postgresql", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
SHARE_ALIKE = (
    "agpl-", "cc-by-sa", "cdla-sharing", "epl-", "eupl-", "gfdl", "gpl", "lgpl", "lppl", "mpl-", "odbl", "osl-"
)  # fmt: skip
_LINK = re.compile(r"https?://\S{1,500}|(?![./])[A-Za-z0-9_./-]{1,200}")  # an address, or a file of the repository
ATTRIBUTION = ("cc-by", "odc-by", "cdla-permissive")


@dataclass(frozen=True)
class Banner:
    """A line above the card. `kind`: open, conditions or closed; the words say the same."""

    kind: str
    name: str
    text: str
    link: str | None = None


def licence_banner(card: dict[str, Any] | None) -> Banner:
    """The banner of a card's `license`, `license_name` and `license_link`."""
    card = card or {}
    given = card.get("license")
    names = [str(name).strip() for name in (given if isinstance(given, list) else [given]) if name][:5]
    link = card.get("license_link")
    link = link if isinstance(link, str) and _LINK.fullmatch(link) else None
    if not names:
        return Banner("closed", "No licence", "The card states none: without one nobody but the owner may use this.")
    name = ", ".join(names)
    kinds = {_kind(licence.lower()) for licence in names}
    if "closed" in kinds:
        return Banner("closed", name, "Non-commercial or no-derivatives terms: read them before you use this.", link)
    if "unknown" in kinds:
        called = card.get("license_name")
        name = str(called)[:100] if called and names == ["other"] else name
        return Banner("conditions", name, "Terms of its own: read them before you use this.", link)
    if "share" in kinds:
        return Banner("conditions", name, "Use and change it; what you pass on stays under the same licence.", link)
    credit = any(licence.lower().startswith(ATTRIBUTION) for licence in names)
    text = "Use, change and share it" + (", naming its authors." if credit else ", keeping its notices.")
    return Banner("open", name, text, link)


def _kind(licence: str) -> str:
    if "-nc" in licence or "-nd" in licence:
        return "closed"
    if licence in PERMISSIVE:
        return "open"
    return "share" if licence.startswith(SHARE_ALIKE) else "unknown"
