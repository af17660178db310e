"""One request for a page."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from hfvision.hub.accounts import Caller
from hfvision.hub.instance import Hub
from hfvision.hub.try_it.models import ModelTrials
from hfvision.hub.try_it.previews import Previews

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Visit:
    """The hub, who reads, and the processes that answer beside the server."""

    hub: Hub
    caller: Caller
    trials: ModelTrials
    previews: Previews


async def off_loop(work: Callable[[], Answer]) -> Answer:
    """Run what reads the database or the store in a thread: services are synchronous."""
    return await run_in_threadpool(work)
