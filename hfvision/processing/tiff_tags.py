"""The tags of a TIFF, and of the EXIF data that other files hold in the same form: those that tell what samples are."""

import struct
from typing import IO

HEADS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # how a file begins: its byte order
BIG_TIFF = b"+"
WIDTH, HEIGHT, BITS, MEANING, ORIENTATION, SAMPLES, EXTRAS, FORMATS = 256, 257, 258, 262, 274, 277, 338, 339
WANTED = (WIDTH, HEIGHT, BITS, MEANING, ORIENTATION, SAMPLES, EXTRAS, FORMATS)
ENTRY_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # type of a tag -> of `struct`, for those that count something
MOST_NUMBERS = 1 << 16  # that one tag may hold: one for each band


def tiff_tags(file: IO[bytes], start: int) -> dict[int, tuple[int, ...]]:
    """The wanted tags of the first directory of what begins at `start`.

    Raises ValueError, LookupError or struct.error for what is damaged.
    """
    file.seek(start)
    head = file.read(16)
    order, big = HEADS[head[:4]], BIG_TIFF in head[2:4]
    place = struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "I", head[4:8])[0]
    file.seek(start + place)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if count > MOST_NUMBERS:
        raise ValueError(count)
    entry, inline = (20, 8) if big else (12, 4)
    table = file.read(entry * count)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(0, entry * count, entry):
        tag, form, numbers = struct.unpack(order + ("HHQ" if big else "HHI"), table[at : at + entry - inline])
        if tag not in WANTED or form not in ENTRY_FORMATS:
            continue
        if numbers > MOST_NUMBERS:
            raise ValueError(numbers)
        form = f"{order}{numbers}{ENTRY_FORMATS[form]}"
        stored = table[at + entry - inline : at + entry]
        if struct.calcsize(form) > inline:
            file.seek(start + struct.unpack(order + ("Q" if big else "I"), stored)[0])
            stored = file.read(struct.calcsize(form))
        tags[tag] = struct.unpack(form, stored[: struct.calcsize(form)])
    return tags
