"""Alembic's way in: it runs this file to apply revisions, on the connection and in the transaction of `migrate`."""

from alembic import context

from hfvision.hub.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
