"""open_folder: files in a folder on disk or below a prefix in an S3-compatible bucket."""

import re
from pathlib import Path

from components.storage.folder import (
    AccessDenied,
    Entry,
    FileChanged,
    Folder,
    MissingBucket,
    MissingFile,
    ServerAway,
    StorageError,
    WrongCredentials,
)
from components.storage.local import LocalFolder

__all__ = [
    "AccessDenied",
    "Entry",
    "FileChanged",
    "Folder",
    "MissingBucket",
    "MissingFile",
    "ServerAway",
    "StorageError",
    "WrongCredentials",
    "open_folder",
]

_BUCKET = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:/(?P<prefix>.*))?")


def open_folder(address: str | Path) -> Folder:
    """Give the folder at an address; it need not exist yet.

    A bucket's endpoint, region and credentials come from the usual AWS settings: environment
    variables such as AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE and AWS_ACCESS_KEY_ID, or the files
    in ``~/.aws``.

    Args:
        address: a path, or ``s3://BUCKET/PREFIX``.

    Raises:
        ValueError: the address is of another kind.
        WrongCredentials: the AWS settings name a profile that does not exist.
    """
    text = str(address)
    if "://" not in text:
        return LocalFolder(Path(address))
    parts = _BUCKET.fullmatch(text)
    if parts is None:
        raise ValueError(f"an address must be a path or s3://BUCKET/PREFIX, got {text}")
    # Here, because importing boto3 takes half a second that only buckets need.
    from components.storage.bucket import BucketFolder, connect

    return BucketFolder(connect(), parts["bucket"], (parts["prefix"] or "").strip("/"))
