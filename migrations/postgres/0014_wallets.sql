-- Stored value and how usage is paid out of it: docs/WALLETS.md. Every movement is a journal; lots
-- (grants) are what a wallet's balance consists of, open items what usage still owes.

ALTER TABLE accounts DROP CONSTRAINT accounts_kind_check;
ALTER TABLE accounts ADD CONSTRAINT accounts_kind_check CHECK (kind IN ('receivable', 'wallet', 'revenue', 'cost_of_sales',
    'provider_payable', 'breakage', 'promotions', 'rounding', 'payments_in_transit'));

ALTER TABLE receivables ADD COLUMN itemised boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN receivables.itemised IS 'Its balance is what is unpaid of its open items less what is not applied of its reversals.';

-- A team's stored value in one currency or credit unit. `balance` is what its running grants hold.
CREATE TABLE wallets (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    wallet_id      uuid NOT NULL,
    team           text COLLATE "C" NOT NULL,
    currency       text COLLATE "C" NOT NULL,
    account_id     bigint NOT NULL,
    partition      integer NOT NULL REFERENCES partitions,
    mode           text NOT NULL CHECK (mode IN ('credits_then_invoice', 'credits_only')),
    balance        numeric(38, 12) NOT NULL DEFAULT 0 CHECK (balance >= 0),
    held           numeric(38, 12) NOT NULL DEFAULT 0 CHECK (held >= 0),
    held_on_credit numeric(38, 12) NOT NULL DEFAULT 0 CHECK (held_on_credit >= 0 AND held_on_credit <= held),
    debt           numeric(38, 12) NOT NULL DEFAULT 0 CHECK (debt >= 0),
    credit_limit   numeric(38, 12) NOT NULL DEFAULT 0 CHECK (credit_limit >= 0),
    sequence       bigint NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    settled_to     bigint NOT NULL DEFAULT -9223372036854775808,
    changed_in     xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, wallet_id),
    UNIQUE (tenant_id, team, currency),
    FOREIGN KEY (tenant_id, team) REFERENCES teams,
    FOREIGN KEY (tenant_id, account_id, currency) REFERENCES accounts (tenant_id, account_id, currency)
) WITH (fillfactor = 50);
COMMENT ON COLUMN wallets.held IS 'Reserved by holds that are open or closing, and not captured.';
COMMENT ON COLUMN wallets.held_on_credit IS 'The part of `held` that no lot covers: it rests on the credit limit.';
COMMENT ON COLUMN wallets.debt IS 'What is unpaid of the team''s open items in this currency, as of the newest settlement.';
COMMENT ON COLUMN wallets.settled_to IS 'Position of [usage]: items of later windows were never looked at by a settlement.';
COMMENT ON COLUMN wallets.changed_in IS 'The transaction that changed it last: who follows asks for what no snapshot of theirs has seen.';
CREATE INDEX wallets_changed ON wallets (changed_in);

-- A lot of stored value with its own priority, time and restriction.
CREATE TABLE grants (
    tenant_id       uuid NOT NULL,
    grant_id        uuid NOT NULL,
    wallet_id       uuid NOT NULL,
    partition       integer NOT NULL REFERENCES partitions,
    kind            text NOT NULL CHECK (kind IN ('paid', 'promotional', 'recurring', 'adjustment')),
    priority        smallint NOT NULL CHECK (priority BETWEEN 1 AND 100),
    name            text NOT NULL,
    amount          numeric(38, 12) NOT NULL CHECK (amount > 0),
    remaining       numeric(38, 12) NOT NULL CHECK (remaining >= 0 AND remaining <= amount),
    held            numeric(38, 12) NOT NULL DEFAULT 0 CHECK (held >= 0 AND held <= remaining),
    meters          text[] NOT NULL DEFAULT '{}',
    starts_at       timestamptz NOT NULL,
    expires_at      timestamptz CHECK (expires_at > starts_at),
    source          text COLLATE "C" NOT NULL,
    source_id       text COLLATE "C" NOT NULL,
    period_start    timestamptz NOT NULL DEFAULT 'epoch',
    state           text NOT NULL CHECK (state IN ('scheduled', 'running', 'ending', 'ended')),
    ending          text CHECK (ending IN ('expiry', 'void', 'refund')),
    ending_position bigint,
    final_position  bigint,
    ended_at        timestamptz,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, grant_id),
    UNIQUE (tenant_id, source, source_id, period_start),
    FOREIGN KEY (tenant_id, wallet_id) REFERENCES wallets,
    CHECK ((state IN ('ending', 'ended')) = (ending IS NOT NULL)),
    CHECK ((state = 'ended') = (ended_at IS NOT NULL)),
    CHECK (state <> 'scheduled' OR (remaining = amount AND held = 0)),
    CHECK (state <> 'ended' OR remaining = 0)
) WITH (fillfactor = 50);
COMMENT ON COLUMN grants.meters IS 'The meters whose usage it pays; all when empty.';
COMMENT ON COLUMN grants.ending_position IS 'End of [usage] as it was read after the ending began: what lies before may still be paid by it.';
COMMENT ON COLUMN grants.final_position IS 'Of an expiry: its end as it was read after the slow lane had answered all before that; else the same. What it has left goes when that is posted.';
CREATE INDEX grants_of_wallet ON grants (tenant_id, wallet_id, grant_id);
CREATE INDEX grants_to_start ON grants (partition, starts_at) WHERE state = 'scheduled';
CREATE INDEX grants_to_end ON grants (partition, expires_at) WHERE state = 'running';
CREATE INDEX grants_ending ON grants (partition) WHERE state = 'ending';

-- What changed a wallet's balance, numbered without a gap. Never updated, never deleted.
CREATE TABLE wallet_entries (
    tenant_id      uuid NOT NULL,
    wallet_id      uuid NOT NULL,
    sequence       bigint NOT NULL CHECK (sequence > 0),
    journal_id     uuid NOT NULL,
    ordinal        integer NOT NULL,
    grant_id       uuid,
    reason         text NOT NULL,
    amount         numeric(38, 12) NOT NULL CHECK (amount <> 0),
    balance_before numeric(38, 12) NOT NULL CHECK (balance_before >= 0),
    balance_after  numeric(38, 12) NOT NULL CHECK (balance_after >= 0),
    entered_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, wallet_id, sequence),
    UNIQUE (tenant_id, journal_id, ordinal),
    CHECK (balance_after = balance_before + amount)
);
CREATE INDEX wallet_entries_by_time ON wallet_entries (tenant_id, wallet_id, entered_at);
-- Time lines leave settlements out: they pay for usage that is there already.
CREATE INDEX wallet_entries_unsettled ON wallet_entries (tenant_id, wallet_id, entered_at) WHERE reason <> 'settlement';

-- What usage owes: one per window, meter and 15 minutes, and apart for each hold.
CREATE TABLE open_items (
    tenant_id uuid NOT NULL,
    partition integer NOT NULL,
    batch_to  bigint NOT NULL,
    ordinal   integer NOT NULL,
    team      text COLLATE "C" NOT NULL,
    currency  text COLLATE "C" NOT NULL,
    meter     text COLLATE "C" NOT NULL,
    bucket    timestamptz NOT NULL,
    hold_id   uuid,
    captured  numeric(38, 12) CHECK (captured >= 0 AND captured <= amount),
    amount    numeric(38, 12) NOT NULL CHECK (amount > 0),
    paid      numeric(38, 12) NOT NULL DEFAULT 0 CHECK (paid >= 0 AND paid <= amount),
    PRIMARY KEY (tenant_id, partition, batch_to, ordinal)
) WITH (fillfactor = 50);
COMMENT ON COLUMN open_items.meter IS 'Empty for what a team owed before it had a wallet.';
COMMENT ON COLUMN open_items.batch_to IS 'Last position of its window; negative, the settlement''s number, for what was owed before there was a wallet.';
COMMENT ON COLUMN open_items.captured IS 'What its hold took of it, decided once; null until it is settled for the first time, and without a hold.';
CREATE INDEX open_items_unpaid ON open_items (tenant_id, team, currency, batch_to) WHERE paid < amount;
CREATE INDEX open_items_of_hold ON open_items (tenant_id, hold_id) WHERE hold_id IS NOT NULL;

-- Which lot paid how much of which item. Never updated, never deleted.
CREATE TABLE allocations (
    tenant_id  uuid NOT NULL,
    partition  integer NOT NULL,
    batch_to   bigint NOT NULL,
    ordinal    integer NOT NULL,
    settle_seq bigint NOT NULL,
    grant_id   uuid NOT NULL,
    amount     numeric(38, 12) NOT NULL CHECK (amount > 0),
    PRIMARY KEY (tenant_id, partition, batch_to, ordinal, settle_seq, grant_id)
);
CREATE INDEX allocations_of_grant ON allocations (tenant_id, grant_id, settle_seq DESC);

-- Usage that was taken back: it reduces what is unpaid, then returns to the lots that paid.
CREATE TABLE reversals (
    tenant_id uuid NOT NULL,
    partition integer NOT NULL,
    batch_to  bigint NOT NULL,
    ordinal   integer NOT NULL,
    team      text COLLATE "C" NOT NULL,
    currency  text COLLATE "C" NOT NULL,
    meter     text COLLATE "C" NOT NULL,
    bucket    timestamptz NOT NULL,
    amount    numeric(38, 12) NOT NULL CHECK (amount > 0),
    applied   numeric(38, 12) NOT NULL DEFAULT 0 CHECK (applied >= 0 AND applied <= amount),
    PRIMARY KEY (tenant_id, partition, batch_to, ordinal)
);
CREATE INDEX reversals_waiting ON reversals (tenant_id, team, currency) WHERE applied < amount;

-- What a reversal was applied to: an item, and a lot where it had been paid. Never updated, never deleted.
CREATE TABLE reversal_allocations (
    tenant_id     uuid NOT NULL,
    partition     integer NOT NULL,
    batch_to      bigint NOT NULL,
    ordinal       integer NOT NULL,
    settle_seq    bigint NOT NULL,
    item_batch_to bigint NOT NULL,
    item_ordinal  integer NOT NULL,
    grant_id      uuid NOT NULL,
    paid_in       bigint NOT NULL,
    amount        numeric(38, 12) NOT NULL CHECK (amount > 0),
    PRIMARY KEY (tenant_id, partition, batch_to, ordinal, settle_seq, item_batch_to, item_ordinal, grant_id, paid_in)
);
COMMENT ON COLUMN reversal_allocations.grant_id IS 'The lot that the amount returned to; the nil UUID where the item was unpaid.';
COMMENT ON COLUMN reversal_allocations.paid_in IS 'The settlement of the allocation that is taken back; 0 where the item was unpaid.';
CREATE INDEX reversal_allocations_of_item ON reversal_allocations (tenant_id, partition, item_batch_to, item_ordinal);

-- Money that is reserved before work runs. There are no foreign keys: the wallet is locked by what
-- inserts, is never deleted, and checking it row by row costs more than the row.
CREATE TABLE holds (
    tenant_id       uuid NOT NULL,
    hold_id         uuid NOT NULL,
    wallet_id       uuid NOT NULL,
    partition       integer NOT NULL,
    key             text COLLATE "C",
    request_hash    bytea,
    amount          numeric(38, 12) NOT NULL CHECK (amount > 0),
    on_credit       numeric(38, 12) NOT NULL DEFAULT 0 CHECK (on_credit >= 0 AND on_credit <= amount),
    captured        numeric(38, 12) NOT NULL DEFAULT 0 CHECK (captured >= 0 AND captured <= amount),
    meters          text[] NOT NULL DEFAULT '{}',
    settle_by       text NOT NULL CHECK (settle_by IN ('usage', 'call')),
    state           text NOT NULL CHECK (state IN ('refused', 'open', 'closing', 'ended')),
    reason          text NOT NULL DEFAULT '',
    ending_position bigint,
    forwarded_to    bigint,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    PRIMARY KEY (tenant_id, hold_id),
    UNIQUE (tenant_id, key),
    CHECK ((state IN ('ended', 'refused')) = (ended_at IS NOT NULL))
) WITH (fillfactor = 70);
COMMENT ON COLUMN holds.ending_position IS 'End of [usage] as it was read after closing began: what lies before is captured still.';
COMMENT ON COLUMN holds.forwarded_to IS 'Last position of the newest batch that forwards usage of it: it is not freed before the slow lane has answered that.';
COMMENT ON COLUMN holds.reason IS 'Why it was refused, or what ended it.';
CREATE INDEX holds_of_wallet ON holds (tenant_id, wallet_id, expires_at) WHERE state = 'open';
CREATE INDEX holds_to_expire ON holds (partition, expires_at) WHERE state = 'open';
CREATE INDEX holds_closing ON holds (partition) WHERE state = 'closing';

-- The lots that a hold reserves, in the order in which they pay.
CREATE TABLE hold_lots (
    tenant_id uuid NOT NULL,
    hold_id   uuid NOT NULL,
    ordinal   integer NOT NULL,
    grant_id  uuid NOT NULL,
    amount    numeric(38, 12) NOT NULL CHECK (amount > 0),
    captured  numeric(38, 12) NOT NULL DEFAULT 0 CHECK (captured >= 0),
    released  numeric(38, 12) NOT NULL DEFAULT 0 CHECK (released >= 0),
    PRIMARY KEY (tenant_id, hold_id, ordinal),
    CHECK (captured + released <= amount)
) WITH (fillfactor = 70);

-- Captures by call, each once.
CREATE TABLE captures (
    tenant_id  uuid NOT NULL,
    hold_id    uuid NOT NULL,
    key        text COLLATE "C" NOT NULL,
    amount     numeric(38, 12) NOT NULL CHECK (amount > 0),
    journal_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, hold_id, key)
);

-- Wallets whose team's receivable is not itemised yet; the ledger-writer of the partition does that.
CREATE TABLE new_wallets (
    tenant_id uuid NOT NULL,
    wallet_id uuid NOT NULL,
    partition integer NOT NULL,
    PRIMARY KEY (partition, tenant_id, wallet_id)
);

-- Wallets that were raised: what their teams owe may be paid now. Deleted only with the version read.
CREATE TABLE settle_due (
    tenant_id uuid NOT NULL,
    wallet_id uuid NOT NULL,
    partition integer NOT NULL,
    version   uuid NOT NULL,
    PRIMARY KEY (partition, tenant_id, wallet_id)
);

-- Journals that no window of usage seals, until the ledger-writer of their partition has sealed them.
CREATE TABLE unsealed_journals (
    tenant_id  uuid NOT NULL,
    journal_id uuid NOT NULL,
    partition  integer NOT NULL,
    PRIMARY KEY (partition, tenant_id, journal_id)
);

-- The audit chain over those journals: one per partition, keyed BLAKE3, chained.
CREATE TABLE journal_seals (
    tenant_id      uuid NOT NULL,
    partition      integer NOT NULL REFERENCES partitions,
    number         bigint NOT NULL CHECK (number > 0),
    journal_id     uuid NOT NULL,
    transfers      integer NOT NULL,
    transfers_hash bytea NOT NULL,
    previous_hash  bytea NOT NULL,
    hash           bytea NOT NULL,
    PRIMARY KEY (partition, number),
    UNIQUE (tenant_id, journal_id)
);

CREATE FUNCTION note_wallet_change() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER note_wallet_change BEFORE UPDATE ON wallets FOR EACH ROW EXECUTE FUNCTION note_wallet_change();
REVOKE ALL ON FUNCTION note_wallet_change() FROM PUBLIC;

-- Decides holds on one wallet in the order given, in one transaction and one round trip: under the lock
-- of the wallet, by its columns as they are then, by the time after the lock. A key or an id that exists
-- is answered with what was decided then. Lots are reserved in burn order; what they do not cover rests on
-- the credit limit, where the hold is settled by usage. `meters` of a hold are joined by chr(31).
CREATE FUNCTION place_holds(asked_tenant uuid, asked_wallet uuid, ids uuid[], keys text[], hashes bytea[], amounts numeric[],
    lives_ms bigint[], settled_by text[], asked_meters text[])
RETURNS TABLE (number integer, hold_id uuid, state text, reason text, same boolean, amount text, created_us bigint, expires_us bigint,
    available text)
-- A plan is made each time: one that was made when the tables were small takes any index that begins
-- with the tenant, and is kept as they grow.
LANGUAGE plpgsql SET search_path = public, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    w wallets%ROWTYPE;
    decided_at timestamptz;
    first_expiry timestamptz;
    room numeric;
    credit numeric;
    added numeric := 0;
    added_on_credit numeric := 0;
    lot_ids uuid[];
    lot_free numeric[];
    lot_held numeric[];
    lot_meters text[];
    wanted text[];
    left_over numeric;
    part numeric;
    lot_count integer;
    ordinal_of integer;
    matching numeric;
    states text[] := '{}';
    reasons text[] := '{}';
    on_credits numeric[] := '{}';
    hl_hold uuid[] := '{}';
    hl_ordinal integer[] := '{}';
    hl_grant uuid[] := '{}';
    hl_amount numeric[] := '{}';
    known text[];
    known_ids uuid[];
BEGIN
    PERFORM set_config('app.tenant', asked_tenant::text, true);
    SELECT * INTO w FROM wallets WHERE tenant_id = asked_tenant AND wallet_id = asked_wallet FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    decided_at := clock_timestamp();
    SELECT h.expires_at INTO first_expiry FROM holds h WHERE h.tenant_id = asked_tenant AND h.wallet_id = asked_wallet AND h.state = 'open'
        ORDER BY h.expires_at LIMIT 1;
    IF first_expiry <= decided_at THEN
        UPDATE holds h SET state = 'closing', reason = 'expired'
            WHERE h.tenant_id = asked_tenant AND h.wallet_id = asked_wallet AND h.state = 'open' AND h.expires_at <= decided_at;
    END IF;
    -- LIMIT makes each a look-up of one row, whatever the planner thinks of the table.
    SELECT coalesce(array_agg(h.key), '{}') INTO known FROM UNNEST(keys) AS asked (key)
        CROSS JOIN LATERAL (SELECT key FROM holds WHERE tenant_id = asked_tenant AND key = asked.key LIMIT 1) h WHERE asked.key IS NOT NULL;
    SELECT coalesce(array_agg(h.hold_id), '{}') INTO known_ids FROM UNNEST(ids) AS asked (id)
        CROSS JOIN LATERAL (SELECT hold_id FROM holds WHERE tenant_id = asked_tenant AND hold_id = asked.id LIMIT 1) h;
    room := w.balance - w.held - w.debt + w.credit_limit;
    credit := greatest(w.credit_limit - w.debt - w.held_on_credit, 0);
    SELECT coalesce(array_agg(g.grant_id ORDER BY g.place), '{}'), coalesce(array_agg(g.remaining - g.held ORDER BY g.place), '{}'),
           coalesce(array_agg(0::numeric ORDER BY g.place), '{}'), coalesce(array_agg(array_to_string(g.meters, chr(31)) ORDER BY g.place), '{}')
        INTO lot_ids, lot_free, lot_held, lot_meters
        FROM (SELECT *, row_number() OVER (ORDER BY priority, expires_at NULLS LAST,
                  array_position(ARRAY['promotional', 'recurring', 'adjustment', 'paid'], kind), created_at, grant_id) AS place
              FROM grants WHERE tenant_id = asked_tenant AND wallet_id = asked_wallet AND state = 'running' AND remaining > held
                  AND starts_at <= decided_at AND (expires_at IS NULL OR expires_at > decided_at)) g;
    lot_count := cardinality(lot_ids);
    FOR i IN 1 .. cardinality(ids) LOOP
        IF keys[i] = ANY(known) OR ids[i] = ANY(known_ids) THEN
            states := states || NULL::text;
            reasons := reasons || ''::text;
            on_credits := on_credits || 0::numeric;
            CONTINUE;
        END IF;
        wanted := string_to_array(asked_meters[i], chr(31));
        matching := 0;
        FOR j IN 1 .. lot_count LOOP
            EXIT WHEN matching >= amounts[i];
            IF lot_meters[j] = '' OR (wanted <> '{}' AND wanted <@ string_to_array(lot_meters[j], chr(31))) THEN
                matching := matching + lot_free[j];
            END IF;
        END LOOP;
        IF amounts[i] > room OR amounts[i] > matching + (CASE WHEN settled_by[i] = 'usage' THEN credit ELSE 0 END) THEN
            states := states || 'refused'::text;
            reasons := reasons || 'insufficient_funds'::text;
            on_credits := on_credits || 0::numeric;
            CONTINUE;
        END IF;
        left_over := amounts[i];
        ordinal_of := 0;
        FOR j IN 1 .. lot_count LOOP
            EXIT WHEN left_over = 0;
            IF lot_free[j] > 0 AND (lot_meters[j] = '' OR (wanted <> '{}' AND wanted <@ string_to_array(lot_meters[j], chr(31)))) THEN
                part := least(left_over, lot_free[j]);
                lot_free[j] := lot_free[j] - part;
                lot_held[j] := lot_held[j] + part;
                left_over := left_over - part;
                hl_hold := hl_hold || ids[i];
                hl_ordinal := hl_ordinal || ordinal_of;
                hl_grant := hl_grant || lot_ids[j];
                hl_amount := hl_amount || part;
                ordinal_of := ordinal_of + 1;
            END IF;
        END LOOP;
        room := room - amounts[i];
        credit := credit - left_over;
        added := added + amounts[i];
        added_on_credit := added_on_credit + left_over;
        states := states || 'open'::text;
        reasons := reasons || ''::text;
        on_credits := on_credits || left_over;
    END LOOP;
    INSERT INTO holds (tenant_id, hold_id, wallet_id, partition, key, request_hash, amount, on_credit, meters, settle_by, state, reason,
            created_at, expires_at, ended_at)
        SELECT asked_tenant, new.id, asked_wallet, w.partition, new.key, new.hash, new.amount, new.on_credit,
            string_to_array(new.meters, chr(31)), new.by, new.state, new.reason, decided_at,
            decided_at + new.life * interval '1 millisecond', CASE WHEN new.state = 'refused' THEN decided_at END
        FROM UNNEST(ids, keys, hashes, amounts, on_credits, asked_meters, settled_by, states, reasons, lives_ms)
            AS new (id, key, hash, amount, on_credit, meters, by, state, reason, life)
        WHERE new.state IS NOT NULL;
    IF added > 0 THEN
        INSERT INTO hold_lots (tenant_id, hold_id, ordinal, grant_id, amount)
            SELECT asked_tenant, new.* FROM UNNEST(hl_hold, hl_ordinal, hl_grant, hl_amount) AS new;
        UPDATE grants g SET held = g.held + new.held FROM UNNEST(lot_ids, lot_held) AS new (grant_id, held)
            WHERE g.tenant_id = asked_tenant AND g.grant_id = new.grant_id AND new.held > 0;
        UPDATE wallets SET held = held + added, held_on_credit = held_on_credit + added_on_credit
            WHERE tenant_id = asked_tenant AND wallet_id = asked_wallet;
    END IF;
    RETURN QUERY
        SELECT asked.number::integer, asked.id, asked.state, asked.reason, true, asked.amount::text,
            (extract(epoch FROM decided_at) * 1000000)::bigint,
            (extract(epoch FROM decided_at + asked.life * interval '1 millisecond') * 1000000)::bigint, room::text
        FROM UNNEST(ids, amounts, states, reasons, lives_ms) WITH ORDINALITY AS asked (id, amount, state, reason, life, number)
        WHERE asked.state IS NOT NULL
        UNION ALL
        SELECT asked.number::integer, h.hold_id, h.state, h.reason, h.hold_id = asked.id OR h.request_hash IS NOT DISTINCT FROM asked.hash,
            h.amount::text, (extract(epoch FROM h.created_at) * 1000000)::bigint, (extract(epoch FROM h.expires_at) * 1000000)::bigint, room::text
        FROM UNNEST(ids, keys, hashes, states) WITH ORDINALITY AS asked (id, key, hash, state, number)
        CROSS JOIN LATERAL (SELECT * FROM holds WHERE tenant_id = asked_tenant AND (key = asked.key OR hold_id = asked.id)
            ORDER BY key = asked.key DESC NULLS LAST LIMIT 1) h
        WHERE asked.state IS NULL
        ORDER BY 1;
END $$;
REVOKE ALL ON FUNCTION place_holds(uuid, uuid, uuid[], text[], bytea[], numeric[], bigint[], text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION place_holds(uuid, uuid, uuid[], text[], bytea[], numeric[], bigint[], text[], text[]) TO weir_api;

GRANT SELECT ON wallets, grants, wallet_entries, open_items, allocations, reversals, reversal_allocations, holds, hold_lots,
    captures, new_wallets, settle_due, unsealed_journals, journal_seals TO weir_reader;

GRANT SELECT ON wallets, grants, wallet_entries, open_items, allocations, reversals, holds, hold_lots, captures, settle_due TO weir_api;
GRANT INSERT ON wallets, grants, wallet_entries, holds, hold_lots, captures, new_wallets, settle_due, unsealed_journals,
    accounts, journals, transfers TO weir_api;
GRANT UPDATE (balance, held, held_on_credit, credit_limit, mode, sequence) ON wallets TO weir_api;
GRANT UPDATE (remaining, held, state, ending) ON grants TO weir_api;
GRANT UPDATE (captured, on_credit, state, reason, ended_at) ON holds TO weir_api;
GRANT UPDATE (captured, released) ON hold_lots TO weir_api;
GRANT UPDATE (version) ON settle_due TO weir_api;

GRANT SELECT ON wallets, grants, wallet_entries, open_items, allocations, reversals, reversal_allocations, holds, hold_lots,
    new_wallets, settle_due, unsealed_journals, journal_seals, receivable_entries TO weir_writer;
GRANT INSERT ON wallet_entries, open_items, allocations, reversals, reversal_allocations, settle_due, unsealed_journals, journal_seals TO weir_writer;
GRANT UPDATE (balance, held, held_on_credit, debt, sequence, settled_to) ON wallets TO weir_writer;
GRANT UPDATE (remaining, held, state, ending, ending_position, final_position, ended_at) ON grants TO weir_writer;
GRANT UPDATE (captured, paid) ON open_items TO weir_writer;
GRANT UPDATE (applied) ON reversals TO weir_writer;
GRANT UPDATE (captured, on_credit, state, reason, ending_position, forwarded_to, ended_at) ON holds TO weir_writer;
GRANT SELECT ON late_places TO weir_writer;
GRANT UPDATE (captured, released) ON hold_lots TO weir_writer;
GRANT UPDATE (version) ON settle_due TO weir_writer;
GRANT DELETE ON new_wallets, settle_due, unsealed_journals TO weir_writer;

GRANT ALL ON wallets, grants, wallet_entries, open_items, allocations, reversals, reversal_allocations, holds, hold_lots,
    captures, new_wallets, settle_due, unsealed_journals, journal_seals TO weir_migrate;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['wallets', 'grants', 'wallet_entries', 'open_items', 'allocations', 'reversals', 'reversal_allocations',
        'holds', 'hold_lots', 'captures', 'new_wallets', 'settle_due', 'unsealed_journals', 'journal_seals'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO weir_api USING (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)
            WITH CHECK (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)', name);
        EXECUTE format('CREATE POLICY pipeline ON %I TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;
