"""Answers kept for clients that ask again, and decisions kept for who asks why. Frozen."""

from __future__ import annotations

from alembic import op

from fastgw.storage.migrations.versions.v0001_initial import STAMPS, pg_words, run, sqlite_words

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = {
    # status: NULL while somebody is at it, 0 for an answer too large to be kept.
    "kept_answers": f"""
  id TEXT PRIMARY KEY,
  key_id TEXT NOT NULL,
  fingerprint BYTEA NOT NULL,
  owner TEXT NOT NULL,
  beat BIGINT NOT NULL DEFAULT 0,
  status BIGINT,
  streamed BIGINT NOT NULL DEFAULT 0 CHECK (streamed IN (0, 1)),
  fields BYTEA,
  body BYTEA,
  size BIGINT NOT NULL DEFAULT 0,
  expires_at BIGINT NOT NULL,
  {STAMPS}""",
    "decisions": f"""
  id TEXT PRIMARY KEY,
  key_id TEXT NOT NULL,
  decision TEXT NOT NULL,
  {STAMPS}""",
}
INDEXES = (
    "CREATE INDEX kept_answers_expires ON kept_answers (expires_at)",
    "CREATE INDEX kept_answers_owner ON kept_answers (owner) WHERE status IS NULL",
    "CREATE INDEX decisions_created ON decisions (created_at)",
)


def upgrade() -> None:
    """Make both."""
    if op.get_bind().dialect.name == "postgresql":
        for table, columns in TABLES.items():
            run(f"CREATE TABLE {table} ({pg_words(columns)})")
    else:
        for table, columns in TABLES.items():
            run(f"CREATE TABLE {table} ({sqlite_words(columns)}) STRICT")
    for statement in INDEXES:
        run(statement)


def downgrade() -> None:
    """Remove both."""
    for table in reversed(TABLES):
        run(f"DROP TABLE {table}")
