-- Commands that correct an event and were not carried out are kept with their reason, as what was not
-- rated is. They are no events, and nothing that counts rejected ones counts them.
ALTER TABLE rejected_events {on_cluster}
    MODIFY COLUMN outcome Enum8('duplicate' = 1, 'conflict' = 2, 'rejected' = 3, 'uncorrected' = 4);
