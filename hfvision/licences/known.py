"""The licences that weights come under, and which of two is the stricter.

`Tier` is the merge order: of several parents the one of the highest tier wins, within a tier the one that asks for
more. A licence of a lower tier asks for nothing that one of a higher tier forbids, so what is published under the
stricter terms, with the notices of all parents, keeps to all of them; where that is not so, `conflict` says it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from hfvision.errors import ConfigError

SEGFORMER = "nvidia-source-code-license-segformer"


class Tier(IntEnum):
    """How much a licence asks for; each tier asks for more than the one before."""

    PUBLIC_DOMAIN = 0  # nothing
    NOTICE = 1  # that copies carry notice and text, and say what was changed
    SHARE_ALIKE = 2  # that what is made from it comes under the same licence
    USE_RULES = 3  # that uses which the licence lists stay out, of what is made from it as well
    NON_COMMERCIAL = 4  # no commercial use, of what is made from it as well
    UNSTATED = 5  # nobody gave a permission that hfvision can read: nothing is allowed until somebody does


@dataclass(frozen=True)
class Licence:
    """One licence; `key` is the Hub's identifier or, where the Hub has none, the `license_name` of model cards."""

    key: str
    name: str
    tier: Tier
    commercial: bool | None  # whether commercial use is allowed; None: not known
    allows: str
    carry: tuple[str, ...]  # what a card and a copy must have
    url: str | None = None
    share_alike: bool = False  # whether what is made from it must come under this very licence
    on_hub: bool = True  # whether `key` is an identifier of the Hub; else cards say "other" and the name
    banner: str | None = None  # what the card says first
    text: str | None = None  # file of this package that holds the full text, where copies must have it
    weight: int = 0  # within its tier: how much it asks for

    @property
    def hub(self) -> str:
        """The `license` of a model card."""
        return self.key if self.on_hub else "other"

    @property
    def stated(self) -> bool:
        return self.key != "unknown"

    def front_matter(self) -> dict[str, str]:
        """`license`, and where the Hub does not know it also `license_name` and `license_link`."""
        if self.on_hub:
            return {"license": self.key}
        link = {"license_link": self.url} if self.url else {}
        return {"license": "other", "license_name": self.key, **link}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "license": self.key,
            "hub": self.front_matter(),
            "name": self.name,
            "url": self.url,
            "tier": self.tier.name.lower(),
            "commercial": self.commercial,
            "share_alike": self.share_alike,
            "allows": self.allows,
            "carry": list(self.carry),
            "banner": self.banner,
        }


_FREE = "use, change and pass on, commercially too"
_NOTICE = ("the licence's text", "the authors' copyright notices")
_NO_NC = "use, change and pass on, not commercially"


def _creative_commons(key: str, version: str) -> Licence:
    """cc-by, with -sa (share alike), -nc (not commercially) and -nd (nothing made from it), as the key says."""
    terms = key.removesuffix(f"-{version}").removeprefix("cc-").split("-")
    words = {"by": "Attribution", "nc": "NonCommercial", "sa": "ShareAlike", "nd": "NoDerivatives"}
    commercial, changes = "nc" not in terms, "nd" not in terms
    code = "-".join(terms)
    allows = _FREE if commercial else _NO_NC
    if not changes:
        allows = f"use and pass on unchanged{'' if commercial else ', not commercially'}; nothing made from it"
    banner = None if commercial else "Non-commercial: these weights may not be used commercially, nor may fine-tunes."
    return Licence(
        key=key,
        name=f"Creative Commons {'-'.join(words[term] for term in terms)} {version}",
        tier=Tier.NON_COMMERCIAL if not commercial else Tier.NOTICE if terms == ["by"] else Tier.SHARE_ALIKE,
        commercial=commercial,
        allows=allows,
        carry=(
            "the authors' names and the source",
            "a link to the licence",
            "what was changed",
            *(("the same licence for what is made from it",) if "sa" in terms else ()),
            *(("the restriction to non-commercial use",) if not commercial else ()),
        ),
        url=f"https://creativecommons.org/licenses/{code}/{version}/",
        share_alike="sa" in terms,
        banner=banner,
        weight=len(terms) + 2,
    )


def _copyleft(key: str, name: str, weight: int) -> Licence:
    return Licence(
        key,
        name,
        Tier.SHARE_ALIKE,
        True,
        _FREE,
        (*_NOTICE, "the same licence for what is made from it"),
        f"https://www.gnu.org/licenses/{key}.html",
        share_alike=True,
        weight=weight,
    )


UNKNOWN = Licence(
    key="unknown",
    name="no licence stated",
    tier=Tier.UNSTATED,
    commercial=None,
    allows="nothing, until its authors say what",
    carry=("a licence: ask the authors, and state it with --license",),
    weight=1,
)

_ROWS = (
    Licence("cc0-1.0", "Creative Commons Zero 1.0", Tier.PUBLIC_DOMAIN, True, _FREE, (), None),
    Licence("unlicense", "The Unlicense", Tier.PUBLIC_DOMAIN, True, _FREE, (), "https://unlicense.org"),
    Licence("mit", "MIT License", Tier.NOTICE, True, _FREE, _NOTICE, "https://opensource.org/license/mit", text="mit"),
    Licence(
        "bsd-3-clause",
        "BSD 3-Clause License",
        Tier.NOTICE,
        True,
        _FREE,
        (*_NOTICE, "no use of the authors' names to advertise"),
        "https://opensource.org/license/bsd-3-clause",
        weight=1,
    ),
    Licence(
        "apache-2.0",
        "Apache License 2.0",
        Tier.NOTICE,
        True,
        f"{_FREE}, with a grant of patents",
        (*_NOTICE, "what was changed", "the NOTICE file, where the source has one"),
        "https://www.apache.org/licenses/LICENSE-2.0",
        text="apache-2.0",
        weight=2,
    ),
    *(
        _creative_commons(f"cc-{terms}-{version}", version)
        for terms in ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd")
        for version in ("2.0", "3.0", "4.0")
    ),
    _copyleft("lgpl-3.0", "GNU Lesser General Public License 3.0", 0),
    _copyleft("gpl-3.0", "GNU General Public License 3.0", 1),
    _copyleft("agpl-3.0", "GNU Affero General Public License 3.0", 2),
    *(
        Licence(
            key,
            name,
            Tier.USE_RULES,
            True,
            f"{_FREE}, but for the uses that the licence lists",
            (*_NOTICE, "the list of uses that are not allowed, as terms of what is made from it"),
            "https://www.licenses.ai/ai-licenses",
        )
        for key, name in (
            ("openrail", "Open RAIL"),
            ("openrail++", "CreativeML Open RAIL++-M"),
            ("creativeml-openrail-m", "CreativeML Open RAIL-M"),
            ("bigscience-openrail-m", "BigScience Open RAIL-M"),
        )
    ),
    Licence(
        SEGFORMER,
        "NVIDIA Source Code License for SegFormer",
        Tier.NON_COMMERCIAL,
        False,
        "use, change and pass on, for research or evaluation only (section 3.3)",
        (
            "the full text of the licence as LICENSE (section 3.1)",
            "all notices of the source, unchanged (section 3.1)",
            "the limit to research or evaluation, as a term of what is made from it (section 3.2)",
            "no use of NVIDIA's names and marks (section 3.5)",
        ),
        "https://github.com/NVlabs/SegFormer/blob/master/LICENSE",
        on_hub=False,
        banner=(
            "Research or evaluation only: the NVIDIA Source Code License for SegFormer, which travels with the weights "
            "as LICENSE, covers them and everything made from them, fine-tunes included. No commercial use."
        ),
        text=SEGFORMER,
        weight=9,
    ),
    UNKNOWN,
)
LICENCES: Mapping[str, Licence] = {row.key: row for row in _ROWS}

# Other spellings in cards: of hfvision's first converters, and of others who passed the weights on.
ALIASES = {
    "nvidia-source-code-license-for-segformer": SEGFORMER,
    "nvidia-segformer": SEGFORMER,
    "nvidia source code license for segformer": SEGFORMER,
    "cc-by-nc": "cc-by-nc-4.0",
    "apache-2": "apache-2.0",
    "apache 2.0": "apache-2.0",
}

# What the Hub takes as `license` beside those above: https://huggingface.co/docs/hub/repositories-licenses
HUB_IDENTIFIERS = Path(__file__).with_name("texts") / "hub-identifiers.txt"


def on_hub(identifier: str) -> bool:
    """Whether the Hub takes it as the `license` of a card."""
    if identifier in LICENCES:
        return LICENCES[identifier].on_hub
    return identifier in HUB_IDENTIFIERS.read_text(encoding="utf-8").split()


def licence_named(license: str | None, name: str | None = None, link: str | None = None) -> Licence:
    """The licence of a card's `license`, `license_name` and `license_link`; UNKNOWN for none.

    One that hfvision has no row for keeps its name and counts among those whose terms nobody here knows.
    """
    written = (name if name and license in (None, "", "other") else license) or ""
    key = ALIASES.get(written.lower(), written.lower())
    if not key:
        return UNKNOWN
    if key in LICENCES:
        return LICENCES[key]
    if key == "other":
        return UNKNOWN
    return Licence(
        key=written,
        name=written,
        tier=Tier.UNSTATED,
        commercial=None,
        allows="what its text says: hfvision does not know these terms",
        carry=("what its text asks for",),
        url=link,
        on_hub=on_hub(key),
    )


def strictest(licences: Iterable[Licence]) -> Licence:
    """The one that asks for most, by `Tier`. Raises ConfigError for none."""
    found = list(licences)
    if not found:
        raise ConfigError("strictest() compares licences; got none. A model without parents has its own licence.")
    return max(found, key=lambda licence: (licence.tier, licence.weight))


def conflict(licences: Iterable[Licence]) -> str | None:
    """Why no licence keeps to all of these, or None: one wants itself for all that is made from it, another more."""
    found = {licence.key: licence for licence in licences}.values()
    for one in found:
        others = [other for other in found if other is not one and other.tier >= Tier.SHARE_ALIKE and other.stated]
        if one.share_alike and others:
            return (
                f"{one.name} wants what is made from it under itself, and {others[0].name} asks for other terms: no "
                "licence keeps to both. Ask the authors of one of them before you pass the model on."
            )
    return None
