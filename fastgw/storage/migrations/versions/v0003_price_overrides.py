"""Prices that differ from what is published: of a deployment, a provider, a team, a key."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = """
  id TEXT PRIMARY KEY,
  scope TEXT NOT NULL CHECK (scope IN ('deployment', 'provider', 'team', 'key')),
  match_value TEXT NOT NULL,
  model TEXT NOT NULL DEFAULT '*',
  multiplier_ppm BIGINT CHECK (multiplier_ppm >= 0),
  lines TEXT NOT NULL DEFAULT '{{}}' CHECK ({type_of_lines} = 'object'),
  starts_at BIGINT NOT NULL DEFAULT 0,
  ends_at BIGINT,
  enabled BIGINT NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
  tags TEXT NOT NULL DEFAULT '{{}}' CHECK ({type_of_tags} = 'object'),
  metadata TEXT NOT NULL DEFAULT '{{}}' CHECK ({type_of_metadata} = 'object'),
  deleted_at BIGINT,
  created_at BIGINT NOT NULL DEFAULT {now},
  updated_at BIGINT NOT NULL DEFAULT {now},
  CHECK ((multiplier_ppm IS NULL) <> (lines = '{{}}'))"""
JSON_COLUMNS = ("lines", "tags", "metadata")

SQLITE_NOW = (
    "(CAST(strftime('%s', 'now') AS INTEGER) * 1000"
    " + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER))"
)
NOTE = f"""UPDATE config_version SET version = version + 1, updated_at = {SQLITE_NOW} WHERE id = 1;
INSERT INTO config_changes (version, noun, object_id)
SELECT version, 'price_overrides', {{row}}.id FROM config_version"""
TOUCH = f"""UPDATE price_overrides SET updated_at = {SQLITE_NOW}
WHERE id = NEW.id AND updated_at = OLD.updated_at; """


def run(statement: str) -> None:
    """Send one statement as it is: a colon in it is no placeholder."""
    op.get_bind().exec_driver_sql(statement)


def upgrade() -> None:
    """Make the table, and note its changes."""
    if op.get_bind().dialect.name == "postgresql":
        types = {f"type_of_{name}": f"json_typeof({name}::json)" for name in JSON_COLUMNS}
        columns = COLUMNS.format(now="fastgw_now_ms()", **types)
        run(f"CREATE TABLE price_overrides ({columns})")
        for event, rows in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            run(
                f"CREATE TRIGGER price_overrides_note_{event.lower()} AFTER {event}"
                f" ON price_overrides REFERENCING {rows} TABLE AS changed"
                " FOR EACH STATEMENT EXECUTE FUNCTION fastgw_note_changes()"
            )
        run(
            "CREATE TRIGGER price_overrides_note_truncate AFTER TRUNCATE ON price_overrides"
            " FOR EACH STATEMENT EXECUTE FUNCTION fastgw_note_truncate()"
        )
        run(
            "CREATE TRIGGER price_overrides_touch BEFORE UPDATE ON price_overrides"
            " FOR EACH ROW EXECUTE FUNCTION fastgw_touch()"
        )
        return
    types = {
        f"type_of_{name}": f"CASE WHEN json_valid({name}) THEN json_type({name}) ELSE '' END"
        for name in JSON_COLUMNS
    }
    columns = COLUMNS.format(now=SQLITE_NOW, **types).replace("BIGINT", "INTEGER")
    run(f"CREATE TABLE price_overrides ({columns}) STRICT")
    for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
        touch = TOUCH if event == "UPDATE" else ""
        run(
            f"CREATE TRIGGER price_overrides_{event.lower()} AFTER {event} ON price_overrides"
            f" BEGIN {touch}{NOTE.format(row=row)}; END"
        )


def downgrade() -> None:
    """Remove the table."""
    run("DROP TABLE price_overrides")
