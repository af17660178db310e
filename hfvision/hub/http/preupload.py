"""How to send each file: before every commit clients ask here (protocol section 6)."""

import base64
import binascii

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import uploads
from hfvision.hub.errors import BadRequest
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer
from hfvision.hub.http.finding import API, hub_of, repo_to_push_to
from hfvision.hub.routing import route
from hfvision.hub.uploads import Candidate

FILES_PER_CALL = 1000


def candidate(entry: bodies.Json) -> Candidate:
    sample = bodies.text(entry, "sample", "")
    try:
        start = base64.b64decode(sample, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest('"sample" must be base64.') from None
    return Candidate(bodies.text(entry, "path"), bodies.count(entry, "size"), start)


async def preupload(request: Request) -> Response:
    hub = hub_of(request)
    revision = request.path_params["revision"]
    repo = await repo_to_push_to(request, revision)
    body = await bodies.json_object(request, hub.settings.preupload_limit)
    candidates = [candidate(entry) for entry in bodies.objects(body, "files", FILES_PER_CALL)]
    gitignore = bodies.optional_text(body, "gitIgnore")
    plans = await run_in_threadpool(uploads.plan, hub, repo, revision, candidates, gitignore)
    return json_answer(
        {
            "files": [
                {"path": plan.path, "uploadMode": plan.mode, "shouldIgnore": plan.ignored, "oid": plan.oid}
                for plan in plans
            ]
        }
    )


ROUTES = (route("POST", API + "/preupload/{revision}", preupload),)
