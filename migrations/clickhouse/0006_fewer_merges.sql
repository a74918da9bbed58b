-- Merges are most of what the archive costs. Parts are merged twenty at a time and not five, so that a
-- row is written again less often until it is in a large part; and what has 128 MiB has two files a
-- column: such parts are merged column by column, in some 60 % of the time. An insert group has
-- less and stays one file. Blocks of narrow columns are longer.
ALTER TABLE usage_events {on_cluster}
    MODIFY SETTING merge_selector_base = 20, min_bytes_for_wide_part = 134217728, merge_max_block_size = 65536;
ALTER TABLE rejected_events {on_cluster}
    MODIFY SETTING merge_selector_base = 20, min_bytes_for_wide_part = 134217728, merge_max_block_size = 65536;
