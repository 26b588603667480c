//! What the keeper of certificates must not forget: accounts at CAs, certificates with their keys, attempts.

use std::fmt;

use domain::Timestamp;
use domain::certificate::Attempts;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::{Store, StoreError};

/// An account at a CA. Printing it for people shows nothing of its key.
#[derive(Clone, PartialEq, Eq)]
pub struct AcmeAccount {
    pub directory: String,
    /// Empty without one.
    pub email: String,
    /// PKCS#8.
    pub key: Vec<u8>,
    /// What the CA knows it by; `None` until it answered.
    pub url: Option<String>,
}

/// A certificate that a CA gave for `names`, or that was read from files. Printing it for people shows nothing of its key.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredCertificate {
    /// The CA's, or the paths of the files.
    pub directory: String,
    /// Sorted; none of files, which are kept for whatever names they are wanted.
    pub names: Vec<String>,
    /// PEM.
    pub chain: String,
    /// PEM.
    pub key: String,
}

impl fmt::Debug for AcmeAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcmeAccount({} at {})", self.email, self.directory)
    }
}

impl fmt::Debug for StoredCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredCertificate({} from {})", self.names.join(" "), self.directory)
    }
}

impl Store {
    /// The account of `email` at the CA with this directory.
    pub async fn acme_account(
        &self,
        directory: &str,
        email: &str,
    ) -> Result<Option<AcmeAccount>, StoreError> {
        let row =
            sqlx::query("SELECT key, url FROM acme_accounts WHERE directory = $1 AND email = $2")
                .bind(directory)
                .bind(email)
                .fetch_optional(self.pool())
                .await;
        let row = row.map_err(|source| self.sql("reading accounts from", source))?;
        Ok(row.map(|row: SqliteRow| AcmeAccount {
            directory: directory.into(),
            email: email.into(),
            key: row.get(0),
            url: row.get(1),
        }))
    }

    /// Keeps an account in the place of what was known of it. When this returns, it is on disk.
    pub async fn keep_acme_account(&self, account: &AcmeAccount) -> Result<(), StoreError> {
        let kept = sqlx::query(
            "INSERT INTO acme_accounts (directory, email, key, url) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (directory, email) DO UPDATE SET key = excluded.key, url = excluded.url",
        )
        .bind(&account.directory)
        .bind(&account.email)
        .bind(&account.key)
        .bind(&account.url)
        .execute(self.pool())
        .await;
        kept.map(drop).map_err(|source| self.sql("keeping an account in", source))
    }

    /// All certificates that CAs gave, and those that were read from files.
    pub async fn certificates(&self) -> Result<Vec<StoredCertificate>, StoreError> {
        let rows = sqlx::query("SELECT directory, names, chain, key FROM certificates")
            .fetch_all(self.pool())
            .await;
        let rows = rows.map_err(|source| self.sql("reading certificates from", source))?;
        let read = |row: &SqliteRow| StoredCertificate {
            directory: row.get(0),
            names: row.get::<&str, _>(1).split_whitespace().map(str::to_owned).collect(),
            chain: row.get(2),
            key: row.get(3),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Keeps a certificate in the place of the one for the same names. When this returns, it is on disk.
    pub async fn keep_certificate(&self, given: &StoredCertificate) -> Result<(), StoreError> {
        let kept = sqlx::query(
            "INSERT INTO certificates (directory, names, chain, key) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (directory, names) DO UPDATE SET chain = excluded.chain, key = excluded.key",
        )
        .bind(&given.directory)
        .bind(given.names.join(" "))
        .bind(&given.chain)
        .bind(&given.key)
        .execute(self.pool())
        .await;
        kept.map(drop).map_err(|source| self.sql("keeping a certificate in", source))
    }

    /// How orders of `names` went so far.
    pub async fn acme_attempts(
        &self,
        directory: &str,
        names: &[String],
    ) -> Result<Attempts, StoreError> {
        let row = sqlx::query(
            "SELECT failures, next FROM acme_attempts WHERE directory = $1 AND names = $2",
        )
        .bind(directory)
        .bind(names.join(" "))
        .fetch_optional(self.pool())
        .await;
        let row = row.map_err(|source| self.sql("reading attempts from", source))?;
        Ok(row.map_or_else(Attempts::default, |row: SqliteRow| Attempts {
            failures: u32::try_from(row.get::<i64, _>(0)).unwrap_or(u32::MAX),
            next: Timestamp::from_millis(row.get(1)),
        }))
    }

    /// Keeps how orders of `names` went. When this returns, it is on disk.
    pub async fn keep_acme_attempts(
        &self,
        directory: &str,
        names: &[String],
        attempts: Attempts,
    ) -> Result<(), StoreError> {
        let kept = sqlx::query(
            "INSERT INTO acme_attempts (directory, names, failures, next) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (directory, names) DO UPDATE SET failures = excluded.failures, next = excluded.next",
        )
        .bind(directory)
        .bind(names.join(" "))
        .bind(i64::from(attempts.failures))
        .bind(attempts.next.as_millis())
        .execute(self.pool())
        .await;
        kept.map(drop).map_err(|source| self.sql("keeping attempts in", source))
    }
}
