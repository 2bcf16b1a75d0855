"""The routes of Kubeflow Pipelines' v2beta1 that a client of ours meets, on a real HTTP server.

It keeps pipelines, versions, experiments, runs and recurring runs, refuses fields that generated
models do not know, and executes what is submitted by KFP's local runner, in a process per run.
"""

import email.parser
import email.policy
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import kfp_server_api.models as models
import yaml

EXECUTE = """
import json, sys, warnings
from kfp import components, local
warnings.filterwarnings("ignore", message="You may be attemping to run a task")
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], raise_on_error=True)
components.load_component_from_file(sys.argv[1])(**json.loads(sys.argv[3]))
"""
NOW = "2030-01-01T00:00:00Z"


class Refusal(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Fault:
    """What goes wrong with the next requests of a kind.

    Attributes:
        method: of the request.
        path: its path contains this.
        kind: a status to answer with; "lost" does what is asked and hangs up without an answer;
            "refused" hangs up before; "slow" answers too late.
        times: how often.
    """

    method: str
    path: str
    kind: object
    times: int = 1


@dataclass
class KubeflowServer:
    """The state, and how requests are met.

    Attributes:
        token: what a request must carry; None asks for nothing.
        executes: whether runs are executed; otherwise they go on until a test ends them.
        environment: of executed steps, as a cluster's ConfigMaps give it.
        given_to_runs: what every run has besides what was sent.
        requests: every request that came, as method and path.
    """

    root: object
    token: str | None = None
    cookie: str | None = None
    executes: bool = True
    environment: dict = field(default_factory=dict)
    given_to_runs: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    experiments: dict = field(default_factory=dict)
    pipelines: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    runs: dict = field(default_factory=dict)
    recurring: dict = field(default_factory=dict)
    most_active: int = 0

    def __post_init__(self):
        self.numbers, self.processes, self.lock = itertools.count(1), {}, threading.RLock()
        handler = type("Handler", (Handler,), {"state": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def new_id(self, kind):
        return f"{kind}-{next(self.numbers):04d}"

    def count(self, method, path):
        return sum((method, path) == request for request in self.requests)

    # What the routes do.

    def create_experiment(self, body, query):
        return self.keep(self.experiments, "experiment_id", body)

    def create_pipeline(self, body, query):
        if any(p["display_name"] == body["display_name"] for p in self.pipelines.values()):
            raise Refusal(409, "Already exist error: Failed to create a pipeline of that name")
        return self.keep(self.pipelines, "pipeline_id", body)

    def upload_version(self, file, query):
        (name,), (pipeline,) = query["name"], query["pipelineid"]
        documents = list(yaml.safe_load_all(file))
        spec = {"pipeline_spec": documents[0], "platform_spec": [*documents, None][1]}
        fields = {"display_name": name, "pipeline_id": pipeline, "pipeline_spec": spec}
        made = self.keep(self.versions, "pipeline_version_id", fields)
        (self.root / f"{made['pipeline_version_id']}.yaml").write_bytes(file)
        return made

    def create_run(self, body, query):
        if self.versions.get(version_of(body)) is None:
            raise Refusal(404, "pipeline version not found")
        run = self.keep(self.runs, "run_id", {**body, **self.given_to_runs})
        if self.executes:
            threading.Thread(target=self.execute, args=(run,), daemon=True).start()
        else:
            run.setdefault("state", "RUNNING")
        return run

    def get_run(self, identity):
        return self.runs[identity]

    def create_recurring(self, body, query):
        if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
            raise Refusal(400, "the cron must have six fields")
        body["status"] = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body["mode"]]
        made = self.keep(self.recurring, "recurring_run_id", body)
        self.watch_copies()
        return made

    def keep(self, table, key, body):
        body = {**body, key: self.new_id(key.removesuffix("_id")), "created_at": NOW}
        table[body[key]] = body
        return body

    def watch_copies(self):
        """Remember the most recurring runs of one name that were ever active at once."""
        active = [r["display_name"] for r in self.recurring.values() if r["status"] == "ENABLED"]
        self.most_active = max([self.most_active, *(active.count(name) for name in active)])

    def act(self, table, identity, action):
        if action == "terminate":
            table[identity]["state"] = "CANCELING"
            if identity in self.processes:
                self.processes[identity].terminate()
            else:
                table[identity]["state"] = "CANCELED"
        else:
            table[identity]["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[action]
            self.watch_copies()
        return {}

    def execute(self, run):
        """Run a version's file in a process, as the cluster would with the run's environment."""
        spec = self.root / f"{version_of(run)}.yaml"
        arguments = json.dumps(run["runtime_config"].get("parameters") or {})
        folder = self.root / run["run_id"]
        folder.mkdir()
        command = [sys.executable, "-P", "-c", EXECUTE, spec, folder, arguments]
        environment = {**os.environ, "KFP_RUN_ID": run["run_id"], **self.environment}
        with (folder / "log.txt").open("w") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
            )
            self.processes[run["run_id"]] = process
            run["state"] = "RUNNING"
            process.wait()
        with self.lock:
            text = re.sub(r"\x1b\[\d+m", "", (folder / "log.txt").read_text())
            run["run_details"] = {"task_details": task_details(spec, text)}
            if run["state"] == "CANCELING":
                run["state"] = "CANCELED"
            else:
                run["state"] = "FAILED" if process.returncode else "SUCCEEDED"


def task_details(spec, text):
    """Give the state of each task that the runner's log names, with the cause of a failure."""
    root = next(yaml.safe_load_all(spec.read_text()))
    names = {}
    for graph in [root["root"], *root["components"].values()]:
        for key, task in graph.get("dag", {}).get("tasks", {}).items():
            names[key] = task["taskInfo"]["name"]
    details = []
    for key, outcome in re.findall(r"Task '([\w-]+)' finished with status (\w+)", text):
        detail = {"task_id": key, "display_name": names.get(key, key)}
        detail["state"] = "SUCCEEDED" if outcome == "SUCCESS" else "FAILED"
        if outcome != "SUCCESS":
            causes = re.findall(r"\b[A-Z]\w*Error: .*", text)  # the step's own comes first
            detail["error"] = {"code": 13, "message": "\n".join(causes[:1])}
        details.append(detail)
    return details


def version_of(body):
    return body["pipeline_version_reference"]["pipeline_version_id"]


def check(data, kind):
    """Refuse a field that the generated model of its type does not know."""
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        for item in data:
            check(item, match[1])
    elif hasattr(models, kind) and isinstance(data, dict):
        model = getattr(models, kind)
        by_key = {model.attribute_map[name]: name for name in model.attribute_map}
        for key, value in data.items():
            if key not in by_key:
                raise Refusal(400, f"unknown field {key} of {kind}")
            check(value, model.openapi_types[by_key[key]])


BODIES = {
    "experiments": ("V2beta1Experiment", KubeflowServer.create_experiment),
    "pipelines": ("V2beta1Pipeline", KubeflowServer.create_pipeline),
    "runs": ("V2beta1Run", KubeflowServer.create_run),
    "recurringruns": ("V2beta1RecurringRun", KubeflowServer.create_recurring),
}
LISTED = {
    "experiments": "experiments",
    "pipelines": "pipelines",
    "runs": "runs",
    "recurringruns": "recurringRuns",
}
FILTERS = {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}


class Handler(BaseHTTPRequestHandler):
    state: KubeflowServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_GET(self):
        self.meet("GET")

    def do_POST(self):
        self.meet("POST")

    def do_DELETE(self):
        self.meet("DELETE")

    def meet(self, method):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append((method, parts.path.removeprefix("/apis/v2beta1/")))
        fault = self.fault(method, parts.path)
        if fault == "refused":
            return self.hang_up()
        if isinstance(fault, int):
            return self.answer(fault, {"error": f"fault {fault}", "code": 13})
        try:
            with self.state.lock:
                self.authorise()
                found = self.route(method, parts, body)
        except Refusal as refusal:
            return self.answer(refusal.status, {"error": refusal.message, "code": 3})
        if fault == "lost":
            return self.hang_up()
        if fault == "slow":
            self.rfile.read(1)  # until the other side gives up
        return self.answer(200, found)

    def fault(self, method, path):
        for fault in self.state.faults:
            if fault.method == method and fault.path in path and fault.times:
                fault.times -= 1
                return fault.kind
        return None

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(2)

    def authorise(self):
        token, cookie = self.state.token, self.state.cookie
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            raise Refusal(401, "Unauthorized")
        if cookie is not None and self.headers.get("Cookie") != cookie:
            raise Refusal(401, "Unauthorized")

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def route(self, method, parts, body):
        state, query = self.state, parse_qs(parts.query)
        words = parts.path.removeprefix("/apis/v2beta1/").split("/")
        tables = {
            "experiments": state.experiments,
            "pipelines": state.pipelines,
            "runs": state.runs,
            "recurringruns": state.recurring,
        }
        match method, words:
            case "GET", ["healthz"]:
                return {"multi_user": False}
            case "POST", ["pipelines", "upload_version"]:
                return state.upload_version(self.uploaded(body), query)
            case "POST", [room] if room in BODIES:
                kind, create = BODIES[room]
                data = json.loads(body)
                check(data, kind)
                return create(state, data, query)
            case "GET", [room] if room in tables:
                return page(tables[room].values(), LISTED[room], query)
            case "GET", ["pipelines", pipeline, "versions"]:
                own = [v for v in state.versions.values() if v["pipeline_id"] == pipeline]
                return page(own, "pipeline_versions", query)
            case "GET", ["runs", identity] if identity in state.runs:
                return state.get_run(identity)
            case "GET", [room, identity] if identity in tables[room]:
                return tables[room][identity]
            case "POST", [room, last] if last.partition(":")[0] in tables[room]:
                return state.act(tables[room], *last.split(":"))
            case "DELETE", [room, identity] if identity in tables[room]:
                del tables[room][identity]
                return {}
        raise Refusal(404, f"there is no {parts.path}")

    def uploaded(self, body):
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parser = email.parser.BytesParser(policy=email.policy.HTTP)
        (part,) = parser.parsebytes(head + body).iter_parts()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        return part.get_payload(decode=True)


def page(things, key, query):
    if unknown := set(query) - FILTERS:
        raise Refusal(400, f"unknown parameters {sorted(unknown)}")
    found = [thing for thing in things if matches(thing, query)]
    start, size = int(query.get("page_token", ["0"])[0]), int(query.get("page_size", ["20"])[0])
    more = {"next_page_token": str(start + size)} if start + size < len(found) else {}
    return {key: found[start : start + size], "total_size": len(found), **more}


def matches(thing, query):
    if "experiment_id" in query and thing["experiment_id"] != query["experiment_id"][0]:
        return False
    for predicate in json.loads(query.get("filter", ["{}"])[0]).get("predicates", []):
        assert predicate["operation"] == 1
        if thing[predicate["key"]] != predicate["stringValue"]:
            return False
    return True
