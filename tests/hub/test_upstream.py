"""The client library's own tests that talk to a Hub, against this one: on demand, as they are downloaded first."""

import sys

import pytest

from tests.hub.upstream.__main__ import left_out, main, wanted

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.mark.parametrize("backend", [[], ["--postgres"], ["--postgres", "--s3"]], ids=["sqlite", "postgres", "s3"])
def test_the_clients_own_tests_pass(monkeypatch, backend):
    assert len(wanted()) + len(left_out()) == 236
    monkeypatch.setattr(sys, "argv", ["upstream", *backend])
    assert main() == 0
