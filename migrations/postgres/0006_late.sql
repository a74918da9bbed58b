-- The slow lane: how far it is with the late events of each partition, and how many of each tenant's
-- it has answered.

-- (X, R, C) of the lane, and how many late events of the next accepted batch it has answered.
-- Changed by compare-and-set only, after the answers are in the log.
CREATE TABLE late_places (
    partition integer PRIMARY KEY,
    x         bigint NOT NULL,
    r         bigint NOT NULL,
    c         bytea NOT NULL CHECK (length(c) = 32),
    answered  bigint NOT NULL CHECK (answered >= 0)
);

CREATE TABLE late_answers (
    tenant_id uuid NOT NULL,
    partition integer NOT NULL,
    answered  bigint NOT NULL CHECK (answered >= 0),
    PRIMARY KEY (tenant_id, partition)
);
COMMENT ON COLUMN late_answers.answered IS 'Late events whose place the lane has passed; partition_counts.forwarded minus this waits.';

REVOKE ALL ON late_places, late_answers FROM PUBLIC;
GRANT ALL ON late_places, late_answers TO weir_migrate;
GRANT USAGE ON SCHEMA public TO weir_lane;
GRANT SELECT, INSERT, UPDATE ON late_places, late_answers TO weir_lane;
GRANT SELECT ON late_places, late_answers TO weir_reader;
GRANT SELECT ON late_answers TO weir_api;

ALTER TABLE late_answers ENABLE ROW LEVEL SECURITY;
ALTER TABLE late_answers FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON late_answers TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON late_answers TO weir_lane, weir_reader, weir_migrate USING (true) WITH CHECK (true);
