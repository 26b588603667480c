//! The rules of publishing a table, and the copy on disk that an edge starts from when it is alone.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use domain::Epoch;
use domain::route::Table;

use crate::live::host_name;

/// The table's file, `table.json`.
pub struct TableFile {
    folder: PathBuf,
}

/// Why an offered table is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("epoch {offered} is older than epoch {in_force}, which is in force")]
    Stale { offered: Epoch, in_force: Epoch },
    #[error("epoch {0} is in force with another content; a changed table needs a higher epoch")]
    Conflict(Epoch),
    #[error("{0}")]
    Invalid(String),
}

/// Whether `offered` may replace `current`: `Ok(false)` means that it is in force already.
pub fn check(current: &Table, offered: &Table) -> Result<bool, Refused> {
    if offered.epoch < current.epoch {
        return Err(Refused::Stale { offered: offered.epoch, in_force: current.epoch });
    }
    if offered.epoch == current.epoch {
        let same = offered == current;
        return if same { Ok(false) } else { Err(Refused::Conflict(current.epoch)) };
    }
    validate(offered).map_err(Refused::Invalid)?;
    Ok(true)
}

fn validate(table: &Table) -> Result<(), String> {
    let mut hosts = HashSet::new();
    for (name, environment) in &table.environments {
        for host in [&environment.host, &environment.preview_host] {
            if host.is_empty() || !hosts.insert(host_name(host).to_ascii_lowercase()) {
                return Err(format!(
                    "environment {name}: host `{host}` is empty or taken; every host name answers for one slot"
                ));
            }
        }
        for route in environment.slots.values().flat_map(|slot| &slot.routes) {
            let closed = route.prefix.len() > 1 && route.prefix.ends_with('/');
            if !route.prefix.starts_with('/') || closed {
                return Err(format!(
                    "environment {name}, service {}: prefix `{}` must begin with `/` and not end with it",
                    route.service, route.prefix
                ));
            }
        }
    }
    Ok(())
}

impl TableFile {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("table.json")
    }

    /// The last table that was acknowledged. A file that cannot be read as one is kept aside, for people.
    pub fn load(&self) -> Table {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Table::default(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the last table cannot be read: serving nothing until one is published");
                return Table::default();
            }
        };
        let table = serde_json::from_slice::<Table>(&text).map_err(|error| error.to_string());
        match table.and_then(|table| validate(&table).map(|()| table)) {
            Ok(table) => table,
            Err(error) => {
                let aside = self.folder.join("table.json.bad");
                let kept = fs::rename(&path, &aside).is_ok();
                tracing::error!(path = %path.display(), aside = %aside.display(), kept, %error, "the last table is damaged: serving nothing until one is published");
                Table::default()
            }
        }
    }

    /// Writes `table` so that after a crash at any point either the old or the new one is read, whole.
    pub fn save(&self, table: &Table) -> io::Result<()> {
        let temporary = self.folder.join("table.json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(table)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_table_is_kept_aside_and_nothing_is_served_from_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("table.json"), b"{\"epoch\": 7, \"environ").unwrap();
        assert_eq!(TableFile::new(folder.path()).load(), Table::default());
        assert!(folder.path().join("table.json.bad").exists());
    }

    #[test]
    fn a_saved_table_is_read_back_and_an_older_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = TableFile::new(folder.path());
        let table = Table { epoch: Epoch(3), ..Table::default() };
        file.save(&table).unwrap();
        assert_eq!(file.load(), table);
        let older = Table { epoch: Epoch(2), ..Table::default() };
        let refused = Refused::Stale { offered: Epoch(2), in_force: Epoch(3) };
        assert_eq!(check(&table, &older), Err(refused));
        assert_eq!(check(&table, &table), Ok(false));
    }
}
