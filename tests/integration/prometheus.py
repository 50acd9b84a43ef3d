"""Prometheus: its tool, and a server on a free port."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.integration.children import start
from tests.integration.dovecot import free_port

UNPACKED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tproxy" / "prometheus"
"""Where .ci/packages puts it."""

PATH = f"{os.environ['PATH']}:{UNPACKED}"
PROGRAM, TOOL = shutil.which("prometheus", path=PATH), shutil.which("promtool", path=PATH)
MISSING = None if PROGRAM and TOOL else "there is no Prometheus: .ci/packages unpacks it where there is apt-get"


class Prometheus:
    """A server that scrapes one port each second; it is ended with the test."""

    def __init__(self, test: Any, port: int, rules: Path, **labels: str) -> None:
        self._folder = Path(test.mktemp()).absolute()
        self._folder.mkdir()
        targets = [{"targets": [f"127.0.0.1:{port}"], "labels": labels}]
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "tproxy", "static_configs": targets}],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._test, self._port = test, free_port()

    async def start(self) -> None:
        """Returns once it answers."""
        place = f"127.0.0.1:{self._port}"
        words = (f"--web.listen-address={place}", f"--storage.tsdb.path={self._folder / 'data'}")
        child = start(self._test, (PROGRAM, "--config.file=prometheus.yml", *words), self._folder)
        await child.output.until(b"Server is ready to receive web requests")

    def ask(self, path: str, **query: str) -> Deferred[Any]:
        """What its API says."""

        def ask() -> Any:
            address = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(query)}"
            with urlopen(address, timeout=20) as answer:
                return json.load(answer)["data"]

        return deferToThread(ask)
