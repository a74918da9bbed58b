-- Groups of several partitions are fixed and inserted together, as one flush; those fixed before
-- that have none. Old borders are cleared by the archiver.
ALTER TABLE archive_groups ADD COLUMN flush uuid;
CREATE INDEX archive_groups_flush ON archive_groups (flush);
CREATE INDEX archive_groups_end ON archive_groups (partition, to_x);
GRANT DELETE ON archive_groups TO weir_archiver;
