-- The same check of the transfers of a statement,, cheaper: each side's accounts by themselves, where
-- the union of both was sorted as a whole.
CREATE OR REPLACE FUNCTION check_transfers() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM (SELECT DISTINCT tenant_id, journal_id FROM added) t WHERE NOT EXISTS (SELECT FROM journals j
            WHERE j.tenant_id = t.tenant_id AND j.journal_id = t.journal_id)) THEN
        RAISE foreign_key_violation USING MESSAGE = 'a transfer without its journal', CONSTRAINT = 'transfers_journal';
    END IF;
    IF EXISTS (SELECT FROM (SELECT DISTINCT tenant_id, debit_account, currency FROM added) t
            WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.tenant_id = t.tenant_id AND a.account_id = t.debit_account
                AND a.currency = t.currency))
        OR EXISTS (SELECT FROM (SELECT DISTINCT tenant_id, credit_account, currency FROM added) t
            WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.tenant_id = t.tenant_id AND a.account_id = t.credit_account
                AND a.currency = t.currency)) THEN
        RAISE foreign_key_violation USING MESSAGE = 'a transfer without its account', CONSTRAINT = 'transfers_account';
    END IF;
    RETURN NULL;
END $$;
