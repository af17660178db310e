"""What is in a dataset: rows of its parquet files with their images, or the images of its folders."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import files, refs
from hfvision.hub.errors import BadRequest, HubError, NotFound
from hfvision.hub.http.answers import quoted
from hfvision.hub.names import whole_number
from hfvision.hub.repositories import Repo
from hfvision.hub.web.rendering import page
from hfvision.hub.web.shared import repo_values
from hfvision.hub.web.visits import Visit

ROWS = 20  # of a table
TILES = 60  # of a page of images
FIRST = 12  # images on the card's page
LISTED = 2000  # files that are looked at
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")
LARGEST_TILE = 8 << 20  # bytes of an image that is shown as it is
FARTHEST = 10_000_000  # rows


@dataclass(frozen=True)
class Tile:
    """One image of a gallery: `address` is a data address, or a path below the repository's page."""

    address: str
    caption: str
    small: bool  # enlarge it pixel by pixel


@dataclass(frozen=True)
class Contents:
    """The files of a dataset that can be shown."""

    tables: list[files.Entry]
    images: list[files.Entry]


async def viewer(request: Request, visit: Visit, repo: Repo) -> Response:
    """`?file=data/train.parquet&row=20`, or pages of images; `revision` is main unless given."""
    query = request.query_params
    revision = query.get("revision") or "main"
    row = _number(query.get("row", "0"))
    commit = await run_in_threadpool(lambda: refs.resolve(visit.hub, repo, revision))
    contents = await run_in_threadpool(lambda: contents_of(visit, repo, commit))
    values: dict[str, Any] = repo_values(repo, "viewer", revision) | {
        "commit": commit,
        "files": contents.tables,
        "file": None,
        "table": None,
        "tiles": [],
        "problem": None,
        "row": row,
        "before": None,
        "after": None,
        "total": 0,
        "step": ROWS,
    }

    def leap(to: int) -> str:
        kept = [(name, value) for name in ("file", "revision") if (value := query.get(name))]
        return urlencode([*kept, ("row", to)])

    if contents.tables:
        chosen = query.get("file") or contents.tables[0].path
        if chosen not in [entry.path for entry in contents.tables]:
            raise NotFound("This dataset has no such parquet file.")
        values["file"] = chosen
        try:
            table = await run_in_threadpool(lambda: visit.previews.rows(repo, commit, chosen, row, ROWS))
            values |= {"table": table, "total": table.total}
        except HubError as error:
            values["problem"] = error.message
    else:
        values |= {
            "tiles": [_tile(entry, commit) for entry in contents.images[row : row + TILES]],
            "total": len(contents.images),
            "step": TILES,
        }
    if row > 0:
        values["before"] = leap(max(0, row - values["step"]))
    if row + values["step"] < values["total"]:
        values["after"] = leap(row + values["step"])
    return page(request, "viewer.html", **values)


async def first_images(visit: Visit, repo: Repo, commit: str) -> list[Tile]:
    """Some images for the card's page; none where there are none, or where they cannot be read quickly."""
    try:
        contents = await run_in_threadpool(lambda: contents_of(visit, repo, commit))
        if not contents.tables:
            step = max(1, len(contents.images) // FIRST)
            return [_tile(entry, commit) for entry in contents.images[::step][:FIRST]]
        path = contents.tables[0].path
        table = await run_in_threadpool(lambda: visit.previews.rows(repo, commit, path, 0, ROWS))
    except HubError:
        return []
    found = []
    for row in table.rows:
        image = next((cell for cell in row.values() if "image" in cell), None)
        if image is not None:
            text = next((cell["text"] for cell in row.values() if len(cell.get("text", " " * 99)) <= 40), "")
            found.append(Tile(image["image"], text, max(image["size"]) < 64))
    return found[:FIRST]


def contents_of(visit: Visit, repo: Repo, commit: str) -> Contents:
    """The first files of a revision that can be shown."""
    entries: list[files.Entry] = []
    cursor = None
    while len(entries) < LISTED:
        found = files.list_tree(visit.hub, repo, commit, recursive=True, limit=1000, cursor=cursor)
        entries += [entry for entry in found.items if entry.kind == "file"]
        cursor = found.cursor
        if cursor is None:
            break
    tables = [entry for entry in entries if entry.path.lower().endswith(".parquet")]
    order = {"train": 0, "validation": 1, "test": 2}
    tables.sort(
        key=lambda entry: (min((at for name, at in order.items() if name in entry.path), default=3), entry.path)
    )
    images = [
        entry for entry in entries if entry.path.lower().endswith(IMAGE_ENDINGS) and 0 < entry.size <= LARGEST_TILE
    ]
    return Contents(tables, images)


def _tile(entry: files.Entry, commit: str) -> Tile:
    return Tile(f"download/{commit}/{quoted(entry.path)}", entry.path, False)


def _number(text: str) -> int:
    number = whole_number(text, 8)
    if number is None or number > FARTHEST:
        raise BadRequest(f'"row" must be a number from 0 to {FARTHEST:,}, got {text[:40]!r}.')
    return number
