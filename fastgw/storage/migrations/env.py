"""Run by Alembic with an open connection; `fastgw.storage.migrate` hands it over and commits."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # on SQLite too: the caller has begun the transaction
)
with context.begin_transaction():
    context.run_migrations()
