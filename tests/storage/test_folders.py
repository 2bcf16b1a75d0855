"""One contract for a folder on disk and for a prefix in a bucket of a real server."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.storage import MissingFile, StorageError, open_folder


@pytest.fixture(params=["local", "s3"])
def address(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "folder")
    return request.getfixturevalue("bucket") + "/some/prefix"


@pytest.fixture
def folder(address):
    return open_folder(address)


@pytest.fixture
def large(tmp_path):
    """A file of 12 MB, which goes in two parts."""
    path = tmp_path / "large.bin"
    path.write_bytes(np.random.default_rng(0).bytes(12_000_001))
    return path


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 40])
def test_what_is_written_is_read(folder, content):
    folder.write("one.bin", content)
    assert folder.read("one.bin") == content
    with folder.open("one.bin") as file:
        assert file.read() == content


def test_an_address_and_what_lies_within_it(folder, address):
    assert folder.address == address
    folder.within("a/b").write("c.txt", b"deep")
    assert folder.within("a").address == f"{address}/a"
    assert folder.read("a/b/c.txt") == folder.within("a").within("b").read("c.txt") == b"deep"


def test_entries_are_all_files_sorted_by_name(folder):
    # A slash sorts after a dot and before a digit, also between folders and files.
    names = ["a.txt", "a/1/x", "a/2", "a0/y", "ab", "ä/z", "b c+d/%41", "Z"]
    for number, name in enumerate(reversed(names)):
        folder.write(name, b"." * number)
    found = list(folder.entries())
    assert [entry.name for entry in found] == sorted(names, key=str.encode)
    sizes = {name: number for number, name in enumerate(reversed(names))}
    assert {entry.name: entry.size_bytes for entry in found} == sizes
    assert [entry.name for entry in folder.entries("a")] == ["a/1/x", "a/2"]
    assert [entry.name for entry in folder.within("a").entries()] == ["1/x", "2"]
    assert list(folder.entries("nothing")) == []


def test_an_entrys_version_changes_with_its_content(folder):
    folder.write("one", b"abc")
    folder.write("two", b"abc")
    before = {entry.name: entry.version for entry in folder.entries()}
    folder.write("one", b"abd")
    after = {entry.name: entry.version for entry in folder.entries()}
    assert before["one"] != after["one"] and before["two"] == after["two"]


def test_a_listing_of_several_pages(bucket):
    folder, names = open_folder(bucket), ["a", "b/1", "b/2", "b/3", "c"]
    for name in names:
        folder.write(name, b"")
    hook = "provide-client-params.s3.ListObjectsV2"
    folder._client.meta.events.register(hook, lambda params, **_: {**params, "MaxKeys": 2})
    assert [entry.name for entry in folder.entries()] == names


def test_a_missing_file_is_named(folder, address):
    for attempt in (folder.read, folder.open):
        with pytest.raises(MissingFile, match=rf"^{address}/nothing does not exist$") as error:
            attempt("nothing")
        assert isinstance(error.value, FileNotFoundError) and isinstance(error.value, StorageError)
    assert not folder.exists("nothing")
    folder.write("nothing/more", b"")
    assert not folder.exists("nothing") and folder.exists("nothing/more")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a//b", "a/../b", "a/", "."])
def test_names_do_not_lead_out(folder, name):
    for attempt in (folder.read, folder.open, folder.exists, folder.within, folder.path):
        with pytest.raises(ValueError, match="must be a path below its folder"):
            attempt(name)
    with pytest.raises(ValueError, match="must be a path below its folder"):
        folder.write(name, b"")


def test_open_reads_here_and_there(folder):
    content = np.random.default_rng(1).bytes(3_000_000)
    folder.write("file", content)
    with folder.open("file") as file:
        assert file.seek(0, os.SEEK_END) == len(content) and file.read() == b""
        for start, count in [(5, 7), (2_999_990, 100), (0, 1), (1_000_000, 1_500_000)]:
            assert file.seek(start) == start
            assert file.read(count) == content[start : start + count]
            assert file.tell() == min(start + count, len(content))
        file.seek(-4, os.SEEK_END)
        assert file.read(2) == content[-4:-2]
        file.seek(-2, os.SEEK_CUR)
        assert file.read() == content[-4:]
        file.seek(len(content) + 5)
        assert file.read(1) == b""


def test_parquet_reads_a_row_group_of_it(folder, tmp_path):
    table = pa.table({"number": range(1000), "text": [str(n) * 50 for n in range(1000)]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    folder.upload(tmp_path / "rows.parquet", "rows.parquet")
    with folder.open("rows.parquet") as file, pq.ParquetFile(file) as parquet:
        assert parquet.read_row_group(7).equals(table.slice(700, 100))
        assert parquet.read(["number"]).equals(table.select(["number"]))


def test_a_large_file_is_uploaded_once(folder, large):
    folder.upload(large, "large")
    assert folder.read("large") == large.read_bytes()
    (first,) = folder.entries()
    folder.upload(large, "large")
    assert list(folder.entries()) == [first] and first.size_bytes == 12_000_001
    content = bytearray(large.read_bytes())
    content[11_000_000] ^= 1
    large.write_bytes(content)
    folder.upload(large, "large")
    assert folder.read("large") == content


def test_an_upload_is_skipped_when_the_same_is_there(folder, tmp_path, address):
    (tmp_path / "file").write_bytes(b"content")
    folder.upload(tmp_path / "file", "copy")
    if (copy := folder.path("copy")) is not None:
        os.utime(copy, ns=(1, 1))
        folder.upload(tmp_path / "file", "copy")
        assert copy.stat().st_mtime_ns == 1
    else:
        client, (bucket, _, key) = folder._client, f"{address}/copy"[5:].partition("/")
        before = client.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]
        folder.upload(tmp_path / "file", "copy")
        after = client.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]
        assert after["last-modified"] == before["last-modified"]


def test_uploading_what_is_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        folder.upload(tmp_path / "missing", "copy")
    assert list(folder.entries()) == []


def test_a_reader_sees_the_old_content_or_the_new_one(folder):
    """Overwriting is seen as a whole, however many write."""
    from concurrent.futures import ThreadPoolExecutor

    contents = [bytes([number]) * 300_000 for number in range(4)]
    folder.write("file", contents[0])
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(folder.write, "file", contents[n % 4]) for n in range(12)]
        for _ in range(12):
            assert folder.read("file") in contents
        for write in writes:
            write.result()
    assert folder.read("file") in contents
    assert [entry.name for entry in folder.entries()] == ["file"]


def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    folder = open_folder(tmp_path)
    folder.write("file", b"old")

    def pulled_plug(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", pulled_plug)
    with pytest.raises(KeyboardInterrupt):
        folder.write("file", b"new")
    assert folder.read("file") == b"old" and [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_what_a_killed_writer_leaves_is_no_entry(tmp_path):
    (tmp_path / ".file-0123456789abcdef.unfinished").write_bytes(b"half")
    assert list(open_folder(tmp_path).entries()) == []


def test_new_files_have_ordinary_rights(tmp_path):
    open_folder(tmp_path).write("ours", b"")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file"):
        open_folder(tmp_path / "file").write("below", b"")


@pytest.mark.parametrize("address", ["http://host/x", "s3://", "s3:///key", "gs://bucket/x"])
def test_other_addresses_are_refused(address):
    with pytest.raises(ValueError, match=r"must be a path or s3://BUCKET/PREFIX, got"):
        open_folder(address)


def test_a_local_folder_needs_no_boto3():
    import subprocess
    import sys

    program = (
        "import sys, components.storage as s; s.open_folder('.'); assert 'boto3' not in sys.modules"
    )
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
