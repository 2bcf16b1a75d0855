"""What goes wrong with a real server: it dies and comes back, refuses, or holds something else."""

import threading
import time

import numpy as np
import pytest

from components.storage import (
    FileChanged,
    MissingBucket,
    MissingFile,
    ServerAway,
    StorageError,
    WrongCredentials,
    open_folder,
)

CONTENT = np.random.default_rng(0).bytes(24_000_000)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def attempts(folder, file):
    return {
        "read": lambda: folder.read("key"),
        "open": lambda: folder.open("key"),
        "exists": lambda: folder.exists("key"),
        "entries": lambda: list(folder.entries()),
        "write": lambda: folder.write("key", b"content"),
        "upload": lambda: folder.upload(file, "key"),
    }


ATTEMPTS = list(attempts(None, None))


@pytest.fixture
def restarted(s3_server):
    """Kill the server at once, and start it again after so many seconds."""

    def restart(after):
        s3_server.kill()
        timer = threading.Timer(after, s3_server.start)
        timer.start()
        timers.append(timer)

    timers = []
    yield restart
    for timer in timers:
        timer.join()


def test_a_read_goes_on_when_the_server_comes_back(bucket, file, restarted):
    folder = open_folder(bucket)
    folder.upload(file, "key")
    with folder.open("key") as opened:
        assert opened.read(9_000_000) == CONTENT[:9_000_000]
        restarted(0.5)
        assert opened.read(9_000_000) == CONTENT[9_000_000:18_000_000]
        opened.seek(100)
        assert opened.read(50) == CONTENT[100:150]


def test_a_read_goes_on_within_an_answer(bucket, file, s3_server):
    """The connection drops after the first bytes of an answer have been read."""
    folder = open_folder(bucket)
    folder.upload(file, "key")
    reader = folder._reader("key")
    response = reader._get(0, None)
    s3_server.kill()
    s3_server.start()
    content = bytearray(len(CONTENT))
    reader._fill(memoryview(content), response)
    assert content == CONTENT


def test_an_upload_ends_well_when_the_server_comes_back(bucket, file, restarted):
    folder = open_folder(bucket)
    upload = threading.Thread(target=folder.upload, args=(file, "key"))
    upload.start()
    time.sleep(0.2)
    restarted(0.5)
    upload.join()
    assert folder.read("key") == CONTENT


def test_an_upload_that_failed_is_taken_up_by_the_next_call(
    bucket, file, s3_server, monkeypatch, tmp_path
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    folder = open_folder(bucket)
    (tmp_path / "before").write_bytes(b"x" * 1000)
    folder.upload(tmp_path / "before", "before")
    killer = threading.Timer(0.15, s3_server.kill)
    killer.start()
    try:
        with pytest.raises(ServerAway, match="run again"):
            while True:
                folder.upload(file, "key")
                file.write_bytes(file.read_bytes()[::-1])  # or there would be nothing to send
    finally:
        killer.join()
        s3_server.start()
    file.write_bytes(CONTENT)
    for name, path in (("before", tmp_path / "before"), ("key", file)):
        folder.upload(path, name)
        assert folder.read(name) == path.read_bytes()


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_server_that_is_away(bucket, file, s3_server, attempt, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(ServerAway, match=r"^http://127\.0\.0\.1:9 did not answer .*AWS_ENDPOINT"):
        attempts(open_folder(bucket), file)[attempt]()


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_wrong_secret(bucket, file, attempt, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(WrongCredentials, match="does not accept the credentials") as error:
        attempts(open_folder(bucket), file)[attempt]()
    assert_one_line(error.value)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_no_credentials(bucket, file, attempt, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(WrongCredentials, match=r"no credentials .* set AWS_ACCESS_KEY_ID"):
        attempts(open_folder(bucket), file)[attempt]()


def test_a_profile_that_does_not_exist(bucket, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(WrongCredentials, match="nobody"):
        open_folder(bucket)


def test_endpoint_and_credentials_of_a_profile(bucket, s3_server, monkeypatch, tmp_path):
    (tmp_path / "config").write_text(
        f"[profile lab]\nendpoint_url = {s3_server.endpoint}\nregion = us-east-1\n"
        f"aws_access_key_id = {s3_server.key}\naws_secret_access_key = {s3_server.secret}\n"
    )
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    folder = open_folder(bucket)
    folder.write("key", b"content")
    assert folder.read("key") == b"content"


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_bucket_that_does_not_exist(bucket, file, attempt):
    with pytest.raises(
        MissingBucket, match=r"there is no bucket missing at .*; create it"
    ) as error:
        attempts(open_folder("s3://missing/prefix"), file)[attempt]()
    assert_one_line(error.value)


def test_a_file_replaced_while_it_is_read(bucket, file):
    folder = open_folder(bucket)
    folder.upload(file, "key")
    with folder.open("key") as opened:
        opened.read(10)
        folder.write("key", CONTENT[::-1])
        with pytest.raises(FileChanged, match="was replaced while it was being read"):
            opened.seek(12_000_000)
            opened.read(10)
    with folder.open("key") as opened:
        folder.write("key", b"short")
        with pytest.raises(FileChanged, match="was replaced"):
            opened.seek(12_000_000)
            opened.read(10)


def test_a_file_deleted_while_it_is_read(bucket, file):
    folder = open_folder(bucket)
    folder.upload(file, "key")
    with folder.open("key") as opened:
        opened.read(10)
        folder._client.delete_object(**folder._place("key"))
        with pytest.raises(MissingFile, match="does not exist"):
            opened.seek(12_000_000)
            opened.read(10)


def assert_one_line(error):
    text = str(error)
    assert "\n" not in text and "hunter2" not in text and "testing" not in text
    assert isinstance(error, StorageError) and len(text) < 300
