//! Images, built by a real Docker Engine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use engine::docker::build::{At, BuildError, BuildRequest, Context, ImageBuilder, Secrets};
use tempfile::TempDir;

/// A builder, if an Engine answers here; else a loud line, and a failure where a skip is one.
async fn builder() -> Option<ImageBuilder> {
    match ImageBuilder::connect().await {
        Ok(builder) => Some(builder),
        Err(error) => {
            let required = |name| std::env::var_os(name).is_some();
            let must = required("LAUNCHWAY_REQUIRE_DOCKER") || required("CI");
            assert!(!must, "{error}");
            println!("SKIPPED: no Docker Engine answers (dev/setup docker installs one)");
            None
        }
    }
}

/// A folder to build from, and a name that nobody else uses.
struct Case {
    folder: TempDir,
    name: String,
}

impl Case {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_ascii_lowercase();
        let name = format!("launchway-test/{}", name.trim_start_matches('.'));
        let case = Self { folder, name };
        files.iter().for_each(|(path, text)| case.write(path, text));
        case
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn request(&self) -> BuildRequest {
        BuildRequest {
            context: Context {
                root: Path::new(self.folder.path()).to_owned(),
                dockerfile: "Dockerfile".into(),
                inline: None,
                modified: 1_700_000_000,
            },
            tag: format!("{}:one", self.name),
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::from([("dev.launchway.test".into(), self.name.clone())]),
            secrets: Secrets::default(),
            pull: false,
            no_cache: false,
            network: None,
            extra_hosts: Vec::new(),
        }
    }

    async fn clear(&self, builder: &ImageBuilder) {
        let ours = BTreeMap::from([("dev.launchway.test".into(), self.name.clone())]);
        for image in builder.labelled(&ours).await.unwrap() {
            for tag in image.tags {
                builder.remove(&tag).await.unwrap();
            }
        }
    }
}

async fn build(
    builder: &ImageBuilder,
    request: &BuildRequest,
) -> (Result<domain::Digest, BuildError>, Vec<String>) {
    let mut lines = Vec::new();
    let built = builder.build(request, &mut |line| lines.push(line.to_owned())).await;
    (built, lines)
}

const TREE: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM python:3.11-slim\nARG COLOUR=white\nCOPY . /app\nRUN ls /app > /seen && echo said $COLOUR && cat /seen\n",
    ),
    (".dockerignore", "secret*\n"),
    ("main.py", "print('tea')"),
    ("secret.txt", "x"),
];

#[tokio::test]
async fn both_builders_build_from_a_folder_and_tell_what_they_do() {
    let Some(modern) = builder().await else { return };
    assert!(modern.has_buildkit());
    let classic = builder().await.unwrap().classic();
    for builder in [modern, classic] {
        let case = Case::new(TREE);
        // Another one each time: what comes from the cache says nothing.
        case.write("case", &case.name);
        let mut request = case.request();
        request.args.insert("COLOUR".into(), "green".into());
        let (built, lines) = build(&builder, &request).await;
        let id = built.unwrap();
        let said = lines.join("\n");
        assert!(said.contains("said green") && said.contains("main.py"), "{said}");
        assert!(!said.contains("secret.txt"), "{said}");
        let image = builder.image(&request.tag).await.unwrap().unwrap();
        assert_eq!(image.id, id);
        assert_eq!(image.labels["dev.launchway.test"], case.name);
        let again = build(&builder, &request).await;
        assert_eq!(again.0.unwrap(), id, "the same files make the same image");
        case.clear(&builder).await;
        assert_eq!(builder.image(&request.tag).await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_a_failing_step_said_is_kept_with_the_engines_own_words() {
    let Some(modern) = builder().await else { return };
    let classic = builder().await.unwrap().classic();
    for builder in [modern, classic] {
        let case = Case::new(&[(
            "Dockerfile",
            "FROM python:3.11-slim\nRUN echo boiling && echo over >&2 && exit 3\n",
        )]);
        let (built, lines) = build(&builder, &case.request()).await;
        let error = built.unwrap_err();
        let at = |line, instruction: &str| At { line, instruction: instruction.into() };
        let wanted = Some(at(2, "RUN echo boiling && echo over >&2 && exit 3"));
        assert!(matches!(&error, BuildError::Failed { at, .. } if *at == wanted), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("exit code: 3") || error.contains("non-zero code: 3"), "{error}");
        let said = lines.join("\n");
        assert!(said.contains("boiling") && said.contains("over"), "{said}");
    }
}

#[tokio::test]
async fn a_build_secret_reaches_its_step_and_nothing_else() {
    let Some(builder) = builder().await else { return };
    let case = Case::new(&[(
        "Dockerfile",
        "FROM python:3.11-slim\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token > /length\n\
         RUN test ! -s /run/secrets/token && echo it has $(cat /length) bytes\n",
    )]);
    let mut request = case.request();
    request.secrets.0.insert("token".into(), b"hunter22".to_vec());
    assert!(!format!("{request:?}").contains("hunter22"));
    request.no_cache = true;
    let (built, lines) = build(&builder, &request).await;
    let said = lines.join("\n");
    built.unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(said.contains("it has 8 bytes"), "{said}");
    assert!(!said.contains("hunter22"), "{said}");
    case.clear(&builder).await;
    let refused = build(&self::builder().await.unwrap().classic(), &request).await.0;
    assert!(matches!(refused, Err(BuildError::NoSecrets)));
}

#[tokio::test]
async fn a_build_secret_that_its_step_prints_is_blanked_out() {
    let Some(builder) = builder().await else { return };
    let case = Case::new(&[(
        "Dockerfile",
        "FROM python:3.11-slim\nRUN --mount=type=secret,id=token cat /run/secrets/token && echo printed && exit 3\n",
    )]);
    let mut request = case.request();
    request.secrets.0.insert("token".into(), b"hunter22\nand more\n".to_vec());
    request.secrets.0.insert("part".into(), b"hunter".to_vec());
    let (built, lines) = build(&builder, &request).await;
    let said = format!("{}\n{}", lines.join("\n"), built.unwrap_err());
    assert!(said.contains("printed") && said.contains("***"), "{said}");
    assert!(!said.contains("22") && !said.contains("and more"), "{said}");
}

#[tokio::test]
async fn a_build_that_nobody_waits_for_any_more_ends() {
    let Some(builder) = builder().await else { return };
    let marker = format!("{}", rand::random_range(100_000..999_999));
    let dockerfile = format!("FROM python:3.11-slim\nRUN echo begun && sleep 600.{marker}\n");
    let case = Case::new(&[("Dockerfile", &dockerfile)]);
    let request = case.request();
    let (tell, begun) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let mut log = move |line: &str| {
        if line.ends_with(" begun")
            && let Some(tell) = tell.take()
        {
            let _gone = tell.send(());
        }
    };
    tokio::select! {
        built = builder.build(&request, &mut log) => panic!("{built:?}"),
        begun = begun => begun.unwrap(),
    }
    let sleeps = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
        lines
            .map(|l| String::from_utf8_lossy(&l).into_owned())
            .any(|l| l.starts_with("sleep") && l.contains(&format!("600.{marker}")))
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while sleeps() {
        assert!(std::time::Instant::now() < deadline, "the step still runs");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_stage_can_be_the_end_and_a_missing_file_or_base_is_named() {
    let Some(builder) = builder().await else { return };
    let case =
        Case::new(&[("Dockerfile", "FROM scratch AS first\nCOPY a /\nFROM scratch\nCOPY b /\n")]);
    case.write("a", "x");
    let mut request = case.request();
    request.target = Some("first".into());
    build(&builder, &request).await.0.unwrap();
    case.clear(&builder).await;
    request.target = None;
    let at = |error: &BuildError| match error {
        BuildError::Failed { at: Some(at), .. } => at.line,
        other => panic!("{other:?}"),
    };
    let error = build(&builder, &request).await.0.unwrap_err();
    assert_eq!(at(&error), 4);
    let error = error.to_string();
    assert!(error.contains("\"/b\"") && error.contains("not found"), "{error}");
    case.write("Dockerfile", "# tea\nFROM nobody.invalid/nothing:1\n");
    let error = build(&builder, &request).await.0.unwrap_err();
    assert_eq!(at(&error), 2);
    let error = error.to_string();
    assert!(error.contains("nobody.invalid") && error.contains("nothing"), "{error}");
}
