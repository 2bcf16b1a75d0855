"""What of Kubernetes' API a launcher of TrainJobs meets, on a real HTTP server.

Its TrainJobs do what a test says, or are executed: a process for each node, with the variables that
Kubeflow Trainer gives to its pods.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs

from kubernetes import client

from components.training.train_jobs import TrainJobs
from tests.cluster.kubeflow_server import Handler, Refusal


@dataclass
class KubernetesServer:
    """The jobs, and how requests are met.

    Attributes:
        outcomes: conditions of a job at each look, the last one for good; None executes it.
        said: lines of the pods' logs, by pod.
    """

    root: object
    outcomes: list | None = field(default_factory=lambda: [{}, {"Complete": "AllDone: well"}])
    said: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    jobs: dict = field(default_factory=dict)
    deleted: list = field(default_factory=list)

    def __post_init__(self):
        self.lock, self.looks = threading.RLock(), itertools.count()
        handler = type("KubernetesHandler", (KubernetesHandler,), {"state": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.processes = []
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def train_jobs(self, patience_seconds=60.0):
        settings = client.Configuration(host=f"http://127.0.0.1:{self.http.server_port}")
        settings.retries = False
        return TrainJobs(client.ApiClient(settings), "tests", patience_seconds=patience_seconds)

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        for process in self.processes:
            process.kill()
            process.wait()

    def create(self, job):
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise Refusal(409, f'trainjobs "{name}" already exists')
        self.jobs[name] = job
        if self.outcomes is None:
            self.execute(job["spec"]["trainer"])
        return job

    def read(self, name):
        conditions = self.executed() if self.outcomes is None else self.outcome()
        status = [
            dict(
                zip(("reason", "message"), words.split(": "), strict=True), type=kind, status="True"
            )
            for kind, words in conditions.items()
        ]
        return {**self.jobs[name], "status": {"conditions": status}}

    def outcome(self):
        return self.outcomes[min(next(self.looks), len(self.outcomes) - 1)]

    def execute(self, trainer):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(trainer["numNodes"]):
            pod = {
                "PET_NNODES": trainer["numNodes"],
                "PET_NPROC_PER_NODE": trainer["numProcPerNode"],
                "PET_NODE_RANK": rank,
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": port,
                **{variable["name"]: variable["value"] for variable in trainer["env"]},
            }
            with (self.root / f"pod-{rank}.txt").open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, *trainer["command"][1:], *trainer["args"]],
                    env=os.environ | {name: str(value) for name, value in pod.items()},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def executed(self):
        codes = [process.poll() for process in self.processes]
        if any(codes):
            return {"Failed": f"PodFailed: codes {codes}"}
        return {"Complete": "JobsCompleted: all"} if codes and None not in codes else {}


class KubernetesHandler(Handler):
    def authorise(self):
        pass

    def answer(self, status, body):
        if status >= 400:
            body = {"kind": "Status", "message": body["error"], "code": status}
        super().answer(status, body)

    def route(self, method, parts, body):
        state, words = self.state, parts.path.strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match method, words:
            case "POST", ["apis", "trainer.kubeflow.org", "v1alpha1", _, "tests", "trainjobs"]:
                return state.create(json.loads(body))
            case "GET", ["apis", *_, "trainjobs", name] if name in state.jobs:
                return state.read(name)
            case "DELETE", ["apis", *_, "trainjobs", name] if name in state.jobs:
                if not state.jobs[name]["metadata"].get("finalizers"):
                    state.deleted.append(state.jobs.pop(name)["metadata"]["name"])
                return {}
            case "GET", ["api", "v1", "namespaces", "tests", "pods"]:
                first = "job-completion-index=0" in query["labelSelector"]
                names = sorted(state.said)[: 1 if first else None]
                return {"items": [{"metadata": {"name": name}} for name in names]}
            case "GET", ["api", "v1", "namespaces", "tests", "pods", pod, "log"]:
                assert query["container"] == "node"
                return self.log(state.said[pod], query)
        raise Refusal(404, f"{parts.path} not found")

    def log(self, lines, query):
        if lines is None:
            raise Refusal(400, "container is waiting to start")
        lines = lines[-int(query.get("tailLines", len(lines))) :]
        stamp = "timestamps" in query
        return "\n".join(
            f"2030-01-01T00:00:00.{number:09d}Z {line}" if stamp else line
            for number, line in enumerate(lines)
        )
