"""One request for a page."""

from dataclasses import dataclass

from hfvision.hub.accounts import Caller
from hfvision.hub.instance import Hub
from hfvision.hub.try_it.models import ModelTrials
from hfvision.hub.try_it.previews import Previews


@dataclass(frozen=True)
class Visit:
    """The hub, who reads, and the processes that answer beside the server."""

    hub: Hub
    caller: Caller
    trials: ModelTrials
    previews: Previews
