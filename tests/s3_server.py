"""A real S3 server in one process: OpenStack Swift with its S3 interface, its data on disk.

python tests/s3_server.py FOLDER PORT

Prints the port when it is ready. The data outlive the process, so that a test may kill it and start
it again.
"""

import getpass
import sys
from pathlib import Path

import eventlet
from eventlet import wsgi

KEY, SECRET = "test:tester", "testing"
SERVICES = ("account", "container", "object")
SETTINGS = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}
recon_cache_path = {folder}
user = {user}
workers = 0
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = CRITICAL
"""
SERVICE = """
[pipeline:main]
pipeline = server
[app:server]
use = egg:swift#{service}
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors listing_formats cache bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
IDENTITY = (
    "[swift-hash]\nswift_hash_path_suffix = s\n[storage-policy:0]\nname = one\ndefault = yes\n"
)


def serve(folder: Path, port: int) -> None:
    """Listen on this machine until killed."""
    eventlet.monkey_patch()
    (folder / "disk").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(IDENTITY)
    from swift.common import utils

    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    from swift.common import storage_policy
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.ring import RingBuilder
    from swift.common.wsgi import loadapp

    settings = SETTINGS.format(folder=folder, user=getpass.getuser())
    sockets = {}
    for service in SERVICES:
        sockets[service] = eventlet.listen(("127.0.0.1", 0))
        address = {"ip": "127.0.0.1", "port": sockets[service].getsockname()[1]}
        ring = RingBuilder(2, 1, 0)
        ring.add_dev(
            {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "disk", "meta": ""}
            | address
            | {f"replication_{name}": value for name, value in address.items()}
        )
        ring.rebalance()
        ring.get_ring().save(str(folder / f"{service}.ring.gz"))
        (folder / f"{service}.conf").write_text(settings + SERVICE.format(service=service))
    proxy = PROXY.format(user=KEY.replace(":", "_"), secret=SECRET)
    (folder / "proxy.conf").write_text(settings + proxy)
    sockets["proxy"] = eventlet.listen(("127.0.0.1", port))
    storage_policy.reload_storage_policies()
    threads = [
        eventlet.spawn(
            wsgi.server,
            sockets[service],
            loadapp(str(folder / f"{service}.conf"), global_conf={"log_name": service}),
            protocol=SwiftHttpProtocol,
            log_output=False,
            capitalize_response_headers=False,
        )
        for service in (*SERVICES, "proxy")
    ]
    print(sockets["proxy"].getsockname()[1], flush=True)
    for thread in threads:
        thread.wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
