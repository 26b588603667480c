//! Reads a Compose project: its file, the variables of the shell and of `.env`, and the files of variables it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use domain::ServiceName;
use domain::config::{
    COMPOSE_FILES, COMPOSE_OVERRIDES, ComposedService, EnvFile, Lookup, Mistake, Network, Note,
    Source, Volume, compose, parse_env_file, with_env_files,
};

use super::UpError;

/// What was asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Where the Compose file is looked for.
    pub folder: PathBuf,
    /// The Compose file, if it is not found by its name.
    pub file: Option<PathBuf>,
    /// Goes before what the file says.
    pub name: Option<String>,
    pub profiles: Vec<String>,
    /// Only these, and what they depend on; empty: all.
    pub services: Vec<String>,
}

/// A Compose project, ready to be run.
#[derive(Debug, Clone)]
pub struct Project {
    pub name: String,
    /// Absolute, without links.
    pub folder: PathBuf,
    pub services: BTreeMap<ServiceName, Service>,
    pub networks: BTreeMap<String, Network>,
    pub volumes: BTreeMap<String, Volume>,
    /// All of the file, those too that are not asked for.
    pub known: BTreeSet<String>,
    /// Of `.env`; those of the shell go before them.
    variables: BTreeMap<String, String>,
}

/// A service, with its whole environment.
#[derive(Debug, Clone)]
pub struct Service {
    pub said: ComposedService,
    pub env: BTreeMap<String, String>,
}

/// A project, and what there is to know about its file.
#[derive(Debug, Clone)]
pub struct Read {
    pub project: Project,
    pub notes: Vec<Note>,
}

impl Project {
    /// Reads what is asked for.
    pub fn read(asked: &Asked) -> Result<Read, UpError> {
        let path = match asked.file.clone().or_else(named_by_shell) {
            Some(file) => asked.folder.join(file),
            None => find(&asked.folder)?,
        };
        let text = read(&path)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let folder = std::fs::canonicalize(if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        });
        let folder = folder.map_err(|why| UpError::Io { path: path.clone(), why })?;
        let variables = dot_env(&folder)?;
        let lookup = |name: &str| std::env::var(name).ok().or_else(|| variables.get(name).cloned());

        let mut profiles = asked.profiles.clone();
        let more = lookup("COMPOSE_PROFILES").unwrap_or_default();
        profiles.extend(
            more.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned),
        );
        let shown = path.display().to_string();
        let source = Source { path: &shown, text: &text };
        let (read, notes) = compose(source, &lookup, &profiles).map_err(misread(source))?;

        let known = everything(source, &lookup)?;
        let given = asked
            .name
            .clone()
            .or_else(|| lookup("COMPOSE_PROJECT_NAME"))
            .filter(|name| !name.is_empty());
        let name = project_name(given.or(read.name), &folder)?;
        let wanted = wanted(&read.services, &asked.services, &known)?;
        let mut services = BTreeMap::new();
        for (service, said) in read.services {
            if wanted.contains(&service) {
                let env = environment(&service, &said, &folder, &lookup)?;
                services.insert(service, Service { said, env });
            }
        }
        if services.is_empty() {
            let help = "name its profiles with `--profile`";
            return Err(UpError::refused(format!("no service of {shown} is to run"), help));
        }
        let project = Self {
            name,
            folder,
            services,
            networks: read.networks,
            volumes: read.volumes,
            known,
            variables,
        };
        Ok(Read { project, notes })
    }

    /// What the file means by the variable of this name.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().or_else(|| self.variables.get(name).cloned())
    }

    /// A path of the file as one of this machine.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        let mut parts = path.components();
        if let (Some(Component::Normal(first)), Some(home)) =
            (parts.next(), std::env::var_os("HOME"))
            && first == "~"
        {
            return Path::new(&home).join(parts.as_path());
        }
        self.folder.join(path)
    }

    /// The network's name on the Engine.
    pub(super) fn network_name(&self, network: &str) -> String {
        let given = self.networks.get(network).and_then(|network| network.name.clone());
        given.unwrap_or_else(|| format!("{}_{network}", self.name))
    }

    /// The volume's name on the Engine.
    pub(super) fn volume_name(&self, volume: &str) -> String {
        let given = self.volumes.get(volume).and_then(|volume| volume.name.clone());
        given.unwrap_or_else(|| format!("{}_{volume}", self.name))
    }
}

/// All services of the file: what runs of another profile is no stranger.
fn everything(source: Source<'_>, lookup: Lookup<'_>) -> Result<BTreeSet<String>, UpError> {
    let (all, _) = compose(source, lookup, &["*".to_owned()]).map_err(misread(source))?;
    Ok(all.services.keys().map(ToString::to_string).collect())
}

fn misread(source: Source<'_>) -> impl Fn(Vec<Mistake>) -> UpError {
    let (path, text) = (source.path.to_owned(), source.text.to_owned());
    move |mistakes| UpError::Mistakes { mistakes, path: path.clone(), text: text.clone() }
}

fn named_by_shell() -> Option<PathBuf> {
    std::env::var_os("COMPOSE_FILE").filter(|file| !file.is_empty()).map(PathBuf::from)
}

fn find(folder: &Path) -> Result<PathBuf, UpError> {
    let there =
        |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let Some(path) = there(&COMPOSE_FILES) else {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        return Err(UpError::refused(
            format!("there is no Compose file in {}", folder.display()),
            "write a compose.yaml that says what the app is, or name one with `--file`, or its folder with `-C`",
        ));
    };
    if let Some(more) = there(&COMPOSE_OVERRIDES) {
        return Err(UpError::refused(
            format!(
                "{} would change what {} says, and is not read here",
                more.display(),
                path.display()
            ),
            "write all of it into one file (`docker compose config > compose.all.yaml` does) and name that with `--file`",
        ));
    }
    Ok(path)
}

fn read(path: &Path) -> Result<String, UpError> {
    let io = |why| UpError::Io { path: path.to_owned(), why };
    String::from_utf8(std::fs::read(path).map_err(io)?).map_err(|_| {
        UpError::refused(format!("{} is not UTF-8 text", path.display()), "save the file as UTF-8")
    })
}

/// The variables of `.env` beside the Compose file; those of the shell go before them.
fn dot_env(folder: &Path) -> Result<BTreeMap<String, String>, UpError> {
    let path = folder.join(".env");
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let text = read(&path)?;
    parse_env_file(&text, false, &|name| std::env::var(name).ok())
        .map_err(|error| unreadable(&path, &error))
}

fn unreadable(path: &Path, error: &domain::config::EnvFileError) -> UpError {
    UpError::refused(
        format!("{}: line {}: {}", path.display(), error.line, error.problem),
        "correct the line",
    )
}

/// The environment of a container: `environment` over the files of `env_file`.
fn environment(
    name: &ServiceName,
    service: &ComposedService,
    folder: &Path,
    lookup: Lookup<'_>,
) -> Result<BTreeMap<String, String>, UpError> {
    let mut files: Vec<(&EnvFile, String)> = Vec::new();
    for file in &service.env_files {
        let path = folder.join(&file.path);
        match path.is_file() {
            true => files.push((file, read(&path)?)),
            false if file.required => {
                let message = format!("{} of `env_file` of {name} is not there", path.display());
                return Err(UpError::refused(
                    message,
                    "write it, or say `required: false` beside its `path`",
                ));
            }
            false => {}
        }
    }
    with_env_files(&files, &service.env, lookup)
        .map_err(|(path, error)| unreadable(&folder.join(path), &error))
}

/// Those asked for and all that they depend on.
fn wanted(
    services: &BTreeMap<ServiceName, ComposedService>,
    asked: &[String],
    known: &BTreeSet<String>,
) -> Result<BTreeSet<ServiceName>, UpError> {
    if asked.is_empty() {
        return Ok(services.keys().cloned().collect());
    }
    let mut open = Vec::new();
    for name in asked {
        let found = services.keys().find(|service| service.as_str() == name);
        let help = match known.contains(name) {
            true => "it belongs to a profile: name that with `--profile`".to_owned(),
            false => format!("there are {}", known.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        let found = found
            .ok_or_else(|| UpError::refused(format!("no service `{name}` runs here"), help))?;
        open.push(found.clone());
    }
    let mut all = BTreeSet::new();
    while let Some(name) = open.pop() {
        if let Some(service) = services.get(&name)
            && all.insert(name)
        {
            open.extend(service.depends_on.keys().cloned());
        }
    }
    Ok(all)
}

/// As Compose makes it: of the folder's name in small letters, without what is no letter, digit, `-` or `_`.
fn project_name(given: Option<String>, folder: &Path) -> Result<String, UpError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if let Some(name) = given {
        if name.chars().all(fits) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Ok(name);
        }
        let help = "write small letters, digits, `-` and `_`, with a letter or digit first";
        return Err(UpError::refused(format!("`{name}` cannot be the name of a project"), help));
    }
    let own = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = own.chars().filter(|c| fits(*c)).collect();
    let name = name.trim_start_matches(['-', '_']);
    if name.is_empty() {
        let message = format!("{} is no name for a project", folder.display());
        return Err(UpError::refused(message, "write `name:` into the Compose file"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_named_by_its_file_or_its_folder() {
        let of = |given: Option<&str>, folder: &str| {
            project_name(given.map(str::to_owned), Path::new(folder)).ok()
        };
        assert_eq!(of(Some("shop"), "/srv/Other").as_deref(), Some("shop"));
        assert_eq!(of(None, "/srv/_My Shop.v2").as_deref(), Some("myshopv2"));
        assert_eq!(of(Some("My Shop"), "/srv/x"), None);
        assert_eq!(of(None, "/"), None);
    }
}
