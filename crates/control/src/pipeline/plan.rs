//! Reads the project of a commit from the commit itself.

use domain::CommitId;
use domain::config::{ExpectedFile, Mistake, Project, Source, inspect};

use super::error::PlanError;
use super::repository::{Files, Repository};

const LAUNCHWAY: &str = "launchway.yaml";
/// In the order in which Compose itself prefers them.
const COMPOSE: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// The project that the commit's two files describe, with all that they name.
pub(crate) async fn project(
    repository: &Repository,
    commit: &CommitId,
) -> Result<Project, PlanError> {
    let files = repository.files(commit).await?;
    let missing = |name: &str, help: &str| {
        PlanError::Mistakes(vec![format!("{name}:1:1: the commit has no such file; {help}")])
    };
    let compose_path = COMPOSE.into_iter().find(|name| files.contains_key(*name));
    let compose_path = compose_path
        .ok_or_else(|| missing(COMPOSE[0], "commit the file that says what the app is"))?;
    let launchway = repository.file(commit, LAUNCHWAY).await?.ok_or_else(|| {
        missing(LAUNCHWAY, "`launchway init` writes a first one, which has to be committed")
    })?;
    let compose = repository.file(commit, compose_path).await?.unwrap_or_default();
    let reading = inspect(
        Source { path: LAUNCHWAY, text: &launchway },
        Source { path: compose_path, text: &compose },
    );
    let reading =
        reading.map_err(|mistakes| PlanError::Mistakes(mistakes.iter().map(line).collect()))?;
    let absent: Vec<String> = reading
        .files
        .iter()
        .filter(|expected| !there(&files, expected))
        .map(|expected| line(&expected.otherwise))
        .collect();
    match absent.is_empty() {
        true => Ok(reading.project),
        false => Err(PlanError::Mistakes(absent)),
    }
}

fn line(mistake: &Mistake) -> String {
    format!("{mistake}; {}", mistake.help)
}

/// Git knows no empty folders: a folder is there if a file is in it.
fn there(files: &Files, expected: &ExpectedFile) -> bool {
    if !expected.folder {
        return files.contains_key(&expected.path);
    }
    let below = format!("{}/", expected.path);
    expected.path.is_empty()
        || files.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below))
}
