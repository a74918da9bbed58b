-- Each secret of an app has a data key of its own, and only that is encrypted under the master key.

COMMENT ON COLUMN app_secrets.sealed IS 'Nonce and data key, encrypted under the master key, then nonce and secret, encrypted under the data key (AES-256-GCM); both bound to tenant_id and secret_id.';
COMMENT ON COLUMN app_secrets.master_key_id IS 'Which master key the data key is encrypted under.';
