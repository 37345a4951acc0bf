"""Indices of the tables, and views: readings, and the newest revision of each result.

docs/sql.md has recipes for them.
"""

from __future__ import annotations

INDICES = """
CREATE INDEX IF NOT EXISTS gateway_events_time ON gateway_events (stream, event_time_ms);
CREATE INDEX IF NOT EXISTS gateway_events_aggregates ON gateway_events (event_time_ms)
  WHERE kind = 'aggregate';
"""

SQLITE_VIEWS = """
DROP VIEW IF EXISTS gateway_readings;
CREATE VIEW gateway_readings AS
SELECT event_id, gateway, stream, device, sequence_num, event_time_ms,
       strftime('%Y-%m-%dT%H:%M:%fZ', event_time_ms / 1000.0, 'unixepoch') AS time,
       CASE WHEN json_valid(payload) THEN payload END AS json
FROM gateway_events WHERE kind = 'raw';
DROP VIEW IF EXISTS gateway_aggregates;
CREATE VIEW gateway_aggregates AS
WITH told AS (
  SELECT event_id, gateway, payload ->> '$.window' AS "window", payload ->> '$.key' AS key,
         payload ->> '$.start_ms' AS start_ms, payload ->> '$.end_ms' AS end_ms,
         payload ->> '$.kind' AS kind, payload ->> '$.revision' AS revision, payload ->> '$.count' AS count,
         payload -> '$.result' AS result, payload -> '$.replaces' AS replaces,
         payload -> '$.quality' AS quality, payload ->> '$.unit' AS unit
  FROM gateway_events WHERE kind = 'aggregate' AND json_valid(payload)),
ranked AS (
  SELECT *, row_number() OVER (
    PARTITION BY gateway, "window", key, start_ms, end_ms ORDER BY revision DESC) AS rank FROM told),
replaced AS (
  SELECT told.gateway, told."window", told.key, bounds.value ->> 0 AS start_ms, bounds.value ->> 1 AS end_ms
  FROM told, json_each(told.replaces) AS bounds)
SELECT event_id, gateway, "window", key, start_ms, end_ms, kind, revision, count, result, quality, unit
FROM ranked WHERE rank = 1
AND (gateway, "window", key, start_ms, end_ms) NOT IN (SELECT * FROM replaced);
"""

POSTGRES_VIEWS = """
CREATE OR REPLACE FUNCTION gateway_json(payload text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN RETURN payload::jsonb; EXCEPTION WHEN others THEN RETURN NULL; END $$;
CREATE OR REPLACE VIEW gateway_readings AS
SELECT event_id, gateway, stream, device, sequence_num, event_time_ms,
       to_timestamp(event_time_ms / 1000.0) AS time, gateway_json(payload) AS json
FROM gateway_events WHERE kind = 'raw';
CREATE OR REPLACE VIEW gateway_aggregates AS
WITH read AS (
  SELECT event_id, gateway, gateway_json(payload) AS told FROM gateway_events WHERE kind = 'aggregate'),
told AS (
  SELECT event_id, gateway, told ->> 'window' AS "window", told ->> 'key' AS key,
         (told ->> 'start_ms')::bigint AS start_ms, (told ->> 'end_ms')::bigint AS end_ms,
         told ->> 'kind' AS kind, (told ->> 'revision')::integer AS revision,
         (told ->> 'count')::bigint AS count, told -> 'result' AS result, told -> 'replaces' AS replaces,
         told -> 'quality' AS quality, told ->> 'unit' AS unit
  FROM read WHERE told IS NOT NULL),
replaced AS (
  SELECT gateway, "window", key, (bounds ->> 0)::bigint AS start_ms, (bounds ->> 1)::bigint AS end_ms
  FROM told, jsonb_array_elements(told.replaces) AS bounds),
newest AS (
  SELECT DISTINCT ON (gateway, "window", key, start_ms, end_ms) * FROM told
  ORDER BY gateway, "window", key, start_ms, end_ms, revision DESC)
SELECT event_id, gateway, "window", key, start_ms, end_ms, kind, revision, count, result, quality, unit
FROM newest
WHERE NOT EXISTS (
  SELECT 1 FROM replaced WHERE replaced.gateway = newest.gateway AND replaced."window" = newest."window"
  AND replaced.key = newest.key AND replaced.start_ms = newest.start_ms AND replaced.end_ms = newest.end_ms);
"""
