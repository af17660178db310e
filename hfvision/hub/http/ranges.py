"""One byte range of a file (RFC 9110): what of it a request wants."""

import re
from dataclasses import dataclass

from hfvision.hub.errors import HubError


@dataclass(frozen=True)
class Span:
    """Bytes start..end (exclusive) of `size`; `partial` if the request asked for a range."""

    start: int
    end: int
    size: int
    partial: bool

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


class RangeNotSatisfiable(HubError):
    """The range begins behind the end of the file."""

    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})


def span_of(header: str | None, size: int) -> Span:
    """The bytes that a Range header wants: `a-b`, `a-` or `-n`. Raises RangeNotSatisfiable (416).

    Without a header, and for anything else (several ranges, other units), the whole file, as the RFC allows.
    """
    whole = Span(0, size, size, partial=False)
    fit = re.fullmatch(r"bytes=(\d{0,19})-(\d{0,19})", (header or "").strip().replace(" ", ""))
    if fit is None or not (fit[1] or fit[2]):
        return whole
    if not fit[1]:
        wanted = int(fit[2])
        if wanted == 0 or size == 0:
            raise RangeNotSatisfiable(size)
        return Span(max(0, size - wanted), size, size, partial=True)
    start, last = int(fit[1]), int(fit[2]) if fit[2] else size - 1
    if fit[2] and last < start:
        return whole
    if start >= size:
        raise RangeNotSatisfiable(size)
    return Span(start, min(last + 1, size), size, partial=True)
