-- The archiver copies the heads of the audit chains to ClickHouse, out of reach of whoever can change
-- Postgres. `weir verify` compares.
GRANT SELECT ON audit TO weir_archiver;
