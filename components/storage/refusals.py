"""explained: what S3 and boto3 refuse, as one line each that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from components.storage.folder import (
    AccessDenied,
    MissingBucket,
    MissingFile,
    ServerAway,
    StorageError,
    WrongCredentials,
)

_MISSING_FILE = {"NoSuchKey", "404", "NotFound"}
_WRONG = {
    "401",
    "AuthorizationHeaderMalformed",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_DENIED = {"403", "AccessDenied", "AccountProblem", "AllAccessDisabled", "Forbidden"}
_REGION = {"301", "IllegalLocationConstraintException", "PermanentRedirect"}
_BUSY = {"500", "502", "503", "504", "InternalError", "RequestTimeout", "ServiceUnavailable"}
_BUSY |= {"SlowDown", "Throttling", "ThrottlingException", "BadGateway", "GatewayTimeout"}
_NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


@contextmanager
def explained(address: str, verb: str = "reach", endpoint: str = "the server") -> Iterator[None]:
    """Turn errors of boto3 into a StorageError.

    Args:
        address: of the object or folder.
        verb: what was tried with it: ``list``, ``read``, ``write``.
        endpoint: address of the server.
    """
    try:
        yield
    except ClientError as error:
        raise _refusal(error, address, verb, endpoint) from error
    except _NO_CREDENTIALS as error:
        raise WrongCredentials(
            f"no credentials to {verb} {address}: {_line(error)}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except (HTTPClientError, ConnectionError) as error:
        raise ServerAway(
            f"{endpoint} did not answer when asked to {verb} {address} "
            f"({type(error).__name__}); check AWS_ENDPOINT_URL and the network, then run again"
        ) from error
    except (BotoCoreError, Boto3Error) as error:
        raise StorageError(f"cannot {verb} {address}: {_line(error)}") from error


def retold(client: Any, bucket: str, error: ClientError) -> None:
    """Raise the reason behind an answer without a body, unless it is that nothing is there.

    Only the number of such an answer is known, which wrong credentials and a missing bucket share
    with other reasons; listing the bucket is answered with a body.
    """
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as reason:
        listing_is_denied = _code(reason) in _DENIED
        if not (listing_is_denied and _code(error) in _MISSING_FILE):
            raise reason from error
    if _code(error) not in _MISSING_FILE:
        raise error


def _refusal(error: ClientError, address: str, verb: str, endpoint: str) -> StorageError:
    code = _code(error)
    if code in _MISSING_FILE:
        return MissingFile(f"{address} does not exist")
    if code == "NoSuchBucket":
        bucket = address.split("/")[2]
        return MissingBucket(
            f"there is no bucket {bucket} at {endpoint}; create it or correct the address"
        )
    if code in _WRONG:
        return WrongCredentials(
            f"{endpoint} does not accept the credentials ({code}); correct AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE or AWS_REGION"
        )
    if code in _EXPIRED:
        return WrongCredentials(f"the credentials for {endpoint} have expired; log in again")
    if code in _DENIED:
        return AccessDenied(
            f"these credentials may not {verb} {address}; have the right to {verb} it granted"
        )
    if code in _REGION:
        return StorageError(f"{address} lies in another region; set AWS_REGION to it")
    if code in _BUSY:
        return ServerAway(
            f"{endpoint} answers {code} when asked to {verb} {address}; wait and run again"
        )
    return StorageError(f"cannot {verb} {address}: {code}: {_line(error)}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
