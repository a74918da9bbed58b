-- Merges: an alias whose subject has usage of its own takes effect once that usage is its team's.

ALTER TABLE team_aliases ADD COLUMN merge text COLLATE "C" CHECK (merge IN ('asked', 'taking_back', 'moving', 'merged'));
ALTER TABLE team_aliases ADD COLUMN corrections uuid[] NOT NULL DEFAULT '{}';
ALTER TABLE team_aliases ADD COLUMN moved bigint NOT NULL DEFAULT 0;
ALTER TABLE team_aliases ADD COLUMN leased_until timestamptz;
CREATE INDEX team_aliases_merging ON team_aliases (created_at) WHERE merge IN ('taking_back', 'moving');
COMMENT ON COLUMN team_aliases.merge IS 'Whether usage that its subject has becomes the team''s, and how far that is; null where it has none or must not.';
COMMENT ON COLUMN team_aliases.corrections IS 'The corrections that take back what the subject''s usage came to.';
COMMENT ON COLUMN team_aliases.moved IS 'Events that were moved to the team.';
COMMENT ON COLUMN team_aliases.leased_until IS 'Until when a process has the merge to itself without saying that it goes on.';

GRANT UPDATE (merge, corrections, moved, leased_until) ON team_aliases TO weir_api;
