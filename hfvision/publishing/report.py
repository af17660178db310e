"""What a push did: for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PushReport:
    """The commit and what it holds; paths are those in the repository."""

    repo_id: str
    url: str
    revision: str  # the branch, or that of the pull request
    commit: str  # its sha; of a push without differences, that of the branch's head
    model_class: str
    licence: str
    created: bool  # the repository, by this push
    private: bool
    pull_request: str | None = None  # its address
    sent: Mapping[str, int] = field(default_factory=dict)  # path -> bytes, of files that are new or differ
    replaced: tuple[str, ...] = ()  # of them, those that were there with other content
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()  # weights of the former model, which nothing refers to any more
    kept: tuple[str, ...] = ()  # files of the repository that this push did not touch
    left_out: Mapping[str, str] = field(default_factory=dict)  # of the folder -> reason
    changed: tuple[str, ...] = ()  # what was sent otherwise than it lies in the folder
    notes: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """The report for people, several lines."""
        if self.sent or self.removed:
            amount = f"{len(self.sent)} files, {sum(self.sent.values()):,} bytes, in commit {self.commit[:12]}"
        else:
            amount = f"nothing to send: commit {self.commit[:12]} holds these files already"
        visibility = "private" if self.private else "public"
        state = f"{'new, ' if self.created else ''}{visibility}, licence {self.licence}"
        lines = [f"{self.model_class} on {self.repo_id} ({state}), {self.revision}: {amount}"]
        lines += [f"pull request: {self.pull_request}"] if self.pull_request else []
        lists = {"replaced": self.replaced, "removed": self.removed, "unchanged": self.unchanged, "kept": self.kept}
        lines += [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        for what, entries in {"changed": self.changed, "note": self.notes, "checked": self.checked}.items():
            lines += [f"{what}: {line}" for line in entries]
        return "\n".join(lines)
