"""TrainJobs of a cluster, through Kubernetes' own API: made, read, listened to, removed."""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from components import cluster

_KIND = ("trainer.kubeflow.org", "v1alpha1")
_PLURAL = "trainjobs"
_CONTAINER = "node"
_JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
_FIRST_POD = "batch.kubernetes.io/job-completion-index=0"
_REQUEST_SECONDS = (5, 30)
_SECONDS_BETWEEN_QUESTIONS = 2.0
_LAST_LINES = 10
_OVERLAP_SECONDS = 60
_FORBIDDEN, _NOT_FOUND, _CONFLICT, _TOO_MANY, _SERVER_ERROR = 403, 404, 409, 429, 500


class Refused(RuntimeError):
    """What Kubernetes does not let us do, such as for want of a permission.

    Attributes:
        status: of its answer in HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Kubernetes refuses ({status}): {message}")
        self.status = status


class TrainJobs:
    """TrainJobs of one namespace; a question is asked again while Kubernetes cannot answer.

    Args:
        api: a `kubernetes.client.ApiClient`.
        namespace: where the jobs are.
        patience_seconds: how long a question is asked again before `ConnectionError` is raised.
    """

    def __init__(self, api: Any, namespace: str, *, patience_seconds: float = 60.0) -> None:
        from kubernetes import client

        self._jobs, self._pods = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._namespace, self._patience = namespace, patience_seconds
        self._printed_until, self._asked_at = "", time.monotonic()

    def create(self, body: dict[str, Any]) -> bool:
        """Make a job, and say whether it was made: it is not where there is one of its name."""
        make = self._jobs.create_namespaced_custom_object
        return self._ask(make, *self._where, body, unless=_CONFLICT) is not None

    def read(self, name: str) -> dict[str, Any] | None:
        """Give a job, if it exists."""
        read = self._jobs.get_namespaced_custom_object
        return self._ask(read, *self._where, name, unless=_NOT_FOUND)

    def delete(self, name: str) -> None:
        """Remove a job with its pods, if it exists."""
        delete = self._jobs.delete_namespaced_custom_object
        self._ask(delete, *self._where, name, unless=_NOT_FOUND)

    def print_new_lines(self, name: str) -> None:
        """Print what a job's first pod has said since the last time, as far as it can be had."""
        now = time.monotonic()
        since = int(now - self._asked_at) + _OVERLAP_SECONDS
        for pod in self._pods_of(name, _FIRST_POD)[:1]:
            for line in self._log(pod, timestamps=True, since_seconds=since):
                moment, _, words = line.partition(" ")
                if (moment := moment.rstrip("Z")) > self._printed_until:
                    self._printed_until = moment
                    print(words, flush=True)
        self._asked_at = now

    def last_lines(self, name: str) -> Iterator[tuple[str, str]]:
        """Give each pod's name with the last lines that it said, as far as they can be had."""
        for pod in self._pods_of(name):
            for line in self._log(pod, tail_lines=_LAST_LINES):
                yield pod, line

    @property
    def _where(self) -> tuple[str, ...]:
        return (*_KIND, self._namespace, _PLURAL)

    def _pods_of(self, name: str, *labels: str) -> list[str]:
        selector = ",".join((f"{_JOB_LABEL}={name}", *labels))
        pods = self._ask(
            self._pods.list_namespaced_pod,
            self._namespace,
            label_selector=selector,
            unless=_FORBIDDEN,
        )
        return [pod.metadata.name for pod in pods.items] if pods else []

    def _log(self, pod: str, **options: Any) -> list[str]:
        read = self._pods.read_namespaced_pod_log
        try:
            text = self._ask(read, pod, self._namespace, container=_CONTAINER, **options)
        except Refused:
            return []  # the pod has not started yet, or is gone
        return str(text).splitlines()

    def _ask(self, call: Callable[..., Any], *words: Any, unless: int = 0, **options: Any) -> Any:
        """Ask Kubernetes, and give its answer, or None where that is the status `unless`.

        Raises:
            Refused: it will not.
            ConnectionError: it did not answer for as long as our patience lasts.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + self._patience
        while True:
            try:
                with warnings.catch_warnings():
                    # The client calls what urllib3 is about to drop.
                    warnings.filterwarnings("ignore", message="HTTPResponse.getheaders")
                    return call(*words, **options, _request_timeout=_REQUEST_SECONDS)
            except ApiException as error:
                if error.status == unless:
                    return None
                if error.status and error.status < _SERVER_ERROR and error.status != _TOO_MANY:
                    raise Refused(error.status, _message(error)) from error
                trouble = f"{error.status} {error.reason}"
            except HTTPError as error:
                trouble = str(error)
            if time.monotonic() > deadline:
                raise ConnectionError(f"Kubernetes does not answer: {trouble}")
            time.sleep(_SECONDS_BETWEEN_QUESTIONS)


def in_cluster() -> TrainJobs:
    """Give the TrainJobs of the namespace that this pod is in, by its own service account."""
    from kubernetes import client, config

    config.load_incluster_config()
    return TrainJobs(client.ApiClient(), os.environ.get(cluster.POD_NAMESPACE, cluster.NAMESPACE))


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        return str(error.reason)
