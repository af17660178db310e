"""Routing on the raw path, ranges, and signed addresses: what needs no server."""

import pytest

from hfvision.hub.http.ranges import RangeNotSatisfiable, span_of
from hfvision.hub.routing import BadPathError, Router, route


async def nothing(request): ...


def other():
    async def handler(request): ...

    return handler


def test_segments_are_unquoted_after_the_path_is_split():
    router = Router([route("GET", "/{namespace}/{name}/resolve/{revision}/{path...}", nothing)])
    match = router.match(b"/me/x/resolve/refs%2Fpr%2F1/a%20b/c%23%25%3F%2Fd.txt", "GET")
    assert match.holes == {"namespace": "me", "name": "x", "revision": "refs/pr/1", "path": "a b/c#%?/d.txt"}


def test_fixed_words_win_over_holes_whatever_the_order_of_the_table():
    create, info = other(), other()
    for routes in ([("/api/repos/create", create), ("/api/{kinds}/{name}", info)],) * 2:
        for order in (routes, routes[::-1]):
            router = Router([route("POST", pattern, handler) for pattern, handler in order])
            assert router.match(b"/api/repos/create", "POST").handler is create
            assert router.match(b"/api/models/create", "POST").handler is info


def test_an_ending_belongs_to_the_segment_and_is_taken_off_the_hole():
    router = Router([route("POST", "/{namespace}/{name}.git/info/lfs", nothing)])
    assert router.match(b"/me/x.git/info/lfs", "POST").holes == {"namespace": "me", "name": "x"}
    assert router.match(b"/me/x/info/lfs", "POST").handler is None
    assert router.match(b"/me/.git/info/lfs", "POST").handler is None


def test_a_wrong_method_learns_the_right_ones_and_an_unknown_path_nothing():
    router = Router([route("GET", "/api/models", nothing), route("PUT", "/api/models", nothing)])
    assert router.match(b"/api/models", "DELETE").allowed == {"GET", "HEAD", "PUT"}
    assert router.match(b"/api/modelsx", "GET").allowed == frozenset()


def test_a_path_that_is_not_utf8_is_refused():
    with pytest.raises(BadPathError):
        Router([]).match(b"/a/%ff", "GET")


@pytest.mark.parametrize(
    ("header", "size", "start", "end", "partial"),
    [
        (None, 10, 0, 10, False),
        ("bytes=0-0", 10, 0, 1, True),
        ("bytes=3-", 10, 3, 10, True),
        ("bytes=3-99", 10, 3, 10, True),
        ("bytes=-4", 10, 6, 10, True),
        ("bytes=-40", 10, 0, 10, True),
        ("bytes=5-3", 10, 0, 10, False),
        ("bytes=0-1,3-4", 10, 0, 10, False),
        ("lines=0-1", 10, 0, 10, False),
        ("bytes=-", 10, 0, 10, False),
    ],
)
def test_a_range_header_names_the_bytes_that_the_rfc_says(header, size, start, end, partial):
    span = span_of(header, size)
    assert (span.start, span.end, span.partial) == (start, end, partial)


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=0-0", 0), ("bytes=-0", 10)])
def test_a_range_behind_the_end_tells_the_size(header, size):
    with pytest.raises(RangeNotSatisfiable) as caught:
        span_of(header, size)
    assert caught.value.headers == {"Content-Range": f"bytes */{size}"}
