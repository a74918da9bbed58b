-- An owner that starts where [rated] has been trimmed must know a time that nothing below was appended
-- after. No clock says it: the log's may have been stepped back. So it is kept beside X.
ALTER TABLE partitions ADD COLUMN append_time timestamptz NOT NULL DEFAULT 'epoch';
COMMENT ON COLUMN partitions.append_time IS 'Highest append time of any block up to x.';
UPDATE partitions SET append_time = clock_timestamp() + interval '5 minutes' WHERE x >= 0;
