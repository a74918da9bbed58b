-- Periods of teams that have a zone of their own.

ALTER TABLE meter_periods ADD COLUMN zone text COLLATE "C" NOT NULL DEFAULT '';
COMMENT ON COLUMN meter_periods.zone IS 'Of teams that have this zone of their own; empty for all others.';
ALTER TABLE meter_periods DROP CONSTRAINT meter_periods_pkey;
ALTER TABLE meter_periods ADD PRIMARY KEY (tenant_id, meter, zone, period_from);
