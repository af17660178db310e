"""Fixtures that huggingface_hub's own tests ask for: its source distribution ships the tests without their conftest.

Copied as `conftest.py` into the folder of the downloaded tests; HF_ENDPOINT names the hub under test.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, Protocol

import pytest
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError

from . import testing_constants

testing_constants.ENDPOINT_STAGING = os.environ["HF_ENDPOINT"]

from .testing_constants import ENDPOINT_PRODUCTION, TOKEN, USER  # noqa: E402
from .testing_utils import repo_name  # noqa: E402


class RepoFactory(Protocol):
    """Makes a repository with a name of its own (or a given one) that is gone after the test."""

    def __call__(self, repo_type: str | None = None, **kwargs: Any) -> RepoUrl: ...


@pytest.fixture(scope="session")
def api() -> HfApi:
    return HfApi(endpoint=testing_constants.ENDPOINT_STAGING, token=TOKEN)


@pytest.fixture(scope="session")
def api_prod() -> HfApi:
    return HfApi(endpoint=ENDPOINT_PRODUCTION, token=False)


@pytest.fixture
def repo_factory(api: HfApi) -> Iterator[RepoFactory]:
    with ExitStack() as stack:

        def make(repo_type: str | None = None, **kwargs: Any) -> RepoUrl:
            kwargs.setdefault("repo_id", repo_name())
            url = api.create_repo(repo_type=repo_type, **kwargs)
            stack.callback(remove, api, url, repo_type, kwargs.get("token"))
            return url

        yield make


def remove(api: HfApi, url: RepoUrl, repo_type: str | None, token: str | None) -> None:
    with suppress(HfHubHTTPError):  # the test itself gave it away
        api.delete_repo(url.repo_id, repo_type=repo_type, token=token, missing_ok=True)


@pytest.fixture
def new_repo_id(api: HfApi) -> Iterator[str]:
    repo_id = f"{USER}/{repo_name()}"
    yield repo_id
    api.delete_repo(repo_id, missing_ok=True)
