//! `launchway init`: what it writes passes `check`.

mod project;

use project::{launchway, text, write};

const COMPOSE: &str = "services:
  web:
    build: ./web
    ports: ['8080:80']
  orders:
    build: ./orders
    healthcheck: { test: curl -f http://localhost:8000/ready || exit 1 }
  mystery: { build: ./mystery }
  db:
    image: 'postgres:16'
    volumes: ['./${FIRST_DATA:-first.sql}:/docker-entrypoint-initdb.d/first.sql:ro']
";

/// Files as they lie in a Compose project before it meets Launchway.
const FILES: &[(&str, &str)] = &[
    ("compose.yaml", COMPOSE),
    ("web/package.json", r#"{ "scripts": { "build": "vite build" } }"#),
    ("web/package-lock.json", "{}"),
    (
        "web/Dockerfile",
        "FROM node AS b\nFROM nginx\nCOPY --from=b /app/dist /usr/share/nginx/html\n",
    ),
    ("web/nginx.conf", "location /orders/ {\n  proxy_pass http://orders:8000;\n}\n"),
    ("orders/requirements.txt", "uvicorn\n"),
    (
        "orders/Dockerfile",
        "EXPOSE 8000\nCMD [\"uvicorn\", \"main:app\", \"--host\", \"0.0.0.0\", \"--port\", \"8000\"]\n",
    ),
    ("mystery/Dockerfile", "FROM scratch\n"),
];

#[test]
fn init_writes_a_first_file_that_passes_check() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let project = folder.path().join("Tea Shop_1");
    write(&project, FILES);
    let asked: [(&str, &[&str]); 2] = [
        ("first-file-in-containers", &["init"]),
        ("first-file", &["init", "--force", "--engine", "process"]),
    ];
    for (name, arguments) in asked {
        let output = launchway(&project, arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let written = std::fs::read_to_string(project.join("launchway.yaml")).expect("written");
        let user = nix::unistd::User::from_uid(nix::unistd::getuid());
        let user = user.expect("readable").expect("there").name;
        let written = written.replace(&format!("from: [{user}]"), "from: [USER]");
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "check/init", omit_expression => true }, {
            insta::assert_snapshot!(name, written);
        });
        let output = launchway(&project, &["check"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

#[test]
fn init_does_without_containers_where_something_is_not_for_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), FILES);
    let printed = || {
        let output = launchway(folder.path(), &["init", "--print"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    assert!(printed().0.contains("engine: docker\n"));
    write(
        folder.path(),
        &[("compose.yaml", &format!("{COMPOSE}networks: {{ default: {{ internal: true }} }}\n"))],
    );
    let (file, said) = printed();
    assert!(!file.contains("engine: docker\n"), "{file}");
    assert!(said.contains("compose.yaml:") && said.contains("is internal"), "{said}");
    write(folder.path(), FILES);
    std::fs::remove_file(folder.path().join("orders/Dockerfile")).expect("it was there");
    assert!(!printed().0.contains("engine: docker\n"), "there is no image to build");
}

#[test]
fn init_prints_its_file_as_json_when_asked_for_json() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), FILES);
    let plain = text(&launchway(folder.path(), &["init", "--print"]).stdout);
    let output = launchway(folder.path(), &["init", "--print", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&answer["written"], answer["text"].as_str()), (&false.into(), Some(&*plain)));
    let output = launchway(folder.path(), &["init", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&answer["written"], answer["text"].as_str()), (&true.into(), Some(&*plain)));
}

#[test]
fn init_replaces_a_file_only_when_told_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), FILES);
    write(folder.path(), &[("launchway.yaml", "mine\n")]);
    let output = launchway(folder.path(), &["init"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there already"), "{}", text(&output.stderr));
    let kept = || std::fs::read_to_string(folder.path().join("launchway.yaml")).expect("there");
    assert_eq!(kept(), "mine\n");
    assert_eq!(launchway(folder.path(), &["init", "--force"]).status.code(), Some(0));
    assert_ne!(kept(), "mine\n");
}

#[test]
fn init_writes_nothing_when_the_compose_file_cannot_be_used() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let compose = "services: { db: { image: 'mysql:8' }, api: { build: . } }\n";
    write(folder.path(), &[("compose.yaml", compose)]);
    let output = launchway(folder.path(), &["init"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("compose.yaml:1:26: "), "{}", text(&output.stderr));
    assert!(!folder.path().join("launchway.yaml").exists());
}

#[test]
fn init_follows_the_branch_that_there_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), FILES);
    let printed = || text(&launchway(folder.path(), &["init", "--print"]).stdout);
    let git = |arguments: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]);
        let done = git.args(arguments).current_dir(folder.path()).output().expect("git runs");
        assert!(done.status.success(), "{}", text(&done.stderr));
    };
    assert!(printed().contains("branch: main "), "no repository yet: {}", printed());
    git(&["init", "-q", "-b", "release/1.x"]);
    assert!(printed().contains("branch: release/1.x "), "{}", printed());
    git(&["commit", "-q", "--allow-empty", "-m", "First"]);
    git(&["checkout", "-q", "--detach"]);
    assert!(printed().contains("branch: release/1.x "), "the only one: {}", printed());
    git(&["branch", "other"]);
    assert!(printed().contains("branch: main "), "{}", printed());
}

#[test]
fn init_serves_no_more_files_than_it_must_and_none_beside_a_program() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = "services:\n  web: { build: . }\n";
    write(folder.path(), &[("compose.yaml", root), ("index.html", "<h1>Tea</h1>")]);
    let printed = || {
        let output = launchway(folder.path(), &["init", "--print", "--engine", "process"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    write(folder.path(), &[("Dockerfile", "FROM python\nCMD [\"python\", \"app.py\"]\n")]);
    let file = printed();
    assert!(file.contains("run: python3 app.py\n") && !file.contains("static:"), "{file}");
    write(folder.path(), &[("Dockerfile", "FROM nginx\nCOPY . /usr/share/nginx/html\n")]);
    let file = printed();
    assert!(file.contains("static: .\n") && file.contains("serves every file"), "{file}");
    write(folder.path(), &[("pages/index.html", "<h1>Tea</h1>")]);
    write(folder.path(), &[("Dockerfile", "FROM nginx\nCOPY ./pages/ /usr/share/nginx/html/\n")]);
    let file = printed();
    assert!(file.contains("static: pages\n") && !file.contains("serves every file"), "{file}");
    std::fs::remove_file(folder.path().join("index.html")).expect("it was there");
    write(folder.path(), &[("Dockerfile", "FROM nginx\nCOPY . /usr/share/nginx/html\n")]);
    assert!(!printed().contains("static:"), "{}", printed());
}
