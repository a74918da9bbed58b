-- Copies of the newest row of every partition's audit chain, made each minute: a chain whose end was
-- cut off, or that was written anew, is not the one that was copied. Nothing is removed from here.
CREATE TABLE IF NOT EXISTS audit_heads {on_cluster} (
    partition UInt32, position_to Int64, r Int64, hash FixedString(32), posted_at DateTime64(6, 'UTC'),
    copied_at DateTime64(6, 'UTC') DEFAULT now64(6)
) ENGINE = {engine}
ORDER BY (partition, position_to)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;
