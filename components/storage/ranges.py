"""ObjectReader: an object in a bucket as a file, read by ranges, whatever the connection does."""

import io
import time
from functools import partial
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnection

from components.storage.folder import FileChanged, ServerAway
from components.storage.refusals import explained

_DROPPED = (HTTPClientError, IncompleteReadError, NoConnection, ConnectionError, TimeoutError)
_DROPS = 5  # in a row without a byte in between
_PAUSE_SECONDS = 0.5  # after the first; each pause is twice as long as the one before


class ObjectReader(io.RawIOBase):
    """Reads what is asked for, each time by one request, which is repeated from where it broke.

    All requests name the ETag that the first one found, so that no two versions are mixed. What
    goes wrong is a StorageError.
    """

    def __init__(self, client: Any, place: dict[str, str], address: str) -> None:
        self._client, self._place, self._address = client, place, address
        self._explained = partial(explained, address, "read", client.meta.endpoint_url)
        self._etag, self._size, self._position = "", -1, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Give the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move without asking the server."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        position = (self.size() if origin is None else origin) + offset
        if position < 0:
            raise ValueError(f"cannot move before the start of {self._address}")
        self._position = position
        return position

    def size(self) -> int:
        """Give the object's length, by a request for its first byte if none was made yet."""
        if self._size < 0:
            with self._explained():
                self._get(0, 1)["Body"].close()
        return self._size

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the object goes."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self.size() - self._position))
        with self._explained():
            self._fill(view[:wanted])
        self._position += wanted
        return wanted

    def readall(self) -> bytes:
        """Give all from the position on; from a fresh start, by one request."""
        if self._size >= 0 or self._position:
            return super().readall()
        with self._explained():
            response = self._get(0, None)
            content = bytearray(self._size)
            self._fill(memoryview(content), response)
        self._position = self._size
        return bytes(content)

    def _fill(self, view: memoryview, response: dict[str, Any] | None = None) -> None:
        filled = drops = 0
        while filled < len(view):
            try:
                if response is None:
                    response = self._get(self._position + filled, len(view) - filled)
                count = response["Body"].readinto(view[filled:])
                if not count:
                    raise ConnectionError("the answer ended early")
                filled, drops = filled + count, 0
            except _DROPPED as error:
                response, drops = None, drops + 1
                if drops == _DROPS:
                    raise ServerAway(
                        f"the connection to {self._address} broke {_DROPS} times in a row; "
                        "check the network and run again"
                    ) from error
                time.sleep(_PAUSE_SECONDS * 2 ** (drops - 1))
        if response is not None:
            response["Body"].read()  # nothing, by which the connection is free for the next one

    def _get(self, start: int, count: int | None) -> dict[str, Any]:
        """Ask for some bytes, or for all with None."""
        request = dict(self._place)
        if count is not None:
            request["Range"] = f"bytes={start}-{start + count - 1}"
        if self._etag:
            request["IfMatch"] = self._etag
        try:
            response = self._client.get_object(**request)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code == "InvalidRange" and not self._etag:  # the first byte of nothing
                return self._get(0, None)
            if code in ("PreconditionFailed", "412", "InvalidRange"):
                raise self._changed() from error
            raise
        if self._etag and response["ETag"] != self._etag:
            raise self._changed()
        self._etag = response["ETag"]
        described = response.get("ContentRange", "").rpartition("/")[2]
        self._size = int(described or response["ContentLength"])
        return response

    def _changed(self) -> FileChanged:
        return FileChanged(f"{self._address} was replaced while it was being read; start again")
