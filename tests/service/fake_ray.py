"""Stands for the REST interface of Ray Jobs: runs what is submitted, and fails in every way that it is told to."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class FakeRay:
    def __init__(self):
        self.jobs, self.live_at_once, self.submitted = {}, 0, []
        self.temporary = []  # whether each job finds its folder for temporary files
        self.faults = []  # taken one by one: "lost answer", "timeout", or a status
        self.full = 0  # submissions that find no room
        self.away, self.lock, self.token = False, threading.Lock(), None
        ray = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                ray.answer(self, "POST")

            def do_GET(self):
                ray.answer(self, "GET")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, request, method):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        name = request.path.removeprefix("/api/jobs").strip("/")
        if self.away:
            request.close_connection = True
            return
        with self.lock:
            fault = self.faults.pop(0) if self.faults and method == "POST" else None
        if isinstance(fault, int):
            return self.send(request, fault, {"error": "told to"})
        if method == "POST" and not name:
            status, told = self.submit(json.loads(body), request.headers.get("Authorization"))
        elif name.endswith("/logs"):
            status, told = 200, {"logs": f"of {name}"}
        elif method == "POST":
            status, told = self.stop(name.removesuffix("/stop"))
        else:
            status, told = self.found(name)
        if fault == "lost answer":
            request.close_connection = True
            return
        self.send(request, status, told)

    def send(self, request, status, told):
        content = json.dumps(told).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def submit(self, asked, token):
        name = asked["submission_id"]
        with self.lock:
            if self.token is not None and token != f"Bearer {self.token}":
                return 401, {"error": "who are you"}
            if name in self.jobs:
                return 500, {"error": f"job with submission_id {name} already exists"}
            if self.full:
                self.full -= 1
                self.jobs[name] = None
                return 200, {"submission_id": name}
            environment = {"PATH": os.environ["PATH"], **asked["runtime_env"]["env_vars"]}
            place, _, line = asked["entrypoint"].partition(" && exec ")
            (folder,) = shlex.split(place.removeprefix("cd "))
            command = [sys.executable, *shlex.split(line)[1:]]
            self.jobs[name] = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True)
            self.submitted.append((name, asked))
            self.temporary.append(Path(environment.get("TMPDIR", folder)).is_dir())
            live = [one for one in self.jobs.values() if one is not None and one.poll() is None]
            self.live_at_once = max(self.live_at_once, len(live))
        return 200, {"job_id": name, "submission_id": name}

    def found(self, name):
        process = self.jobs.get(name)
        if name in self.jobs and process is None:
            return 200, {"submission_id": name, "status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"}
        if process is None:
            return 404, {"error": "no such job"}
        code = process.poll()
        status = "RUNNING" if code is None else "SUCCEEDED" if code == 0 else "FAILED" if code > 0 else "STOPPED"
        return 200, {"submission_id": name, "status": status, "driver_exit_code": code if (code or 0) > 0 else None}

    def stop(self, name):
        if name not in self.jobs:
            return 404, {"error": "no such job"}
        if self.jobs[name].poll() is None:
            os.killpg(self.jobs[name].pid, signal.SIGTERM)
        return 200, {"stopped": True}

    def forget(self):
        """Start anew, as a cluster that was lost."""
        for process in filter(None, self.jobs.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.jobs = {}

    def close(self):
        self.forget()
        self.server.shutdown()
        self.server.server_close()
        time.sleep(0)
