"""Processes beside the server that look at what strangers made: models that are tried, tables that are previewed.

The server itself imports neither torch nor an image or parquet decoder. Each process bounds its own memory before it
reads anything, knows no secret, and is killed when it takes too long.
"""
