"""The queue's schema as SQL: tables, triggers, a producer's functions, and roles."""

from __future__ import annotations

from forwarder.spool.engine import KEPT_BOOKMARKS
from forwarder.spool.postgresql.tables import Tables, each

VERSION = 3
# Triggers, functions and identity columns as used here; it is what Debian 11 has.
LEAST_SERVER = 130000


def statements(schema: str) -> str:
    """All that makes a queue, as SQL: safe to repeat, in one transaction."""
    parts = [_SHARED.format(schema=schema, version=VERSION)]
    parts += [_KIND.format(**_names(its)) for its in each(schema)]
    parts.append(_ROLES.format(schema=schema))
    parts += [_GRANTS.format(**_names(its)) for its in each(schema)]
    parts.append(f"UPDATE {schema}.control SET version = {VERSION} WHERE version < {VERSION};")
    return "\n".join(parts)


def _names(its: Tables) -> dict[str, str]:
    return {"schema": its.schema, "s": its.suffix, "kind": its.kind.noun, "kept": str(KEPT_BOOKMARKS)}


_SHARED = """
CREATE SCHEMA IF NOT EXISTS {schema};

CREATE TABLE IF NOT EXISTS {schema}.control (
    id smallint PRIMARY KEY CHECK (id = 1),
    version integer NOT NULL,
    queue_id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused boolean NOT NULL DEFAULT false,
    flushes bigint NOT NULL DEFAULT 0,
    -- who delivers
    holder text,
    host text,
    pid integer,
    announced boolean NOT NULL DEFAULT false,
    renewed_at timestamptz,
    lease_until timestamptz
) WITH (fillfactor = 10);
INSERT INTO {schema}.control (id, version) VALUES (1, {version}) ON CONFLICT (id) DO NOTHING;

-- Lost in a crash of the server, like a daemon's memory: so it costs no log.
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.daemon (
    id smallint PRIMARY KEY CHECK (id = 1),
    holder text NOT NULL,
    state jsonb NOT NULL
) WITH (fillfactor = 10);

-- A transaction has its number before its first row has its id, so that the daemon knows for whom it waits
-- where ids are missing; and no role's or session's default makes an acceptance less than a standby's copy,
-- or hides that the wait for it was cancelled.
CREATE OR REPLACE FUNCTION {schema}.before_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_current_xact_id();
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF current_setting('client_min_messages') = 'error' THEN
        PERFORM set_config('client_min_messages', 'warning', true);
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION {schema}.before_write() FROM PUBLIC;
DROP TRIGGER IF EXISTS before_write ON {schema}.control;
CREATE TRIGGER before_write BEFORE UPDATE ON {schema}.control
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.before_write();
"""

_KIND = """
-- {kind}

CREATE TABLE IF NOT EXISTS {schema}.queue{s} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    put_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status smallint NOT NULL DEFAULT 0,
    data bytea NOT NULL CHECK (octet_length(data) <= 16777216)
);
-- Compressing on the server costs CPU for nothing: the rows do not stay.
ALTER TABLE {schema}.queue{s} ALTER data SET STORAGE EXTERNAL;
ALTER TABLE {schema}.queue{s} SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000
);

CREATE TABLE IF NOT EXISTS {schema}.intake{s} (
    n bigint NOT NULL,
    dead bigint NOT NULL DEFAULT 0
);
ALTER TABLE {schema}.intake{s} SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE IF NOT EXISTS {schema}.ledger{s} (
    id smallint PRIMARY KEY CHECK (id = 1),
    consumer text NOT NULL DEFAULT '',
    low_id bigint NOT NULL DEFAULT 0,
    accepted bigint NOT NULL DEFAULT 0,
    baseline bigint NOT NULL DEFAULT 0,
    delivered bigint NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    deleted bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    retried bigint NOT NULL DEFAULT 0,
    discarded bigint NOT NULL DEFAULT 0,
    short bigint NOT NULL DEFAULT 0,
    last_delivery_at timestamptz
) WITH (fillfactor = 10);
INSERT INTO {schema}.ledger{s} (id) VALUES (1) ON CONFLICT (id) DO NOTHING;

CREATE TABLE IF NOT EXISTS {schema}.held{s} (
    id bigint PRIMARY KEY,
    put_at timestamptz NOT NULL,
    data bytea NOT NULL
);

CREATE TABLE IF NOT EXISTS {schema}.dead_letters{s} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id bigint NOT NULL UNIQUE,
    event text NOT NULL,
    insert_id text NOT NULL,
    reason text NOT NULL,
    field text NOT NULL,
    http_status integer,
    accepted_at timestamptz NOT NULL,
    dead_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    data bytea NOT NULL
);

CREATE TABLE IF NOT EXISTS {schema}.deliveries{s} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivered bigint NOT NULL,
    dead bigint NOT NULL,
    short bigint NOT NULL,
    size_bytes bigint NOT NULL,
    http_status integer,
    tries integer NOT NULL,
    took_s double precision NOT NULL,
    settled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ids text NOT NULL,
    put_at timestamptz
);

-- Which of the ids were refused.
ALTER TABLE {schema}.deliveries{s} ADD COLUMN IF NOT EXISTS dead_ids text NOT NULL DEFAULT '';

CREATE TABLE IF NOT EXISTS {schema}.retries{s} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dead_letter_id bigint NOT NULL,
    event_id bigint NOT NULL,
    new_event_id bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS {schema}.refusals{s} (
    reason text PRIMARY KEY,
    count bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS {schema}.history{s} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hourly boolean NOT NULL,
    ended_at double precision NOT NULL,
    lasted_s double precision NOT NULL,
    run double precision NOT NULL,
    accepted bigint NOT NULL,
    delivered bigint NOT NULL,
    dead_lettered bigint NOT NULL,
    deleted bigint NOT NULL,
    refused bigint NOT NULL,
    waiting bigint NOT NULL,
    held bigint NOT NULL,
    oldest_waiting_s double precision NOT NULL,
    requests text NOT NULL,
    sent_bytes bigint NOT NULL,
    p50_s double precision,
    p95_s double precision,
    used_bytes bigint NOT NULL,
    disk_free_bytes bigint,
    states text NOT NULL,
    reason text NOT NULL
);

-- Of each relay's queue, what it has handed over last, and which turn may hand over more.
CREATE TABLE IF NOT EXISTS {schema}.sources{s} (
    queue text PRIMARY KEY,
    turn bigint NOT NULL,
    ids bigint[] NOT NULL DEFAULT '{{}}',
    digests bigint[] NOT NULL DEFAULT '{{}}',
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- How far files of records are in; the largest id is that of the one that was moved last.
CREATE TABLE IF NOT EXISTS {schema}.bookmarks{s} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path text NOT NULL,
    file text NOT NULL,
    done bigint NOT NULL,
    digest text NOT NULL,
    UNIQUE (path, file)
);

CREATE OR REPLACE FUNCTION {schema}.count_inserted{s}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO {schema}.intake{s} (n) SELECT count(*) FROM inserted HAVING count(*) > 0;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION {schema}.count_inserted{s}() FROM PUBLIC;
DROP TRIGGER IF EXISTS before_write ON {schema}.queue{s};
CREATE TRIGGER before_write BEFORE INSERT OR UPDATE ON {schema}.queue{s}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.before_write();
DROP TRIGGER IF EXISTS before_write ON {schema}.intake{s};
CREATE TRIGGER before_write BEFORE INSERT ON {schema}.intake{s}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.before_write();
DROP TRIGGER IF EXISTS before_write ON {schema}.sources{s};
CREATE TRIGGER before_write BEFORE INSERT ON {schema}.sources{s}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.before_write();
DROP TRIGGER IF EXISTS before_write ON {schema}.bookmarks{s};
CREATE TRIGGER before_write BEFORE INSERT ON {schema}.bookmarks{s}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.before_write();
DROP TRIGGER IF EXISTS count_inserted ON {schema}.queue{s};
CREATE TRIGGER count_inserted AFTER INSERT ON {schema}.queue{s}
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count_inserted{s}();

-- Version 1 had put and refuse, which return one id: they stay for the producers of that time.

-- Final records; their ids, in their order.
CREATE OR REPLACE FUNCTION {schema}.put_all{s}(records bytea[]) RETURNS bigint[]
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH new AS (INSERT INTO {schema}.queue{s} (data, status) SELECT unnest(records), 1 RETURNING id)
    SELECT array_agg(id ORDER BY id) FROM new
$$;

-- What is not a record, accepted as a dead letter at once; their ids, in their order.
CREATE OR REPLACE FUNCTION {schema}.refuse_all{s}(
    records bytea[], events text[], insert_ids text[], reasons text[]
) RETURNS bigint[] LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO {schema}.intake{s} (n, dead) VALUES (cardinality(records), cardinality(records));
    WITH new AS (
        INSERT INTO {schema}.dead_letters{s} (event_id, data, event, insert_id, reason, field, accepted_at)
        SELECT nextval('{schema}.queue{s}_id_seq'), given.*, '', clock_timestamp()
        FROM unnest(records, events, insert_ids, reasons) AS given
        RETURNING event_id
    )
    SELECT array_agg(event_id ORDER BY event_id) FROM new
$$;

CREATE OR REPLACE FUNCTION {schema}.count_refused{s}(words text[], counts bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO {schema}.refusals{s} AS kept (reason, count) SELECT * FROM unnest(words, counts)
    ON CONFLICT (reason) DO UPDATE SET count = kept.count + excluded.count
$$;

-- What a relay's queue has handed over last. With it a turn begins: a batch of an earlier one that is still
-- on its way is refused. It writes, so that its commit waits until the standbys have what it returns.
CREATE OR REPLACE FUNCTION {schema}.handed_over{s}(source text)
RETURNS TABLE (turn bigint, ids bigint[], digests bigint[])
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO {schema}.sources{s} AS kept (queue, turn) VALUES (source, 1)
    ON CONFLICT (queue) DO UPDATE SET turn = kept.turn + 1
    RETURNING kept.turn, kept.ids, kept.digests
$$;

-- Take a batch over, and note it; false: its turn is over, and nothing was done.
CREATE OR REPLACE FUNCTION {schema}.hand_over{s}(
    source text, its_turn bigint, its_ids bigint[], its_digests bigint[], records bytea[]
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    UPDATE {schema}.sources{s} SET ids = its_ids, digests = its_digests, at = clock_timestamp()
    WHERE queue = source AND turn = its_turn;
    IF FOUND THEN
        INSERT INTO {schema}.queue{s} (data, status) SELECT unnest(records), 1;
    END IF;
    RETURN FOUND;
END $$;

-- The bookmarks of files with this path, or that are this file.
CREATE OR REPLACE FUNCTION {schema}.bookmarks_of{s}(its_path text, its_file text)
RETURNS TABLE (path text, file text, done bigint, digest text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT path, file, done, digest FROM {schema}.bookmarks{s} WHERE path = its_path OR file = its_file
$$;

-- Take a bookmark away, and add one; false: another process has moved it.
CREATE OR REPLACE FUNCTION {schema}.remove_bookmark{s}(
    its_path text, its_file text, its_done bigint, its_digest text
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    DELETE FROM {schema}.bookmarks{s}
    WHERE path = its_path AND file = its_file AND done = its_done AND digest = its_digest;
    RETURN FOUND;
END $$;
CREATE OR REPLACE FUNCTION {schema}.add_bookmark{s}(
    its_path text, its_file text, its_done bigint, its_digest text
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    DELETE FROM {schema}.bookmarks{s}
    WHERE id <= (SELECT id FROM {schema}.bookmarks{s} ORDER BY id DESC LIMIT 1 OFFSET {kept} - 1);
    INSERT INTO {schema}.bookmarks{s} (path, file, done, digest)
    VALUES (its_path, its_file, its_done, its_digest) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;
REVOKE ALL ON FUNCTION {schema}.put_all{s}(bytea[]), {schema}.refuse_all{s}(bytea[], text[], text[], text[]),
    {schema}.count_refused{s}(text[], bigint[]), {schema}.handed_over{s}(text),
    {schema}.hand_over{s}(text, bigint, bigint[], bigint[], bytea[]), {schema}.bookmarks_of{s}(text, text),
    {schema}.remove_bookmark{s}(text, text, bigint, text), {schema}.add_bookmark{s}(text, text, bigint, text)
    FROM PUBLIC;
"""

_ROLES = """
DO $$
BEGIN
    IF to_regrole('{schema}_producer') IS NULL THEN CREATE ROLE {schema}_producer NOLOGIN; END IF;
    IF to_regrole('{schema}_viewer') IS NULL THEN CREATE ROLE {schema}_viewer NOLOGIN; END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'the roles {schema}_producer and {schema}_viewer are missing; an administrator must'
        ' create them, NOLOGIN' USING ERRCODE = 'insufficient_privilege';
END $$;
GRANT USAGE ON SCHEMA {schema} TO {schema}_producer, {schema}_viewer;
GRANT SELECT ON {schema}.control, {schema}.daemon TO {schema}_viewer;
"""

_GRANTS = """
GRANT INSERT (data) ON {schema}.queue{s} TO {schema}_producer;
GRANT EXECUTE ON FUNCTION {schema}.put_all{s}(bytea[]),
    {schema}.refuse_all{s}(bytea[], text[], text[], text[]),
    {schema}.count_refused{s}(text[], bigint[]), {schema}.handed_over{s}(text),
    {schema}.hand_over{s}(text, bigint, bigint[], bigint[], bytea[]), {schema}.bookmarks_of{s}(text, text),
    {schema}.remove_bookmark{s}(text, text, bigint, text), {schema}.add_bookmark{s}(text, text, bigint, text)
    TO {schema}_producer;
GRANT SELECT ON {schema}.queue{s}, {schema}.queue{s}_id_seq, {schema}.intake{s}, {schema}.ledger{s},
    {schema}.held{s}, {schema}.dead_letters{s}, {schema}.deliveries{s}, {schema}.retries{s},
    {schema}.refusals{s}, {schema}.history{s}, {schema}.sources{s}, {schema}.bookmarks{s} TO {schema}_viewer;
"""
