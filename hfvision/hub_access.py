"""Being a client of a Hub through huggingface_hub: its errors as one kind of our own, and no bars of its own."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hfvision.errors import HubAccessError


@contextmanager
def hub_errors(endpoint: str) -> Iterator[None]:
    """What huggingface_hub and the connection raise becomes one HubAccessError that names the endpoint."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # the base class of all errors of its HTTP client, which is httpx or, since its version 2, httpx2
    of_client = [base for base in HfHubHTTPError.__bases__ if base.__name__ == "HTTPError"]
    known: tuple[type[Exception], ...] = (HFValidationError, OfflineModeIsEnabled, ConnectionError, *of_client)
    try:
        yield
    except known as error:
        raise HubAccessError(f"{endpoint}: {' '.join(str(error).split())}") from error


@contextmanager
def quiet_client() -> Iterator[None]:
    """No progress bars and no remarks of huggingface_hub: whoever calls says what happens."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    if shown:
        disable_progress_bars()
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            enable_progress_bars()
