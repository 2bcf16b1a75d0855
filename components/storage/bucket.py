"""BucketFolder: objects below a prefix in an S3-compatible bucket."""

import base64
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from components.storage.folder import Entry, Folder, StorageError, checked
from components.storage.ranges import ObjectReader
from components.storage.refusals import explained, retold

# Per request, over about ten seconds. All requests of a client share 35 retries until one succeeds,
# so that few parts may wait for a server at the same time.
_ATTEMPTS = 10
_PARTS_AT_ONCE = 4
_PART_BYTES = 8 << 20
_MAX_PARTS = 10_000  # of S3
_READ_AHEAD_BYTES = 1 << 20
_DIGEST = "sha256"  # the key under which an object's metadata holds the hash of its content


def connect() -> Any:
    """Make an S3 client from the usual AWS settings; threads may share it.

    Raises:
        WrongCredentials: the settings name a profile that does not exist.
    """
    retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = _ATTEMPTS
    settings = Config(retries=retries, connect_timeout=10, read_timeout=60, max_pool_connections=32)
    with explained("S3"):
        session = boto3.Session()
        client = session.client("s3", config=settings)
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        style = (client.meta.config.s3 or {}).get("addressing_style")
        if style is None and ".amazonaws." not in host:
            # Other servers rarely have a host name for every bucket.
            by_path = settings.merge(Config(s3={"addressing_style": "path"}))
            client = session.client("s3", config=by_path)
    return client


class BucketFolder(Folder):
    """A prefix in a bucket."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self._start = f"{prefix}/" if prefix else ""

    def entries(self, below: str = "") -> Iterator[Entry]:
        """List all objects by key; markers of empty folders are left out."""
        start = self._start + (f"{checked(below)}/" if below else "")
        with self._explained("list", below):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=start):
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):
                        name = found["Key"].removeprefix(self._start)
                        yield Entry(name, found["Size"], found["ETag"].strip('"'))

    def read(self, name: str) -> bytes:
        """Give an object's content, in one request unless the connection drops."""
        with self._reader(name) as reader:
            return reader.readall()

    def open(self, name: str) -> BinaryIO:
        """Open an object; each read asks for just the bytes it needs, and a little ahead."""
        reader = self._reader(name)
        reader.size()
        return io.BufferedReader(reader, _READ_AHEAD_BYTES)

    def write(self, name: str, content: bytes) -> None:
        """Write an object in one request, which the server checks against its hash."""
        digest = hashlib.sha256(content).hexdigest()
        checksum = hashlib.md5(content, usedforsecurity=False).digest()
        with self._explained("write", name):
            self._client.put_object(
                **self._place(name),
                Body=content,
                ContentMD5=base64.b64encode(checksum).decode(),
                Metadata={_DIGEST: digest},
            )

    def upload(self, path: Path, name: str) -> None:
        """Send a file, large ones in parts, and compare what arrived; nothing if it is there."""
        size = path.stat().st_size
        part = max(_PART_BYTES, -(-size // _MAX_PARTS))
        digest, etag = _hashes(path, part)
        transfer = TransferConfig(
            multipart_threshold=_PART_BYTES,
            multipart_chunksize=part,
            max_concurrency=_PARTS_AT_ONCE,
        )
        with self._explained("write", name):
            if self._holds(name, size, digest, etag):
                return
            with path.open("rb") as file:
                self._client.upload_fileobj(
                    file,
                    self._bucket,
                    self._start + checked(name),
                    ExtraArgs={"Metadata": {_DIGEST: digest}},
                    Config=transfer,
                )
            if not self._holds(name, size, digest, etag):
                self._client.delete_object(**self._place(name))
                raise StorageError(f"{self._named(name)} did not arrive as sent; upload it again")

    def exists(self, name: str) -> bool:
        """Say whether there is such an object."""
        with self._explained("read", name):
            return self._facts(name) is not None

    def within(self, below: str) -> "BucketFolder":
        """Give a longer prefix."""
        return BucketFolder(self._client, self._bucket, self._start + checked(below))

    def path(self, name: str) -> None:
        """Say that an object lies nowhere on this machine."""
        checked(name)

    def _place(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._start + checked(name)}

    def _named(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._start}{name}"

    def _explained(self, verb: str, name: str) -> Any:
        return explained(self._named(name), verb, self._client.meta.endpoint_url)

    def _reader(self, name: str) -> ObjectReader:
        return ObjectReader(self._client, self._place(name), self._named(name))

    def _facts(self, name: str) -> dict[str, Any] | None:
        """Ask for an object's size, hashes and metadata; None if it does not exist."""
        try:
            return self._client.head_object(**self._place(name))
        except ClientError as error:
            # The answer to this request has no body, so the reason must be asked for separately.
            retold(self._client, self._bucket, error)
            return None

    def _holds(self, name: str, size: int, digest: str, etag: str) -> bool:
        """Say whether an object is what is to be sent."""
        facts = self._facts(name)
        if facts is None or facts["ContentLength"] != size:
            return False
        if facts.get("Metadata", {}).get(_DIGEST) != digest:
            return False
        # An ETag is a hash of the content unless the server encrypts with keys of its own.
        keyed = facts.get("ServerSideEncryption", "AES256") != "AES256"
        return keyed or "SSECustomerAlgorithm" in facts or facts["ETag"].strip('"') == etag


def _hashes(path: Path, part: int) -> tuple[str, str]:
    """Give a file's SHA-256 and the ETag that S3 gives it when it comes in such parts."""
    whole, parts = hashlib.sha256(), []
    with path.open("rb") as file:
        while chunk := file.read(part):
            whole.update(chunk)
            parts.append(hashlib.md5(chunk, usedforsecurity=False).digest())
    if path.stat().st_size < _PART_BYTES:
        etag = (parts or [hashlib.md5(usedforsecurity=False).digest()])[0].hex()
    else:
        joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        etag = f"{joined}-{len(parts)}"
    return whole.hexdigest(), etag
