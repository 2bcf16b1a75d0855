"""Secrets: refused in settings, taken out of addresses, and hidden in what is said."""

import os
import re
from urllib.parse import unquote, urlsplit

# One slash is left where somebody took the address for a path; a port is no password.
_ADDRESS_WITH_PASSWORD = re.compile(r"(\w:/{1,2})[^/@\s'\"]*:(?!\d+/)[^@\s'\"]+@")

_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "KF_PIPELINES_COOKIE",
    "KF_PIPELINES_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)

_ADDRESS = "MLFLOW_TRACKING_URI"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def refuse_passwords(name: str, value: object) -> None:
    """Refuse a setting that carries one: settings are shown, logged and kept.

    Raises:
        ValueError: there is an address with a password; it is not repeated.
    """
    if _ADDRESS_WITH_PASSWORD.search(str(value)):
        raise ValueError(
            f"{name} must not carry a password, for settings are shown to everybody; "
            "leave it to the environment, such as AWS_SECRET_ACCESS_KEY"
        )


def hide_secrets(text: str) -> str:
    """Take out the credentials of this environment, and those in addresses."""
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, "***")
    return _ADDRESS_WITH_PASSWORD.sub(r"\1***@", text)


def hide_tracking_password() -> None:
    """Move a password in the tracking store's address to where MLflow does not show it.

    MLflow puts the address into its own messages, and we show it to whoever starts a run.
    """
    parts = urlsplit(os.environ.get(_ADDRESS, ""))
    if parts.scheme in ("http", "https") and parts.username and parts.password:
        os.environ[_USER], os.environ[_PASSWORD] = unquote(parts.username), unquote(parts.password)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        os.environ[_ADDRESS] = bare.geturl()
