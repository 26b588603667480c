"""The two ways to bring a change of the same shop to its users: Launchway's production, and Docker Compose."""

import asyncio
import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from load import edition, until_edition

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "bench" / "pipeline"))
import processes  # noqa: E402

SHOP = ROOT / "examples" / "teahouse"
# What happens to a commit: built, started beside the old release, asked for its health, given the traffic. No gates,
# since Compose has none; and the old release goes soon, as if the changes lay half an hour apart, its usual stay.
LAUNCHWAY = """app: {app}
services:
  backend: {{ health: /health }}
  frontend: {{ health: / }}
routes: {{ /: frontend, /api: backend }}
build:
  scan: off
environments:
  production: {{ engine: docker, branch: main, drain: 5s, keep: 2s }}
"""


class Failed(Exception):
    """A command of the benchmark itself did not work."""


def tail(path):
    return "\n".join(path.read_text(errors="replace").splitlines()[-40:])


def moment(text):
    """Seconds since 1970 of an RFC 3339 time, which may have nanoseconds."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", text).replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(text).timestamp()


def docker(*words):
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60).stdout.split()


def started_at(label):
    """When the newest container with these labels was started."""
    filters = [word for name in label for word in ("--filter", f"label={name}")]
    ids = docker("ps", "-q", *filters)
    times = docker("inspect", "-f", "{{.State.StartedAt}}", *ids) if ids else []
    return max(map(moment, times), default=None)


class Shop:
    """A copy of the shop in a git repository."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("node_modules", "dist", ".venv", "__pycache__"))
        self.log = folder.parent / f"{name}.log"

    def replace(self, path, old, new):
        file = self.folder / path
        text = file.read_text()
        if old not in text:
            raise Failed(f"{path} has no `{old}` any more")
        file.write_text(text.replace(old, new))

    def git(self, *words):
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=self.folder, check=True, capture_output=True)

    def first(self):
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("add", "--all")

    def change(self, text):
        """One line of the backend, committed."""
        (self.folder / "backend" / "edition.py").write_text(f'"""What this release is called."""\n\nEDITION = "{text}"\n')
        self.git("commit", "--quiet", "--all", "--message", text)


class Launchway:
    name = "launchway"

    def __init__(self, folder, binary, tag):
        self.binary, self.state = binary, folder / "state"
        self.app = f"bench-{tag}"
        self.shop = Shop(folder / "launchway", self.app)
        (self.shop.folder / "launchway.yaml").write_text(LAUNCHWAY.format(app=self.app))
        self.shop.first()
        self.host = f"production.{self.app}.localhost"
        self.server = self.port = None

    def command(self, *words):
        return [str(self.binary), "-C", str(self.shop.folder), "--state", str(self.state), *words]

    def ask(self, *words):
        done = subprocess.run(self.command(*words, "--json"), capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise Failed(f"`launchway {' '.join(words)}`: {done.stderr}\n{tail(self.shop.log)}")
        return json.loads(done.stdout)

    async def begin(self, text):
        self.shop.change(text)
        with open(self.shop.log, "ab") as log:
            words = self.command("server", "--listen", "127.0.0.1:0")
            self.server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            if self.server.poll() is not None:
                raise Failed(f"the server ended with {self.server.returncode}\n{tail(self.shop.log)}")
            for edge in processes.by_role(self.server.pid, self.state, self.binary)["edge"]:
                for port in processes.listening(edge):
                    if await edition(port, self.host) == text:
                        self.port = port
                        return
            self.trouble()
            await asyncio.sleep(0.5)
        raise Failed(f"the first release did not come up\n{tail(self.shop.log)}")

    def trouble(self):
        if not (self.state / "api.sock").exists():
            return
        for run in self.ask("history").get("runs", []):
            if run["phase"] in ("red", "failed"):
                raise Failed(f"{run['id']} is {run['phase']}: {run.get('problem')}\n{tail(self.shop.log)}")

    async def bring(self, text):
        """Commits a change and waits for its first answer, then until the old release has drained."""
        before = {rollout["id"] for rollout in self.ask("history")["rollouts"]}
        began = time.time()
        self.shop.change(text)
        committed = time.time()
        first = await until_edition(self.port, self.host, text, 300)
        if first is None:
            raise Failed(f"{text} did not come live\n{json.dumps(self.ask('history'), indent=1)[:4000]}")
        rollout, deadline = None, time.monotonic() + 120
        while time.monotonic() < deadline:
            new = [r for r in self.ask("history")["rollouts"] if r["id"] not in before]
            if new and new[0]["phase"] in ("live", "ended"):
                rollout = self.ask("history", new[0]["id"])
                break
            await asyncio.sleep(0.05)
        if rollout is None:
            raise Failed(f"the rollout of {text} did not end")
        release = rollout["release"]
        await self.old_is_gone(release, deadline)
        run = max(self.ask("history")["runs"], key=lambda run: run["created"])
        phases = {}
        for at, phase in rollout["timeline"]:
            phases.setdefault(phase, moment(at))
        labels = [f"dev.launchway.{key}={value}" for key, value in
                  (("app", self.app), ("service", "backend"), ("release", release))]
        asked = phases.get("starting", moment(rollout["created"]))
        started = started_at(labels) or asked
        ready = phases.get("exposing", phases.get("switching", first))
        built = moment(run["ended"])
        drained = phases.get("live", time.time())
        return {
            "total_ms": ms(first - began),
            "build_ms": ms(built - began),
            "start_ms": ms(started - built),
            "ready_ms": ms(ready - started),
            "switch_ms": ms(first - ready),
            "drain_ms": ms(drained - first),
            "noticed_ms": ms(moment(run["created"]) - committed),
            "phases_ms": {phase: ms(at - began) for phase, at in phases.items()},
        }

    async def old_is_gone(self, release, deadline):
        """The next change finds an empty slot."""
        app = f"label=dev.launchway.app={self.app}"
        while time.monotonic() < deadline:
            all_of_it = docker("ps", "-qa", "--filter", app, "--filter", "label=dev.launchway.release")
            new = docker("ps", "-qa", "--filter", app, "--filter", f"label=dev.launchway.release={release}")
            if sorted(all_of_it) == sorted(new):
                return
            await asyncio.sleep(0.2)
        raise Failed("the old release was not taken away")

    def end(self):
        if self.server is not None:
            try:
                done = subprocess.run(self.command("down", "--with-data"), capture_output=True, text=True, timeout=180)
                if done.returncode != 0:
                    print(f"launchway down: {done.stderr}", file=sys.stderr)
            except subprocess.TimeoutExpired:
                print("`launchway down` did not end within 180 s", file=sys.stderr)
            processes.end(processes.belonging(self.server.pid, self.state))
            self.server.wait(timeout=20)
        images = docker("images", "-q", "--filter", f"label=dev.launchway.app={self.app}")
        if images:
            docker("rmi", "-f", *images)


class Compose:
    name = "compose"

    def __init__(self, folder, program, port, tag):
        self.program, self.port = pathlib.Path(program), port
        self.project = f"bench-compose-{tag}"
        self.host = f"127.0.0.1:{port}"
        self.shop = Shop(folder / "compose", self.project)
        (self.shop.folder / "launchway.yaml").unlink()
        self.shop.replace("compose.yaml", '"8080:80"', f'"127.0.0.1:{port}:80"')
        self.shop.first()

    def command(self, *words):
        return [str(self.program / "docker-compose"), "-p", self.project, *words]

    def environment(self):
        return {**os.environ, "DOCKER_CONFIG": str(self.program), "BUILDKIT_PROGRESS": "plain"}

    async def up(self, seen=None):
        process = await asyncio.create_subprocess_exec(
            *self.command("up", "-d", "--build"),
            cwd=self.shop.folder,
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        with open(self.shop.log, "ab") as log:
            async for line in process.stdout:
                log.write(line)
                if seen is not None:
                    seen(line.decode(errors="replace"))
        if await process.wait() != 0:
            raise Failed(f"docker compose up ended with {process.returncode}\n{tail(self.shop.log)}")

    async def begin(self, text):
        self.shop.change(text)
        await self.up()
        if await until_edition(self.port, self.host, text, 60) is None:
            raise Failed(f"the first release did not come up\n{tail(self.shop.log)}")

    async def bring(self, text):
        """Commits a change, has Compose bring it up, and waits for its first answer."""
        marks = {}

        def seen(line):
            for word in ("Built", "Recreate", "Recreated", "Starting", "Started"):
                if re.search(rf"\b{word}\b", line):
                    # Of several images the last counts.
                    marks[word] = time.time()

        began = time.time()
        self.shop.change(text)
        command = asyncio.create_task(self.up(seen))
        first = await until_edition(self.port, self.host, text, 300)
        await command
        ended = time.time()
        if first is None:
            raise Failed(f"{text} did not come up\n{tail(self.shop.log)}")
        labels = [f"com.docker.compose.project={self.project}", "com.docker.compose.service=backend"]
        started = started_at(labels) or first
        built = min(marks.get("Built", started), started)
        return {
            "total_ms": ms(first - began),
            "build_ms": ms(built - began),
            "start_ms": ms(started - built),
            "ready_ms": ms(first - started),
            "switch_ms": 0,
            "drain_ms": 0,
            "command_ms": ms(ended - began),
        }

    def end(self):
        words = self.command("down", "--volumes", "--rmi", "local", "--timeout", "5")
        subprocess.run(words, cwd=self.shop.folder, env=self.environment(), capture_output=True, timeout=180)


def ms(seconds):
    """An old release without requests has drained before anybody saw the first answer of the new one."""
    return max(0, round(seconds * 1000))
