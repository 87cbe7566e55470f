"""The first schema. Frozen: a change is another migration.

Tables are written once, in PostgreSQL's words; SQLite gets INTEGER for BIGINT, BLOB for BYTEA and
its own functions. Only partitions, triggers and functions are written for each engine.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STAMPS = """
  created_at BIGINT NOT NULL DEFAULT {now},
  updated_at BIGINT NOT NULL DEFAULT {now}"""
LABELS = """
  tags TEXT NOT NULL DEFAULT '{{}}' CHECK ({type_of_tags} = 'object'),
  metadata TEXT NOT NULL DEFAULT '{{}}' CHECK ({type_of_metadata} = 'object'),"""
FLAG = "BIGINT NOT NULL DEFAULT {default} CHECK ({name} IN (0, 1))"
ENABLED = "enabled BIGINT NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),"
PRIORITY = "priority BIGINT CHECK (priority BETWEEN 0 AND 9),"
SUMS = """
  requests BIGINT NOT NULL DEFAULT 0,
  errors BIGINT NOT NULL DEFAULT 0,
  input_tokens BIGINT NOT NULL DEFAULT 0,
  output_tokens BIGINT NOT NULL DEFAULT 0,
  cached_tokens BIGINT NOT NULL DEFAULT 0,
  cache_write_tokens BIGINT NOT NULL DEFAULT 0,
  reasoning_tokens BIGINT NOT NULL DEFAULT 0,
  cost_nano BIGINT NOT NULL DEFAULT 0,
  duration_ms BIGINT NOT NULL DEFAULT 0,"""
SCOPES = "'key', 'user', 'team', 'org', 'model', 'provider', 'global', 'tag'"

TABLES = {
    "orgs": f"""
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  {ENABLED}
  expires_at BIGINT,
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "teams": f"""
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  org_id TEXT REFERENCES orgs (id),
  {ENABLED}
  {PRIORITY}
  expires_at BIGINT,
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "users": f"""
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  email TEXT,
  external_id TEXT,
  team_id TEXT REFERENCES teams (id),
  org_id TEXT REFERENCES orgs (id),
  {ENABLED}
  expires_at BIGINT,
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "api_keys": f"""
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  hash BYTEA NOT NULL,
  hint TEXT NOT NULL,
  user_id TEXT REFERENCES users (id),
  team_id TEXT REFERENCES teams (id),
  org_id TEXT REFERENCES orgs (id),
  {ENABLED}
  expires_at BIGINT,
  allowed_models TEXT NOT NULL DEFAULT '[]' CHECK ({{type_of_allowed_models}} = 'array'),
  allowed_ips TEXT NOT NULL DEFAULT '[]' CHECK ({{type_of_allowed_ips}} = 'array'),
  client_tags TEXT NOT NULL DEFAULT '[]' CHECK ({{type_of_client_tags}} = 'array'),
  {PRIORITY}
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "api_key_activity": f"""
  key_id TEXT PRIMARY KEY,
  last_used_at BIGINT NOT NULL,
  {STAMPS}""",
    "providers": f"""
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  type TEXT NOT NULL,
  base_url TEXT NOT NULL,
  credential BYTEA,
  credential_hint TEXT,
  models TEXT NOT NULL DEFAULT '[]' CHECK ({{type_of_models}} = 'array'),
  timeouts TEXT NOT NULL DEFAULT '{{{{}}}}' CHECK ({{type_of_timeouts}} = 'object'),
  headers TEXT NOT NULL DEFAULT '{{{{}}}}' CHECK ({{type_of_headers}} = 'object'),
  options TEXT NOT NULL DEFAULT '{{{{}}}}' CHECK ({{type_of_options}} = 'object'),
  position BIGINT NOT NULL DEFAULT 0,
  {ENABLED}
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "models": f"""
  id TEXT PRIMARY KEY,
  provider TEXT NOT NULL,
  name TEXT NOT NULL,
  mode TEXT NOT NULL DEFAULT 'chat',
  context_window BIGINT,
  max_output_tokens BIGINT,
  input_pico BIGINT,
  output_pico BIGINT,
  cached_pico BIGINT,
  cache_write_pico BIGINT,
  reasoning_pico BIGINT,
  per_request_pico BIGINT,
  prices TEXT NOT NULL DEFAULT '{{{{}}}}' CHECK ({{type_of_prices}} = 'object'),
  features TEXT NOT NULL DEFAULT '[]' CHECK ({{type_of_features}} = 'array'),
  deprecated_at BIGINT,
  source TEXT NOT NULL DEFAULT 'catalogue',
  overrides TEXT NOT NULL DEFAULT '{{{{}}}}' CHECK ({{type_of_overrides}} = 'object'),
  {ENABLED}
  {LABELS}
  deleted_at BIGINT,
  {STAMPS},
  UNIQUE (provider, name)""",
    "deployments": f"""
  id TEXT PRIMARY KEY,
  model TEXT NOT NULL,
  provider TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  weight BIGINT NOT NULL DEFAULT 1 CHECK (weight >= 0),
  position BIGINT NOT NULL DEFAULT 0,
  {ENABLED}
  {LABELS}
  {STAMPS},
  UNIQUE (model, provider, upstream_model)""",
    "fallbacks": f"""
  id TEXT PRIMARY KEY,
  model TEXT NOT NULL,
  fallback TEXT NOT NULL,
  position BIGINT NOT NULL DEFAULT 0,
  {STAMPS},
  UNIQUE (model, fallback)""",
    "model_aliases": f"""
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  model TEXT NOT NULL,
  billing_key_id TEXT REFERENCES api_keys (id),
  {ENABLED}
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "limits": f"""
  id TEXT PRIMARY KEY,
  scope TEXT NOT NULL CHECK (scope IN ({SCOPES})),
  match_value TEXT NOT NULL DEFAULT '*',
  metric TEXT NOT NULL CHECK (metric IN ('requests', 'tokens', 'concurrent')),
  limit_value BIGINT NOT NULL CHECK (limit_value >= 0),
  window_s BIGINT NOT NULL DEFAULT 60 CHECK (window_s > 0),
  algorithm TEXT NOT NULL DEFAULT 'sliding_window'
    CHECK (algorithm IN ('sliding_window', 'token_bucket')),
  burst BIGINT CHECK (burst > 0),
  shared {FLAG.format(default=0, name="shared")},
  {ENABLED}
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "budgets": f"""
  id TEXT PRIMARY KEY,
  scope TEXT NOT NULL CHECK (scope IN ({SCOPES})),
  match_value TEXT NOT NULL DEFAULT '*',
  limit_nano BIGINT NOT NULL CHECK (limit_nano >= 0),
  period TEXT NOT NULL CHECK (period IN ('day', 'week', 'month', 'total')),
  hard {FLAG.format(default=1, name="hard")},
  shared {FLAG.format(default=0, name="shared")},
  {ENABLED}
  {LABELS}
  deleted_at BIGINT,
  {STAMPS}""",
    "usage_daily": f"""
  day BIGINT NOT NULL,
  key_id TEXT NOT NULL DEFAULT '',
  user_id TEXT NOT NULL DEFAULT '',
  team_id TEXT NOT NULL DEFAULT '',
  org_id TEXT NOT NULL DEFAULT '',
  provider TEXT NOT NULL DEFAULT '',
  upstream_model TEXT NOT NULL DEFAULT '',
  requested_model TEXT NOT NULL DEFAULT '',
  {SUMS}
  {STAMPS},
  PRIMARY KEY
    (day, key_id, user_id, team_id, org_id, provider, upstream_model, requested_model)""",
    "usage_monthly": f"""
  month BIGINT NOT NULL,
  key_id TEXT NOT NULL DEFAULT '',
  user_id TEXT NOT NULL DEFAULT '',
  team_id TEXT NOT NULL DEFAULT '',
  org_id TEXT NOT NULL DEFAULT '',
  provider TEXT NOT NULL DEFAULT '',
  upstream_model TEXT NOT NULL DEFAULT '',
  requested_model TEXT NOT NULL DEFAULT '',
  {SUMS}
  {STAMPS},
  PRIMARY KEY
    (month, key_id, user_id, team_id, org_id, provider, upstream_model, requested_model)""",
    "usage_tags_daily": f"""
  day BIGINT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  {SUMS}
  {STAMPS},
  PRIMARY KEY (day, name, value)""",
    "catalog_syncs": f"""
  id TEXT PRIMARY KEY,
  source TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed')),
  finished_at BIGINT,
  added BIGINT NOT NULL DEFAULT 0,
  changed BIGINT NOT NULL DEFAULT 0,
  deprecated BIGINT NOT NULL DEFAULT 0,
  unchanged BIGINT NOT NULL DEFAULT 0,
  kept_overrides BIGINT NOT NULL DEFAULT 0,
  changes TEXT NOT NULL DEFAULT '[]' CHECK ({{type_of_changes}} = 'array'),
  error TEXT,
  {STAMPS}""",
    "admins": f"""
  id TEXT PRIMARY KEY,
  email TEXT NOT NULL,
  name TEXT NOT NULL DEFAULT '',
  password_hash TEXT NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
  token_version BIGINT NOT NULL DEFAULT 1,
  last_login_at BIGINT,
  {ENABLED}
  metadata TEXT NOT NULL DEFAULT '{{{{}}}}' CHECK ({{type_of_metadata}} = 'object'),
  deleted_at BIGINT,
  {STAMPS}""",
    "service_tokens": f"""
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  hash BYTEA NOT NULL,
  hint TEXT NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
  token_version BIGINT NOT NULL DEFAULT 1,
  expires_at BIGINT,
  last_used_at BIGINT,
  {ENABLED}
  metadata TEXT NOT NULL DEFAULT '{{{{}}}}' CHECK ({{type_of_metadata}} = 'object'),
  deleted_at BIGINT,
  {STAMPS}""",
    "admin_sessions": f"""
  id TEXT PRIMARY KEY,
  family TEXT NOT NULL,
  admin_id TEXT REFERENCES admins (id) ON DELETE CASCADE,
  service_token_id TEXT REFERENCES service_tokens (id) ON DELETE CASCADE,
  token_version BIGINT NOT NULL,
  refresh_hash BYTEA NOT NULL,
  expires_at BIGINT NOT NULL,
  used_at BIGINT,
  revoked_at BIGINT,
  {STAMPS},
  CHECK ((admin_id IS NULL) <> (service_token_id IS NULL))""",
    "audit_log": f"""
  id TEXT PRIMARY KEY,
  actor_type TEXT NOT NULL,
  actor_id TEXT,
  actor_name TEXT NOT NULL DEFAULT '',
  action TEXT NOT NULL,
  noun TEXT NOT NULL,
  object_id TEXT,
  before_json TEXT,
  after_json TEXT,
  address TEXT,
  request_id TEXT,
  {STAMPS}""",
    "config_version": f"""
  id BIGINT PRIMARY KEY CHECK (id = 1),
  version BIGINT NOT NULL,
  pruned_to BIGINT NOT NULL,
  {STAMPS}""",
    "config_changes": """
  version BIGINT NOT NULL,
  noun TEXT NOT NULL,
  object_id TEXT NOT NULL,
  at BIGINT NOT NULL DEFAULT {now},
  PRIMARY KEY (version, noun, object_id)""",
}

# Nothing here may be worked out row by row: IN makes SQLite build a table for each row, which costs
# as much as the row, and so does asking for the time.
USAGE_RECORDS = """
  id TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  request_id TEXT NOT NULL,
  key_id TEXT,
  user_id TEXT,
  team_id TEXT,
  org_id TEXT,
  tags TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  requested_model TEXT NOT NULL,
  provider TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  status BIGINT NOT NULL,
  attempts BIGINT NOT NULL,
  stream BIGINT NOT NULL,
  input_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  cached_tokens BIGINT NOT NULL,
  cache_write_tokens BIGINT NOT NULL,
  reasoning_tokens BIGINT NOT NULL,
  cost_nano BIGINT NOT NULL,
  usage_source TEXT NOT NULL CHECK (usage_source = 'reported' OR usage_source = 'partial'
    OR usage_source = 'estimated' OR usage_source = 'held'),
  duration_ms BIGINT NOT NULL,
  ttft_ms BIGINT,
  overhead_us BIGINT NOT NULL,
  error_code TEXT,
  updated_at BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (created_at, id)"""

INDEXES = (
    "CREATE UNIQUE INDEX orgs_name ON orgs (name) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX teams_name ON teams (name) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX users_email ON users (email) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX users_external_id ON users (external_id) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX api_keys_hash ON api_keys (hash)",
    "CREATE INDEX api_keys_created ON api_keys (created_at, id)",
    "CREATE INDEX api_keys_user ON api_keys (user_id)",
    "CREATE INDEX api_keys_team ON api_keys (team_id)",
    "CREATE UNIQUE INDEX providers_name ON providers (name) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX model_aliases_name ON model_aliases (name) WHERE deleted_at IS NULL",
    """CREATE UNIQUE INDEX limits_rule ON limits (scope, match_value, metric, window_s)
    WHERE deleted_at IS NULL""",
    """CREATE UNIQUE INDEX budgets_rule ON budgets (scope, match_value, period)
    WHERE deleted_at IS NULL""",
    "CREATE UNIQUE INDEX admins_email ON admins (email) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX service_tokens_name ON service_tokens (name) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX service_tokens_hash ON service_tokens (hash)",
    "CREATE UNIQUE INDEX admin_sessions_refresh ON admin_sessions (refresh_hash)",
    "CREATE INDEX admin_sessions_family ON admin_sessions (family)",
    "CREATE INDEX audit_log_created ON audit_log (created_at, id)",
    "CREATE INDEX usage_records_id ON usage_records (id)",
    "CREATE INDEX usage_records_held ON usage_records (created_at) WHERE usage_source = 'held'",
    "CREATE INDEX usage_daily_key ON usage_daily (key_id, day)",
    "CREATE INDEX usage_monthly_key ON usage_monthly (key_id, month)",
)
PG_INDEXES = ("CREATE INDEX usage_records_key ON usage_records (key_id, created_at)",)
"""SQLite plans before it knows the arguments, and a filter that may be NULL rules these out."""

CLUSTERED = ("usage_daily", "usage_monthly", "usage_tags_daily")
"""Tables that on SQLite are their primary key's index, and so are written once, not twice."""

NOTED = (
    "api_keys", "providers", "models", "deployments", "fallbacks", "model_aliases", "users",
    "teams", "orgs", "limits", "budgets",
)  # fmt: skip
"""Tables whose changes a running gateway must notice."""
TOUCHED = ("catalog_syncs", "admins", "service_tokens", "admin_sessions")
"""Tables that only keep `updated_at`."""

JSON_COLUMNS = (
    "tags", "metadata", "allowed_models", "allowed_ips", "client_tags", "models", "timeouts",
    "headers", "options", "prices", "features", "overrides", "changes",
)  # fmt: skip

# -- PostgreSQL ---------------------------------------------------------------------------------

PG_FUNCTIONS = (
    """
CREATE FUNCTION fastgw_now_ms() RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
  SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)
$$""",
    """
CREATE FUNCTION fastgw_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.updated_at = OLD.updated_at THEN
    NEW.updated_at = fastgw_now_ms();
  END IF;
  RETURN NEW;
END $$""",
    # The row lock on config_version is held until commit, so versions become visible in order.
    """
CREATE FUNCTION fastgw_note_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  next_version BIGINT;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM changed) THEN
    RETURN NULL;
  END IF;
  UPDATE config_version SET version = version + 1, updated_at = fastgw_now_ms()
    WHERE id = 1 RETURNING version INTO next_version;
  INSERT INTO config_changes (version, noun, object_id)
    SELECT next_version, TG_TABLE_NAME, id FROM changed;
  RETURN NULL;
END $$""",
    """
CREATE FUNCTION fastgw_note_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE config_version
    SET version = version + 1, pruned_to = version + 1, updated_at = fastgw_now_ms() WHERE id = 1;
  RETURN NULL;
END $$""",
    """
CREATE FUNCTION fastgw_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$""",
    # Rows of the month that strayed into the default partition move along.
    """
CREATE FUNCTION fastgw_make_usage_partition(month_start BIGINT) RETURNS TEXT
LANGUAGE plpgsql AS $$
DECLARE
  starts TIMESTAMP = to_timestamp(month_start / 1000) AT TIME ZONE 'UTC';
  month_end BIGINT = extract(epoch FROM starts + INTERVAL '1 month') * 1000;
  child TEXT = 'usage_records_' || to_char(starts, '"y"YYYY"m"MM');
BEGIN
  PERFORM pg_advisory_xact_lock(7341, 1);
  IF to_regclass(child) IS NOT NULL THEN
    RETURN NULL;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE usage_records INCLUDING ALL)', child);
  EXECUTE format('WITH strays AS (DELETE FROM usage_records_default'
    ' WHERE created_at >= %L AND created_at < %L RETURNING *)'
    ' INSERT INTO %I SELECT * FROM strays', month_start, month_end, child);
  EXECUTE format('ALTER TABLE usage_records ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
    child, month_start, month_end);
  RETURN child;
END $$""",
    """
CREATE FUNCTION fastgw_drop_usage_partition(child TEXT) RETURNS TEXT
LANGUAGE plpgsql AS $$
BEGIN
  IF child !~ '^usage_records_y[0-9]{4}m[0-9]{2}$' THEN
    RAISE EXCEPTION 'not a month of usage records: %', child;
  END IF;
  EXECUTE format('DROP TABLE %I', child);
  RETURN child;
END $$""",
)

PG_DROP = (
    "DROP FUNCTION fastgw_drop_usage_partition(TEXT)",
    "DROP FUNCTION fastgw_make_usage_partition(BIGINT)",
    "DROP FUNCTION fastgw_refuse()",
    "DROP FUNCTION fastgw_note_truncate()",
    "DROP FUNCTION fastgw_note_changes()",
    "DROP FUNCTION fastgw_touch()",
    "DROP FUNCTION fastgw_now_ms()",
)


def pg_triggers() -> list[str]:
    """Give the triggers of PostgreSQL: one note a statement, however many rows it changed."""
    made = []
    for table in NOTED:
        for event, rows in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            made.append(
                f"CREATE TRIGGER {table}_note_{event.lower()} AFTER {event} ON {table}"
                f" REFERENCING {rows} TABLE AS changed"
                f" FOR EACH STATEMENT EXECUTE FUNCTION fastgw_note_changes()"
            )
        made.append(
            f"CREATE TRIGGER {table}_note_truncate AFTER TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION fastgw_note_truncate()"
        )
    made += [
        f"CREATE TRIGGER {table}_touch BEFORE UPDATE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION fastgw_touch()"
        for table in (*NOTED, *TOUCHED)
    ]
    made += [
        f"CREATE TRIGGER audit_log_no_{event.lower()} BEFORE {event} ON audit_log"
        " FOR EACH STATEMENT EXECUTE FUNCTION fastgw_refuse()"
        for event in ("UPDATE", "DELETE", "TRUNCATE")
    ]
    return made


def pg_words(text: str) -> str:
    """Fill in PostgreSQL's words."""
    types = {f"type_of_{name}": f"json_typeof({name}::json)" for name in JSON_COLUMNS}
    return text.format(now="fastgw_now_ms()", **types)


# -- SQLite -------------------------------------------------------------------------------------

SQLITE_NOW = (
    "(CAST(strftime('%s', 'now') AS INTEGER) * 1000"
    " + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER))"
)


def sqlite_triggers() -> list[str]:
    """Give the triggers of SQLite.

    Touch and note are one trigger, which cannot fire itself, so that a change is noted once.
    """
    made = []
    for table in (*NOTED, *TOUCHED):
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            steps = []
            if event == "UPDATE":
                steps.append(
                    f"UPDATE {table} SET updated_at = {SQLITE_NOW}"
                    f" WHERE id = NEW.id AND updated_at = OLD.updated_at"
                )
            if table in NOTED:
                steps += [
                    f"""UPDATE config_version SET version = version + 1,
                    updated_at = {SQLITE_NOW} WHERE id = 1""",
                    f"""INSERT INTO config_changes (version, noun, object_id)
                    SELECT version, '{table}', {row}.id FROM config_version""",
                ]
            if steps:
                made.append(
                    f"CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table}"
                    f" BEGIN {'; '.join(steps)}; END"
                )
    made += [
        f"CREATE TRIGGER audit_log_no_{event.lower()} BEFORE {event} ON audit_log"
        " BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        for event in ("UPDATE", "DELETE")
    ]
    return made


def sqlite_words(text: str) -> str:
    """Fill in SQLite's words."""
    # json_type fails on what is no JSON, which would look like a defect of the statement.
    types = {
        f"type_of_{name}": f"CASE WHEN json_valid({name}) THEN json_type({name}) ELSE '' END"
        for name in JSON_COLUMNS
    }
    text = text.format(now=SQLITE_NOW, **types)
    return text.replace("BIGINT", "INTEGER").replace("BYTEA", "BLOB")


# -- both ---------------------------------------------------------------------------------------


def run(statement: str) -> None:
    """Send one statement as it is: a colon in it is no placeholder."""
    op.get_bind().exec_driver_sql(statement)


def upgrade() -> None:
    """Make everything."""
    if op.get_bind().dialect.name == "postgresql":
        for function in PG_FUNCTIONS:
            run(function)
        for table, columns in TABLES.items():
            run(f"CREATE TABLE {table} ({pg_words(columns)})")
        run(
            f"CREATE TABLE usage_records ({pg_words(USAGE_RECORDS)})"
            " PARTITION BY RANGE (created_at)"
        )
        run("CREATE TABLE usage_records_default PARTITION OF usage_records DEFAULT")
        triggers = pg_triggers()
        indexes = [*INDEXES, *PG_INDEXES]
    else:
        for table, columns in TABLES.items():
            clustered = ", WITHOUT ROWID" if table in CLUSTERED else ""
            run(f"CREATE TABLE {table} ({sqlite_words(columns)}) STRICT{clustered}")
        run(f"CREATE TABLE usage_records ({sqlite_words(USAGE_RECORDS)}) STRICT, WITHOUT ROWID")
        triggers = sqlite_triggers()
        indexes = [*INDEXES]
    for statement in (*indexes, *triggers):
        run(statement)
    run("INSERT INTO config_version (id, version, pruned_to) VALUES (1, 0, 0)")


def downgrade() -> None:
    """Remove everything."""
    for table in ("usage_records", *reversed(TABLES)):
        run(f"DROP TABLE {table}")
    if op.get_bind().dialect.name == "postgresql":
        for function in PG_DROP:
            run(function)
