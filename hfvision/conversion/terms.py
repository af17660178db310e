"""The licence of converted weights: what the caller states, or what the authors of a published file stated.

Weights that are no published file are their maker's, who alone can say; until then the card says that nobody did.
"""

from hfvision.conversion.formats import Format
from hfvision.conversion.recognition import BY_NAME, Recognition
from hfvision.errors import ConfigError
from hfvision.licences import LicenceReport, inherit, licence_named, of_row


def check_stated(license: str | None) -> None:
    """Raises ConfigError for a stated licence that names none."""
    if license is not None and not licence_named(license).stated:
        raise ConfigError(
            f"license {license!r} names no licence. Give the Hub's identifier (apache-2.0, cc-by-4.0), or the name of "
            "your own, which the card then has as license_name; leave it out to state none."
        )


def terms_of(name: str, license: str | None, recognition: Recognition) -> LicenceReport:
    """The licence for the card of a model of that name; unknown where the weights are nobody's published ones."""
    published = of_row(recognition.rows[0]) if recognition.published else None
    if license is None and published is not None:
        return published
    return inherit(name, license, () if published is None else (published,))


def licence_line(license: str | None, recognition: Recognition, format: Format) -> str:
    """What the card says, why, and what to pass where that is not right."""
    terms = terms_of("", license, recognition)
    theirs = licence_named(format.license, format.license_name).key
    if license is not None:
        stricter = f"; {terms.licence.key} of the published file is stricter, and holds" if terms.overruled else ""
        return f"{terms.own.key}, as stated{stricter}"
    if recognition.published:
        sure = "its name, keys and shapes tell, and no sha256 of it is known: pass --license if the weights are others"
        return f"{terms.licence.key}, of the published file" + (f" that {sure}" if recognition.by == BY_NAME else "")
    return (
        f"none stated, since these are not known to be weights of {format.repository}, whose published files are under "
        f"{theirs}. State that of these weights with --license; weights trained from published ones keep to their terms"
    )


def licence_note(recognition: Recognition, format: Format) -> str:
    """The same for the card, true whatever licence is stated later."""
    theirs = licence_named(format.license, format.license_name).name
    if recognition.published:
        return f"The licence of the published file is that of {format.repository}."
    return (
        f"These are not known to be weights that {format.repository} published. Its files are under {theirs}, which "
        "also holds for what was trained from them."
    )
