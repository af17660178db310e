"""A Hub server on your own machine or institute that unmodified Hugging Face clients push to and load from.

Below HTTP: `instance` (one opened hub: settings, database, store), `database`, `store`, `gitobjects`, and the services
`accounts`, `repositories`, `refs`, `commits`, `files`, `uploads`, `large_files`, `xet`, `cards`, `upkeep`. A service
is a module of functions that take the `Hub` first; each call is one database transaction. Imports neither torch nor
transformers.
"""
