"""The project that is built: a small web app whose steps really compute and write, and the script a user would have
instead of Launchway. Both run the very same commands."""

import pathlib
import subprocess

# Stage -> steps of (name, folder, what work.py does, how many rounds): six to seven seconds each. Steps of a stage run
# side by side.
STAGES = {
    "analyze": [("compile", "compiling", "compile", 20), ("tokens", "tokens", "tokenize", 9)],
    "test": [("unit", "unit", "unit", 6), ("files", "files", "files", 18)],
}
IMAGE = ("web", "web", "compile", 18)
PARALLEL = 2

WORK = '''\
"""Work that takes the same effort each time: `work.py KIND ROUNDS`."""
import hashlib, io, os, pathlib, random, sys, tempfile, time, tokenize

SOURCES = sorted(pathlib.Path(os.__file__).parent.glob("*.py"))[:60]


def compile_sources():
    for source in SOURCES:
        compile(source.read_bytes(), source.name, "exec")


def tokenize_sources():
    for source in SOURCES:
        list(tokenize.tokenize(io.BytesIO(source.read_bytes()).readline))


def unit():
    """Sorts and sums, as tests of business logic do."""
    numbers = random.Random(7)
    rows = [(numbers.random(), numbers.randrange(1000)) for _ in range(400_000)]
    rows.sort()
    assert rows == sorted(rows, key=lambda row: row[0])


def files():
    """Writes, syncs and reads back what a build writes."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        digest = hashlib.sha256()
        for number in range(300):
            path = pathlib.Path(folder, str(number))
            path.write_bytes(number.to_bytes(2, "big") * 150_000)
            digest.update(path.read_bytes())
        assert digest.digest()


KINDS = {"compile": compile_sources, "tokenize": tokenize_sources, "unit": unit, "files": files}
kind, rounds = sys.argv[1], int(sys.argv[2])
began = time.monotonic()
for _ in range(rounds):
    KINDS[kind]()
took = time.monotonic() - began
pathlib.Path("junit.xml").write_text(
    f'<testsuites><testsuite name="{kind}" tests="1" failures="0" errors="0">'
    f'<testcase classname="{kind}" name="rounds" time="{took:.3f}"/></testsuite></testsuites>'
)
print(f"{kind}: {rounds} rounds in {took:.2f} s")
'''

SERVER = '''\
"""Answers every request with a few words."""
import http.server, os


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "4")
        self.end_headers()
        self.wfile.write(b"tea\\n")

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
'''

COMPOSE = "services:\n  web:\n    build: ./web\n"


def command(kind, rounds, scale):
    return f"/usr/bin/python3 work.py {kind} {max(1, round(rounds * scale))}"


def launchway_yaml(scale):
    lines = ["app: bench", "services:", "  web:", "    health: /", "    native:"]
    lines += [f"      setup: {command(*IMAGE[2:], scale)}", "      run: exec /usr/bin/python3 server.py"]
    lines += ["routes: { /: web }", "build:", f"  parallel: {PARALLEL}"]
    for stage, steps in STAGES.items():
        lines.append(f"  {stage}:")
        for name, folder, kind, rounds in steps:
            run = command(kind, rounds, scale)
            lines.append(f"    - {{ name: {name}, in: {folder}, run: {run}, junit: junit.xml }}")
    lines += ["  scan: off", "environments:", "  production: { engine: process }"]
    return "\n".join(lines) + "\n"


def folders():
    return [step[1] for steps in STAGES.values() for step in steps] + [IMAGE[1]]


def script(scale):
    """What a user would write: a clean clone, the stages one after the other, the steps of a stage side by side."""
    lines = ["#!/bin/bash", "# build.sh REPOSITORY COMMIT FOLDER", "set -eu"]
    lines += ['git clone --quiet "$1" "$3"', 'cd "$3"', 'git checkout --quiet "$2"']
    for steps in [*STAGES.values(), [IMAGE]]:
        for _, folder, kind, rounds in steps:
            lines.append(f"(cd {folder} && exec sh -c '{command(kind, rounds, scale)}') & pids+=($!)")
        lines.append('for pid in "${pids[@]}"; do wait "$pid"; done; pids=()')
    return "\n".join(lines) + "\n"


class Project:
    """A repository in a folder of its own, with the script beside it."""

    def __init__(self, folder, scale):
        self.root = pathlib.Path(folder, "project")
        self.script = pathlib.Path(folder, "build.sh")
        self.script.write_text(script(scale))
        for name in folders():
            (self.root / name).mkdir(parents=True)
            (self.root / name / "work.py").write_text(WORK)
        (self.root / "web" / "server.py").write_text(SERVER)
        (self.root / "web" / "Dockerfile").write_text("FROM python:3.12-slim\nCOPY . .\nCMD python server.py\n")
        (self.root / "compose.yaml").write_text(COMPOSE)
        (self.root / "launchway.yaml").write_text(launchway_yaml(scale))
        (self.root / ".gitignore").write_text(".launchway/\njunit.xml\n")
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments):
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, number):
        """A commit that changes what every step reads, so that nothing can be reused."""
        for name in folders():
            (self.root / name / "change.txt").write_text(f"{number}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", f"Change {number}")
        return self.git("rev-parse", "HEAD")
