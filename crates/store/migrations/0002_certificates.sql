-- Accounts at CAs. The key is kept before the CA is told of it, so a crash never makes a second account.
CREATE TABLE acme_accounts (
    directory TEXT NOT NULL,
    email     TEXT NOT NULL,  -- empty without one
    key       BLOB NOT NULL,  -- PKCS#8
    url       TEXT,           -- what the CA knows it by; NULL until it answered
    PRIMARY KEY (directory, email)
);

-- The newest certificate of each set of names from each CA.
CREATE TABLE certificates (
    directory TEXT NOT NULL,
    names     TEXT NOT NULL,  -- sorted, separated by spaces
    chain     TEXT NOT NULL,  -- PEM
    key       TEXT NOT NULL,  -- PEM
    PRIMARY KEY (directory, names)
);

-- How often in a row an order failed, and when the next one may begin. Written before an order begins.
CREATE TABLE acme_attempts (
    directory TEXT   NOT NULL,
    names     TEXT   NOT NULL,
    failures  BIGINT NOT NULL,
    next      BIGINT NOT NULL,  -- milliseconds since the Unix epoch, UTC
    PRIMARY KEY (directory, names)
);
