"""A Hub server on your own machine or institute that unmodified Hugging Face clients push to and load from.

Below HTTP: `instance` (one opened hub: settings, database, store), `database`, `store`, `gitobjects`, and the services
`accounts`, `repositories`, `refs`, `commits`, `files`, `uploads`, `large_files`, `xet`, `cards`, `upkeep`. A service
is a module of functions that take the `Hub` first; each call is one database transaction. Imports neither torch nor
transformers.
"""

from importlib.util import find_spec

from hfvision.errors import NotInstalledError

NEEDED = [
    "blake3",
    "jinja2",
    "lz4",
    "markdown_it",
    "nh3",
    "obstore",
    "prometheus_client",
    "python_multipart",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "yaml",
]
if _absent := [name for name in NEEDED if find_spec(name) is None]:
    raise NotInstalledError(f"The hub needs {', '.join(_absent)}: pip install 'hfvision[hub]'")
