//! PostgreSQL from the machine's own programs, as its image would be: user, password and database from the
//! environment on first use, reachable over TCP on 127.0.0.1 only.
//!
//! ```text
//! data/<service>/
//!   pg/        the cluster; everything is made in `<service>~new/` and renamed, so it is whole or absent
//!   load       there until the SQL file of `load` is in the database
//!   opened     the credentials that were seen to work, as a digest
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::Digest;
use domain::slot::{BackingSpec, Exit};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ProcessEngine;
use super::backing::{Server, folders_with, major};
use super::exec::Errand;

const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];

/// `$1` is the folder of the programs, `$2` how passwords are checked, `$3` the superuser.
const INIT: &str = r#"set -e
"$1/initdb" -D pg -U "$3" --pwfile=password -A "$2" -E UTF8 --locale=C.UTF-8
if [ -s create.sql ]; then "$1/postgres" --single -D pg postgres < create.sql; fi
rm -f password create.sql"#;

/// Says, in the same transaction as the data, that they are there: a repeated load can tell.
const LOADED: &str = "launchway: loaded";

impl ProcessEngine {
    /// Finds the programs and makes the cluster if there is none.
    pub(super) async fn prepare_postgres(
        &self,
        spec: &BackingSpec,
        data: &Path,
    ) -> Result<Server, String> {
        let access = Access::of(spec)?;
        let made_by = fs::read_to_string(data.join("pg/PG_VERSION"));
        let made_by = made_by.ok().and_then(|text| text.trim().parse().ok());
        let bin = programs(made_by, major(&spec.image)).await?;
        if made_by.is_none() {
            self.init(spec, &access, &bin, data).await?;
        }
        let program = bin.join("postgres").to_string_lossy().into_owned();
        let cluster = data.join("pg");
        let mut command: Vec<String> =
            ["/bin/sh", "-c", r#"exec "$0" -p "$PORT" "$@""#].map(str::to_owned).into();
        command.extend([program, "-D".into(), cluster.to_string_lossy().into_owned()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories="] {
            command.extend(["-c".into(), setting.into()]);
        }
        // SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to leave.
        Ok(Server { command, folder: cluster, stop_signal: Signal::SIGINT as i32 })
    }

    async fn init(
        &self,
        spec: &BackingSpec,
        access: &Access,
        bin: &Path,
        data: &Path,
    ) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let unit = self.layout.errand(&spec.environment, &spec.service, "init");
        // Somebody before us may still be at it.
        self.keeper.stop(&unit).await.map_err(|error| error.to_string())?;
        let new = beside(data, "new");
        let _ = fs::remove_dir_all(&new);
        self.config.own_folder(&new, 0o700).map_err(text)?;
        self.write_private(&new.join("password"), access.password.as_bytes()).map_err(text)?;
        self.write_private(&new.join("create.sql"), access.create().as_bytes()).map_err(text)?;
        let bin = bin.to_string_lossy().into_owned();
        let script = ["/bin/sh", "-c", INIT, "init", &bin, access.method, &access.user];
        let errand = Errand {
            command: script.map(str::to_owned).into(),
            folder: new.clone(),
            env: self.config.base_env(),
            limit: Duration::from_secs(120),
        };
        let (exit, lines) =
            self.run_errand(&unit, errand).await.map_err(|error| error.to_string())?;
        if !exit.success() {
            return Err(format!("initdb failed ({exit}): {}", lines.join("\n")));
        }
        if spec.load.is_some() {
            self.write_private(&new.join("load"), b"").map_err(text)?;
        }
        fs::rename(&new, data).map_err(text)?;
        let parent = data.parent().unwrap_or(Path::new("/"));
        fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(text)
    }

    /// Makes sure that the credentials work and the first data are loaded. Cheap when both were done.
    pub(super) async fn open_postgres(
        &self,
        spec: &BackingSpec,
        data: &Path,
        address: SocketAddr,
    ) -> Result<(), String> {
        let access = Access::of(spec)?;
        let text = |error: std::io::Error| error.to_string();
        let credentials =
            Digest::of([&*access.user, &access.password, &access.database].join("\0"));
        let opened = data.join("opened");
        if fs::read_to_string(&opened).unwrap_or_default() != credentials.as_str() {
            self.psql(spec, address, &["-c", "select 1"]).await.map_err(|why| {
                format!("it runs, but does not let `{}` in ({why}); its data were made with other values of POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_DB: set those, or delete the data with `launchway down --with-data`", access.user)
            })?;
            self.write_private(&opened, credentials.as_str().as_bytes()).map_err(text)?;
        }
        let pending = data.join("load");
        match &spec.load {
            Some(file) if pending.exists() => {
                self.load(spec, &access, data, address, file).await?;
                fs::remove_file(&pending).map_err(text)
            }
            _ => Ok(()),
        }
    }

    async fn load(
        &self,
        spec: &BackingSpec,
        access: &Access,
        data: &Path,
        address: SocketAddr,
        file: &Path,
    ) -> Result<(), String> {
        let question = "select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()";
        let said = self.psql(spec, address, &["-Atc", question]).await?;
        if said.iter().any(|line| line == LOADED) {
            return Ok(());
        }
        let content =
            fs::read(file).map_err(|error| format!("reading {}: {error}", file.display()))?;
        // A copy, because the user of the database may not be able to read the original.
        let copy = data.join("load.sql");
        self.write_private(&copy, &content).map_err(|error| error.to_string())?;
        let done = format!("comment on database {} is '{LOADED}'", quoted(&access.database));
        let copied = copy.to_string_lossy();
        let args = ["-q", "--single-transaction", "-f", &copied, "-c", &done];
        let loaded = self.psql(spec, address, &args).await;
        let _ = fs::remove_file(&copy);
        loaded.map(drop).map_err(|why| format!("loading {}: {why}", file.display()))
    }

    async fn psql(
        &self,
        spec: &BackingSpec,
        address: SocketAddr,
        args: &[&str],
    ) -> Result<Vec<String>, String> {
        let access = Access::of(spec)?;
        let bin = programs(None, major(&spec.image)).await?;
        let mut command = vec![bin.join("psql").to_string_lossy().into_owned()];
        command.extend(["-X", "-v", "ON_ERROR_STOP=1"].map(str::to_owned));
        command.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut env = self.config.base_env();
        env.extend(access.client_env(address));
        let errand =
            Errand { command, folder: self.config.home(), env, limit: Duration::from_secs(600) };
        let unit = self.layout.errand(&spec.environment, &spec.service, "psql");
        let (exit, lines) =
            self.run_errand(&unit, errand).await.map_err(|error| error.to_string())?;
        match exit {
            Exit::Code(0) => Ok(lines),
            _ => Err(format!("psql {}: {}", exit.predicate(), lines.join("\n"))),
        }
    }

    /// For the user of the database only.
    fn write_private(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        use std::io::Write;
        let _ = fs::remove_file(path);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        self.config.give_away(path)
    }
}

/// What the image's environment says about who may come in.
struct Access {
    user: String,
    password: String,
    database: String,
    method: &'static str,
}

impl Access {
    fn of(spec: &BackingSpec) -> Result<Self, String> {
        let get = |name: &str| spec.env.get(name).filter(|value| !value.is_empty()).cloned();
        let user = get("POSTGRES_USER").unwrap_or_else(|| "postgres".to_owned());
        let database = get("POSTGRES_DB").unwrap_or_else(|| user.clone());
        let trusted = get("POSTGRES_HOST_AUTH_METHOD").is_some_and(|method| method == "trust");
        let password = match get("POSTGRES_PASSWORD") {
            Some(password) => password,
            None if trusted => "unused".to_owned(),
            None => {
                return Err("POSTGRES_PASSWORD is not set; the image refuses to start without it, so does this engine: set it under `environment:` of the service in compose.yaml".to_owned());
            }
        };
        if [&user, &password, &database].iter().any(|value| value.contains(['\n', '\0'])) {
            return Err(
                "POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_DB contains a line break".to_owned()
            );
        }
        Ok(Self {
            user,
            password,
            database,
            method: if trusted { "trust" } else { "scram-sha-256" },
        })
    }

    /// The statement that makes the database, unless it is there from the start.
    fn create(&self) -> String {
        match self.database.as_str() {
            "postgres" => String::new(),
            name => format!("create database {}\n", quoted(name)),
        }
    }

    fn client_env(&self, address: SocketAddr) -> BTreeMap<String, String> {
        let named = [
            ("PGHOST", address.ip().to_string()),
            ("PGPORT", address.port().to_string()),
            ("PGUSER", self.user.clone()),
            ("PGPASSWORD", self.password.clone()),
            ("PGDATABASE", self.database.clone()),
            ("PGCONNECT_TIMEOUT", "10".to_owned()),
        ];
        named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A folder that no service can have: `~` is in no service's name.
fn beside(data: &Path, what: &str) -> PathBuf {
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    data.with_file_name(format!("{name}~{what}"))
}

/// Where PostgreSQL's programs are: of the version that made the data, else the wanted one, else the newest.
async fn programs(made_by: Option<u32>, wanted: Option<u32>) -> Result<PathBuf, String> {
    let mut found = Vec::new();
    for folder in folders_with(&PROGRAMS, versioned_folders()) {
        if let Some(version) = version_of(&folder).await {
            found.push((version, folder));
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let Some((newest, folder)) = found.first().cloned() else {
        return Err(
            "PostgreSQL is not installed; run `dev/setup`, or `apt-get install postgresql`"
                .to_owned(),
        );
    };
    let of = |version: Option<u32>| found.iter().find(|(found, _)| Some(*found) == version);
    if let Some(version) = made_by {
        let same = of(made_by).map(|(_, folder)| folder.clone());
        return same.ok_or_else(|| {
            format!("its data were made by PostgreSQL {version}, but only {newest} is installed; install {version}, or delete the data with `launchway down --with-data`")
        });
    }
    if let Some((_, folder)) = of(wanted) {
        return Ok(folder.clone());
    }
    if let Some(wanted) = wanted {
        // Looked up again and again, and true for as long as the machine stays as it is.
        static SAID: std::sync::Once = std::sync::Once::new();
        SAID.call_once(|| {
            tracing::warn!(
                wanted,
                newest,
                "the image names another PostgreSQL than this machine has"
            );
        });
    }
    Ok(folder)
}

/// `/usr/lib/postgresql/15/bin` (Debian), `/usr/pgsql-15/bin` (Red Hat), `postgresql@15` (Homebrew).
fn versioned_folders() -> Vec<PathBuf> {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let debian = entries("/usr/lib/postgresql");
    let named = |prefix: &'static str| {
        move |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix)
    };
    let red_hat = entries("/usr").filter(named("pgsql-"));
    let brew = ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"];
    let brew = brew.into_iter().flat_map(entries).filter(named("postgresql"));
    debian.chain(red_hat).chain(brew).map(|entry| entry.path().join("bin")).collect()
}

/// The major version, asked of the program itself.
async fn version_of(folder: &Path) -> Option<u32> {
    let mut asking = tokio::process::Command::new(folder.join("postgres"));
    asking.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let answer = tokio::time::timeout(Duration::from_secs(5), asking.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let number =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What `pg_isready` does: a first message, and whether the server wants to go on with it
/// (Frontend/Backend Protocol, section 55.7).
pub(crate) async fn ping(address: SocketAddr, spec: &BackingSpec) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{address}: {error}");
    let access = Access::of(spec)?;
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    stream.write_all(&hello(&access)).await.map_err(text)?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer).await.map_err(text)?;
    match answer[..length].first() {
        Some(b'R') => Ok(()),
        Some(b'E') => Err(message_of(&answer[5..length.max(5)])),
        _ => Err("it closed the connection".to_owned()),
    }
}

/// StartupMessage, protocol 3.0.
fn hello(access: &Access) -> Vec<u8> {
    let pairs = ["user", &access.user, "database", &access.database];
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in pairs {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
    message.extend(body);
    message
}

/// The text (`M`) of an ErrorResponse, for example "the database system is starting up".
fn message_of(fields: &[u8]) -> String {
    let texts = fields.split(|byte| *byte == 0);
    let message = texts.into_iter().find_map(|field| field.strip_prefix(b"M"));
    message.map_or("it refuses".to_owned(), |text| String::from_utf8_lossy(text).into_owned())
}
