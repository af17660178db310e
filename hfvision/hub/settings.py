"""What a hub needs to know before it opens: where its data lie and how much it accepts.

Every field can be given as an argument or as a variable `HFVISION_HUB_<FIELD>`; arguments win. Sizes are bytes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hfvision.errors import ConfigError

MIB = 1024**2
PREFIX = "HFVISION_HUB_"


@dataclass(frozen=True)
class HubSettings:
    """Settings of one hub; all of its processes must be given the same ones."""

    root: Path = Path("hub")  # folder of the embedded database and store
    database: str = ""  # SQLAlchemy URL; empty: SQLite in `root`
    store: str = ""  # folder, or an object store's URL such as s3://bucket/prefix; empty: a folder in `root`
    public_url: str = ""  # as clients write it, with any path prefix; empty: whatever host the client used
    secret: str = ""  # signs addresses, Xet tokens and cookies; empty: made on first start and kept in the database
    regular_limit: int = 1 * MIB  # larger files, and all binary ones, go to the store as large files
    preupload_limit: int = 1 * MIB  # body of one preupload call
    commit_limit: int = 200 * MIB  # body of one commit call
    file_limit: int = 1024 * 1024 * MIB  # one large file
    card_limit: int = 1 * MIB  # README.md or config.json that is read for metadata
    xorb_limit: int = 66 * MIB
    shard_limit: int = 64 * MIB
    multipart_above: int = 4096 * MIB  # LFS uploads over this come in parts
    part_size: int = 64 * MIB
    link_seconds: int = 3600  # life of a signed address or Xet token
    grace_seconds: int = 24 * 3600  # uploads that no commit took are kept this long
    page_size: int = 1000  # rows of one page of a list
    log_level: str = "INFO"  # DEBUG, INFO, WARNING or ERROR
    try_it: bool = True  # whether the pages let readers try models, in a process of its own
    try_seconds: int = 60  # that an answer may take, loading the model included
    try_memory: int = 8192 * MIB  # address space of that process
    try_model_limit: int = 2048 * MIB  # files of a model that can be tried
    try_image_limit: int = 16 * MIB
    try_pixels: int = 50_000_000  # of an image
    xet_downloads: bool = True  # offer files through Xet, too; plain downloads work either way

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).absolute())
        object.__setattr__(self, "public_url", self.public_url.rstrip("/"))
        small = [
            f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.type is int and getattr(self, f.name) < 1
        ]
        if small:
            raise ConfigError(f"a hub's sizes and times are at least 1; got {', '.join(small)}")
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ConfigError(f"a hub logs at DEBUG, INFO, WARNING or ERROR; got {self.log_level!r}")
        if self.secret and len(self.secret) < 16:
            raise ConfigError(f"the hub's secret has {len(self.secret)} characters; give at least 16 random ones")

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database; plain `postgresql://` means the psycopg driver."""
        if not self.database:
            return f"sqlite:///{self.root / 'hub.sqlite3'}"
        return self.database.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def store_url(self) -> str:
        """Folder or address of the object store."""
        return self.store or str(self.root / "store")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **given: Any) -> "HubSettings":
        """Settings from variables `HFVISION_HUB_*`; arguments that are not None win.

        Raises ConfigError listing every variable that is unknown or has a value of the wrong kind.
        """
        kinds = {f.name: f.type for f in fields(cls)}
        values: dict[str, Any] = {}
        problems = []
        for variable, text in environment.items():
            if not variable.startswith(PREFIX):
                continue
            name = variable.removeprefix(PREFIX).lower()
            if name not in kinds:
                problems.append(f"{variable} is unknown; a hub has {', '.join(PREFIX + k.upper() for k in kinds)}")
                continue
            try:
                values[name] = _parse(kinds[name], text)
            except ValueError:
                problems.append(f"{variable}={text!r} is not {'a whole number' if kinds[name] is int else '0 or 1'}")
        if problems:
            raise ConfigError("; ".join(problems))
        return cls(**{**values, **{name: value for name, value in given.items() if value is not None}})


def _parse(kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("0", "1", "false", "true"):
            raise ValueError
        return text.lower() in ("1", "true")
    return kind(text)
