"""Licences of weights: what they allow, what a copy must carry, and what a fine-tune inherits.

    from hfvision.licences import licence_of, trace

    licence_of("segformer-b0-ade20k-512").commercial   # False
    print(trace("my-fine-tune").text())                # the chain of parents, and what their terms come to

Nothing here is legal advice: it repeats what authors state, and where. Terms of the training data are another matter;
the cards name them.
"""

from hfvision.licences.files import carries, licence_files, write_licence_files
from hfvision.licences.inheritance import LicenceReport, inherit, licence_of, of_parent, of_row, shown, trace
from hfvision.licences.known import LICENCES, UNKNOWN, Licence, Tier, conflict, licence_named, on_hub, strictest

__all__ = [
    "LICENCES",
    "UNKNOWN",
    "Licence",
    "LicenceReport",
    "Tier",
    "carries",
    "conflict",
    "inherit",
    "licence_files",
    "licence_named",
    "licence_of",
    "of_parent",
    "of_row",
    "on_hub",
    "shown",
    "strictest",
    "trace",
    "write_licence_files",
]
