"""Asks h2spec about the edge's TLS port and nginx's, and a strict WebSocket server directly and through the edge.

A failure of the edge that expected.txt does not explain fails the run, and so does an explained one that is gone.
"""

import argparse
import asyncio
import http.server
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as xml
from pathlib import Path

import frames

HERE = Path(__file__).parent
OUT = Path("target/bench")
HOST = "localhost"


class Answers(http.server.BaseHTTPRequestHandler):
    """A backend that reads what it is sent and says something."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b"hello, client\n"
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_POST = do_HEAD = do_PUT = do_OPTIONS = do_GET

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"a server ended with {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


def tell(path, what, value):
    """Puts something to the edge's control socket."""
    body = json.dumps(value).encode()
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(10)
        control.connect(str(path))
        head = f"PUT {what} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        control.sendall(head.encode() + body)
        answer = b""
        while piece := control.recv(65536):
            answer += piece
    if b" 200 " not in answer.split(b"\r\n")[0]:
        raise SystemExit(f"the edge refused {what}: {answer.decode()}")


def table(http_backend, socket_backend):
    def route(prefix, service, port):
        return {"prefix": prefix, "service": service, "endpoints": [{"http": f"127.0.0.1:{port}"}], "health": None}

    slot = {"release": "r1", "routes": [route("/", "backend", http_backend), route("/ws", "socket", socket_backend)]}
    environment = {
        "app": "tea", "host": HOST, "preview_host": f"preview.{HOST}", "live": "blue", "slots": {"blue": slot},
        "drain_deadline": {"secs": 5, "nanos": 0},
    }
    return {"epoch": 1, "environments": {"staging": environment}}


def certificate(folder):
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", chain],
        check=True, capture_output=True)
    return chain, key


def start_nginx(folder, backend, port, chain, key):
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log crit; worker_processes 1;
        events {{ worker_connections 512; }}
        http {{
            access_log off; {temporary}
            server {{
                listen 127.0.0.1:{port} ssl http2; server_name {HOST};
                ssl_certificate {chain}; ssl_certificate_key {key};
                location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
            }}
        }}""")
    # Not as root, here as in production.
    who = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in [folder, *folder.iterdir()]:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"], **who)


def ask_h2spec(program, port, report):
    subprocess.run([program, "-t", "-k", "-h", HOST, "-p", str(port), "-o", "3", "-j", report],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=900)
    cases, failed, skipped = 0, {}, 0
    for suite in xml.parse(report).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            cases += 1
            name = f"{case.get('package')}: {case.get('classname')}"
            if case.find("skipped") is not None:
                skipped += 1
            elif (fault := case.find("failure") if case.find("failure") is not None else case.find("error")) is not None:
                failed[name] = " ".join((fault.text or "").split())
    return {"cases": cases, "passed": cases - skipped - len(failed), "skipped": skipped, "failed": failed}


def expected():
    lines = (HERE / "expected.txt").read_text().splitlines()
    pairs = [line.split(" | ", 1) for line in lines if line and not line.startswith("#")]
    return {name: why for name, why in pairs}


def report(results, explained):
    rows = ["# Conformance", "", "| suite | edge | nginx |", "| --- | --- | --- |"]
    ours, theirs = results["h2spec"]["edge"], results["h2spec"]["nginx"]
    show = lambda r: "not installed" if r is None else f"{r['passed']} of {r['cases']} pass, {r['skipped']} skipped"
    rows.append(f"| HTTP/2: h2spec | {show(ours)} | {show(theirs)} |")
    ws = results["websocket"]
    rows.append(f"| WebSocket: {ws['cases']} exchanges of frames, as without the edge | {ws['same']} the same | |")
    for who in ["edge", "nginx"]:
        for name, fault in ((results["h2spec"][who] or {}).get("failed", {})).items():
            rows += ["", f"{who} fails `{name}`: {fault}"] + ([explained.get(name, "NOT EXPLAINED")] if who == "edge" else [])
    rows += ["", f"WebSocket exchanges that differ: {ws['differ'] or 'none'}.", "",
             "Autobahn's test suite on PyPI (autobahntestsuite 25.10.1) is Python 2 code that no current Python starts; the",
             "frames here are our own, in the order of its chapters, against a strict server (Python's `websockets`).",
             "No registry carries a suite for HTTP/1.1: tests/suites/hostile stands for it, with nginx's answers beside ours."]
    return "\n".join(rows) + "\n"


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--launchway", required=True)
    options.add_argument("--h2spec", required=True)
    options = options.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    started = []
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    folder.chmod(0o755)
    try:
        (folder / "nginx").mkdir()
        chain, key = certificate(folder)
        secure, plain, sockets = free_port(), free_port(), free_port()
        edge = subprocess.Popen([options.launchway, "edge", "--listen", f"127.0.0.1:{plain}",
                                 "--https", f"127.0.0.1:{secure}", "--folder", folder / "edge"])
        started.append(edge)
        wait_for(plain, edge)
        control = folder / "edge" / "control.sock"
        # It listens for clients a moment before its control socket has its name.
        deadline = time.monotonic() + 10
        while not control.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        tell(control, "/certificates", {"certificates": [{"chain": chain.read_text(), "key": key.read_text()}]})
        tell(control, "/table", table(backend.server_port, sockets))
        ours = ask_h2spec(options.h2spec, secure, folder / "edge.xml")
        theirs = None
        if shutil.which("nginx"):
            port = free_port()
            copies = [shutil.copy(path, folder / "nginx") for path in (chain, key)]
            nginx = start_nginx(folder / "nginx", backend.server_port, port, *copies)
            started.append(nginx)
            wait_for(port, nginx)
            theirs = ask_h2spec(options.h2spec, port, folder / "nginx.xml")
        websocket = asyncio.run(frames.compare(HOST, sockets, plain))
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)
        shutil.rmtree(folder)
    results = {"h2spec": {"edge": ours, "nginx": theirs}, "websocket": websocket}
    explained = expected()
    new = sorted(set(ours["failed"]) - set(explained))
    gone = sorted(set(explained) - set(ours["failed"]))
    (OUT / "conformance.json").write_text(json.dumps({**results, "unexplained": new, "gone": gone}, indent=2) + "\n")
    text = report(results, explained)
    (OUT / "conformance.md").write_text(text)
    print(text)
    for name in new:
        print(f"conformance: `{name}` fails and expected.txt does not say why: {ours['failed'][name]}", file=sys.stderr)
    for name in gone:
        print(f"conformance: `{name}` passes now: take it out of expected.txt", file=sys.stderr)
    return 1 if new or gone or websocket["differ"] or not ours["cases"] else 0


sys.exit(main())
