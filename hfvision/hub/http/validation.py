"""Checking a card before it is pushed: clients ask before every upload that holds a README.md (protocol section 4)."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub.cards import parse_card
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer
from hfvision.hub.http.callers import caller_of
from hfvision.hub.http.finding import hub_of, kind_in
from hfvision.hub.routing import route

ESCAPED = 6  # bytes that one character of a text can take in JSON


async def validate_yaml(request: Request) -> Response:
    """Errors (400) and warnings of a card's metadata; the same reading as at the commit."""
    hub = hub_of(request)
    await caller_of(request)
    body = await bodies.json_object(request, ESCAPED * hub.settings.card_limit + bodies.JSON_CAP)
    kind_in(bodies.optional_text(body, "repoType"))
    content = bodies.text(body, "content").lstrip()
    card = await run_in_threadpool(parse_card, content, hub.settings.card_limit)
    answer = {
        "errors": [{"message": message} for message in card.errors],
        "warnings": [{"message": message} for message in card.warnings],
    }
    if card.errors:
        return json_answer({**answer, "error": "; ".join(card.errors)}, 400)
    return json_answer(answer)


ROUTES = (route("POST", "/api/validate-yaml", validate_yaml),)
