"""Files inside tar archives, read where they lie: an address in an archive stands in for the path of a file."""

import re
from dataclasses import dataclass
from typing import Any

from hfvision.errors import ImageReadError

SCHEME = "tar://"
ADDRESS = re.compile(r"tar://(.+)::(\d+)\+(\d+)/(.*)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    name: str
    archive: str
    offset: int  # bytes
    size: int  # bytes

    @property
    def address(self) -> str:
        """What stands in for its path."""
        return f"{SCHEME}{self.archive}::{self.offset}+{self.size}/{self.name}"

    def read(self) -> bytes:
        """Its content. Raises ImageReadError where the archive changed or ends early."""
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise ImageReadError(f"{self.name} in {self.archive} cannot be read: {error}") from error
        if len(content) < self.size:
            raise ImageReadError(f"{self.name} in {self.archive} is cut off: {len(content):,} of {self.size:,} bytes")
        return content


def member_at(address: str) -> Member | None:
    """The member of an address; None for paths that are none."""
    found = ADDRESS.fullmatch(address) if address.startswith(SCHEME) else None
    return None if found is None else Member(found[4], found[1], int(found[2]), int(found[3]))


def with_content(cell: Any) -> Any:
    """A cell whose path is an address in an archive, with the bytes of the file; other cells as they are."""
    path = cell.get("path") if isinstance(cell, dict) and cell.get("bytes") is None else None
    member = member_at(path) if isinstance(path, str) else None
    return cell if member is None else {"bytes": member.read(), "path": member.name}
