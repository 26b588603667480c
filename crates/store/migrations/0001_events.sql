-- The event log. Append only: a row is never changed and never deleted.
CREATE TABLE events (
    seq     BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,  -- milliseconds since the Unix epoch, UTC
    subject TEXT   NOT NULL,  -- the run, rollout or environment it is about
    body    TEXT   NOT NULL   -- the event as JSON
);
CREATE INDEX events_by_subject ON events (subject, seq);
