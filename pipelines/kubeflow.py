"""A Kubeflow Pipelines server: connected to, asked again where that helps, changed at most once."""

import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kfp.client import Client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api import ApiException
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from components.secrecy import hide_secrets

TOKEN, COOKIE = "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"
"""Environment variables with credentials; they are never words of a command line."""

_UI = "KF_PIPELINES_UI_ENDPOINT"
_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_IN_CLUSTER_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
_LONGEST_MESSAGE = 300
_UNAUTHORISED, _NOT_FOUND, _TOO_MANY, _SERVER_ERROR = 401, 404, 429, 500


class ServerTrouble(RuntimeError):
    """A server that refuses or does not answer; the message is one line."""


class Missing(ServerTrouble):
    """What was asked about does not exist, or no longer."""


@dataclass(frozen=True)
class Access:
    """How to reach a server; the token and the cookie come from the environment.

    Attributes:
        endpoint: its address; "" is that of the cluster around this pod.
        token_file: a file whose token is read anew for every request, as clusters renew theirs.
        ca_file: certificates of whoever has signed the server's.
        namespace: of runs, where the server has several users.
    """

    endpoint: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    namespace: str = ""


class _Client(Client):  # type: ignore[misc]
    def __init__(self, ask: Callable[..., Any], **options: Any) -> None:
        self._ask = ask
        super().__init__(**options)

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:  # noqa: ARG002  (theirs has it)
        """Ask as we ask anything else; theirs goes on for 25 seconds, also with a wrong token."""
        return self._ask(self._healthz_api.healthz_service_get_healthz)


class Server:
    """A server, through KFP's own client.

    Args:
        access: how to reach it.

    Attributes:
        pauses: seconds to wait before a question is asked again, one after the other.
        limits: seconds for connecting, and for an answer.

    Raises:
        ValueError: the address or a file is wrong, or there is no address.
        ServerTrouble: it refuses, or does not answer.
    """

    pauses: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    limits: tuple[float, float] = (5.0, 30.0)

    def __init__(self, access: Access) -> None:
        self.address, token_file = _find_server(access)
        for file in filter(None, (token_file, access.ca_file)):
            if not file.is_file():
                raise ValueError(f"there is no file {file}")
        credentials = token_file and ServiceAccountTokenVolumeCredentials(str(token_file))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This client only works with Kubeflow")
            self.client = _Client(
                self.ask,
                host=self.address,
                existing_token=os.environ.get(TOKEN, "").strip() or None,
                cookies=os.environ.get(COOKIE) or None,
                credentials=credentials,
                ssl_ca_cert=access.ca_file and str(access.ca_file),
                namespace=access.namespace or "kubeflow",  # theirs for "do not say"
            )
        self.namespace = self.client.get_user_namespace() or None

    @property
    def scope(self) -> dict[str, str]:
        """Give what a question about a list says besides what it looks for."""
        return {"namespace": self.namespace} if self.namespace else {}

    def page(self, run_id: str) -> str:
        """Give the address at which people see a run."""
        pages = os.environ.get(_UI) or self.address
        return f"{hide_secrets(pages.rstrip('/'))}/#/runs/details/{run_id}"

    def ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Ask for something that may be asked any number of times.

        Raises:
            ServerTrouble: the server refuses, or does not answer.
        """
        return self._call(call, arguments, repeat=True)

    def change(self, call: Callable[..., Any], *, find: Callable[[], Any], **arguments: Any) -> Any:
        """Ask for something that must happen once.

        If no answer comes, it may have happened all the same: then we look for it, and do not ask
        again.

        Args:
            call: makes it.
            find: looks for it; None if it is not there.
            arguments: of the call.

        Raises:
            ServerTrouble: the server refuses, or does not answer and what was asked is not there.
        """
        try:
            return self._call(call, arguments, repeat=False)
        except _Unanswered as error:
            for pause in self.pauses:
                time.sleep(pause)
                if (found := find()) is not None:
                    return found
            raise ServerTrouble(
                f"{error}; it was not asked again, and nothing came of it"
            ) from error

    def _call(self, call: Callable[..., Any], arguments: dict[str, Any], *, repeat: bool) -> Any:
        for pause in (*self.pauses, None):
            try:
                with warnings.catch_warnings():
                    # The client calls what urllib3 is about to drop.
                    warnings.filterwarnings("ignore", message="HTTPResponse.getheaders")
                    return call(**arguments, _request_timeout=self.limits)
            except ApiException as error:
                if error.status and error.status < _SERVER_ERROR and error.status != _TOO_MANY:
                    kind = Missing if error.status == _NOT_FOUND else ServerTrouble
                    raise kind(self._refusal(error)) from error
                trouble, reason, arrived = _message(error), error, error.status != _TOO_MANY
            except HTTPError as error:
                reason = error.reason if isinstance(error, MaxRetryError) else error
                if isinstance(reason, SSLError):
                    raise ServerTrouble(
                        f"the certificate of {self.address} cannot be verified; give that of its "
                        f"authority with --ca-file ({reason})"
                    ) from error
                trouble = f"{type(reason).__name__}: {reason}"
                arrived = not isinstance(reason, (NewConnectionError, ConnectTimeoutError))
            slow = isinstance(reason, ReadTimeoutError)  # and was asked again by urllib3
            if pause is None or slow or (arrived and not repeat):
                raise _Unanswered(f"{self.address} does not answer as it should: {trouble}")
            time.sleep(pause)
        raise AssertionError  # the last pause is None

    def _refusal(self, error: ApiException) -> str:
        if error.status == _UNAUTHORISED:
            return f"{self.address} refuses the token (401): it is missing, wrong or has expired"
        return f"{self.address} refuses ({error.status}): {_message(error)}"


class _Unanswered(ServerTrouble):
    """A request of which nobody knows what came of it."""


def _find_server(access: Access) -> tuple[str, Path | None]:
    address, token_file = access.endpoint.rstrip("/"), access.token_file
    if not address:
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            raise ValueError("there is no server: give --endpoint, or set KF_PIPELINES_ENDPOINT")
        default = _IN_CLUSTER_TOKEN if _IN_CLUSTER_TOKEN.is_file() else None
        return _IN_CLUSTER, token_file or default
    parts = urlsplit(address)
    if "@" in address:  # also in what is no address, and would be repeated below
        raise ValueError(f"the endpoint must not carry a password; set {TOKEN} or {COOKIE}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the endpoint must start with http:// or https://, got {address}")
    return address, token_file


def _message(error: ApiException) -> str:
    """Give what a server said as one line."""
    try:
        told = json.loads(error.body)
        text = str(told.get("error") or told.get("message"))
    except (AttributeError, TypeError, ValueError):
        text = str(error.reason)
    return hide_secrets(" ".join(text.split()))[:_LONGEST_MESSAGE]
