-- An alias takes effect when it is known that its subject has no usage of its own, and can get none.

ALTER TABLE team_aliases ADD COLUMN waiting boolean NOT NULL DEFAULT false;
-- Those that had not yet taken effect are judged like new ones.
UPDATE team_aliases SET waiting = true WHERE effective_at > clock_timestamp();
CREATE INDEX team_aliases_waiting ON team_aliases (tenant_id) WHERE waiting;
COMMENT ON COLUMN team_aliases.waiting IS 'Ingest answers 503 to events of this subject, until the api has seen that it has no usage of its own: then it is an alias; or that it has: then this row goes.';
COMMENT ON COLUMN team_aliases.effective_at IS 'From when on it holds; while it waits, when every ingest process that runs knows of it.';

GRANT UPDATE (waiting, effective_at), DELETE ON team_aliases TO weir_api;

-- What Weir does by itself.
ALTER TABLE privileged_changes DROP CONSTRAINT privileged_changes_actor_kind_check;
ALTER TABLE privileged_changes ADD CONSTRAINT privileged_changes_actor_kind_check
    CHECK (actor_kind IN ('api_key', 'app_token', 'operator', 'task'));
