-- Twins: events with one identity that all took effect, because a client sent one again with another time after it had
-- left the table of duplicates. The first one counts; the others are taken back by corrections.

CREATE TABLE twins (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    partition      integer NOT NULL,
    position       bigint NOT NULL,
    index          integer NOT NULL,
    first_position bigint NOT NULL,
    first_index    integer NOT NULL,
    found_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, partition, position, index),
    CHECK ((first_position, first_index) < (position, index))
);
COMMENT ON TABLE twins IS 'Events that are taken back because an earlier one with their identity counts.';
COMMENT ON COLUMN twins.first_position IS 'Where the event stands that counts, in the same partition.';

CREATE TABLE swept_positions (
    partition integer PRIMARY KEY,
    position  bigint NOT NULL DEFAULT -1,
    swept_at  timestamptz NOT NULL
);
COMMENT ON TABLE swept_positions IS 'Up to where the archive was searched for twins.';
COMMENT ON COLUMN swept_positions.swept_at IS 'When a process began to search the partition.';

GRANT SELECT ON twins, swept_positions TO weir_api, weir_reader;
GRANT INSERT ON twins, swept_positions TO weir_api;
GRANT UPDATE (position, swept_at) ON swept_positions TO weir_api;
GRANT ALL ON twins, swept_positions TO weir_migrate;

ALTER TABLE twins ENABLE ROW LEVEL SECURITY;
ALTER TABLE twins FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON twins TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON twins TO weir_reader, weir_migrate USING (true) WITH CHECK (true);
