"""What the hub answers when it cannot do what was asked: status, error code and one sentence (protocol section 2).

Services raise these; the HTTP layer maps `status`, `code` (`X-Error-Code`) and `headers` to the answer unchanged.
"""

from typing import ClassVar

from hfvision.errors import HfvisionError


class HubError(HfvisionError):
    """Base class. `status` is the HTTP status, `code` the `X-Error-Code` or None, `headers` go with the answer."""

    status: int = 400
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, headers: dict[str, str] | None = None, url: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers or {}
        self.url = url  # of the thing that exists already, relative to the endpoint: clients read it from the body


class BadRequest(HubError):
    """The request is understood and cannot work: a bad name, a missing field, a wrong value."""


class BadToken(HubError):
    """The token is unknown or expired."""

    status = 401

    def __init__(self) -> None:
        super().__init__("Invalid credentials in Authorization header")  # clients match these words


class LoginNeeded(HubError):
    """The call needs a token and none came."""

    status = 401

    def __init__(self, message: str = "This call needs a token: log in, or set HF_TOKEN.") -> None:
        super().__init__(message)


class Forbidden(HubError):
    """The caller sees the thing and may not do this with it."""

    status = 403


class RepoNotFound(HubError):
    """No such repository, or one that the caller may not see: the two are never told apart."""

    status = 404
    code = "RepoNotFound"

    def __init__(self, anonymous: bool) -> None:
        super().__init__("Repository not found")
        if anonymous:
            self.status = 401


class RevisionNotFound(HubError):
    """No such branch, tag or commit in this repository."""

    status = 404
    code = "RevisionNotFound"


class EntryNotFound(HubError):
    """No such file or folder in this revision; answers carry `X-Repo-Commit`, so that clients remember it."""

    status = 404
    code = "EntryNotFound"

    def __init__(self, message: str, commit: str) -> None:
        super().__init__(message, headers={"X-Repo-Commit": commit})


class NotFound(HubError):
    """An account, token, lock or upload session of that name does not exist."""

    status = 404


class GatedRepo(HubError):
    """The repository asks for consent first, and the caller has not been let in."""

    status = 403
    code = "GatedRepo"

    def __init__(self, kind: str, name: str, anonymous: bool) -> None:
        super().__init__(
            f"Access to {kind} {name} is restricted and you are not in the authorized list. "
            f"Visit its page to ask for access."
        )
        if anonymous:
            self.status = 401


class DisabledRepo(HubError):
    """The repository was switched off by the administrator."""

    status = 403

    def __init__(self) -> None:
        super().__init__("Access to this resource is disabled.")  # clients match these words


class Conflict(HubError):
    """A repository, branch, tag or move target of that name exists already."""

    status = 409


class ParentMismatch(HubError):
    """The branch has moved since the caller last looked."""

    status = 412

    def __init__(self) -> None:
        # clients match these words
        super().__init__("The branch was updated since you opened this page. Please refresh and try again.")


class TooLarge(HubError):
    """A body or file over its size cap."""

    status = 413


class BadPath(HubError):
    """A path that the hub refuses to store (protocol section 12)."""

    status = 422


class ChecksumMismatch(HubError):
    """Bytes that are not what their hash or size promised; nothing of them was kept."""

    status = 400
