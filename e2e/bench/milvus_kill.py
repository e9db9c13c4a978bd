#!/usr/bin/env python3
"""How many acknowledged rows a standalone Milvus 2.3.5 loses when it is killed and started again.
Nothing of this project takes part: the rows are inserted with pymilvus.

    cargo testbed down                  # its Milvus is not used, but takes memory and CPU time
    venv/bin/python e2e/bench/milvus_kill.py --collections 84 --rounds 12

Each round inserts rows, ends the server with a signal, starts it again and counts with strong
consistency. Collections whose count is too low are counted again a minute later.
"""
import argparse
import logging
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import urllib.request

import numpy
import yaml
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections

PARTS = ["proxy", "rootCoord", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode"]


class Server:
    """Milvus with embedded etcd, as the test-bed runs it, on ports of its own."""

    def __init__(self, artifact, folder, port):
        self.artifact, self.folder, self.port = artifact, folder, port
        template = (artifact / "config.yaml.template").read_text()
        default = lambda match: match[1].split(":", 1)[1].strip() if ":" in match[1] else ""
        config = yaml.safe_load(re.sub(r"\{\{(.*?)\}\}", default, template))
        for offset, part in enumerate(PARTS):
            config.setdefault(part, {})
            config[part].update(ip="127.0.0.1", port=port + offset + (offset > 0))
        config["proxy"]["internalPort"] = port + 1
        url = f"http://127.0.0.1:{port + 9}"
        config["etcd"].update(endpoints=url[7:], data={"dir": str(folder / "etcd")})
        config["etcd"]["config"] = {"path": str(folder / "configs/etcd.yaml")}
        config["localStorage"] = {"path": str(folder / "data")}
        config.setdefault("rocksmq", {})["path"] = str(folder / "rocksmq")
        config["log"]["level"] = "warn"
        (folder / "configs").mkdir()
        peer = f"http://127.0.0.1:{port + 10}"
        etcd = {
            "name": "default", "data-dir": str(folder / "etcd"),
            "listen-client-urls": url, "advertise-client-urls": url,
            "listen-peer-urls": peer, "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        (folder / "configs/milvus.yaml").write_text(yaml.safe_dump(config))
        (folder / "configs/etcd.yaml").write_text(yaml.safe_dump(etcd))
        (folder / "configs/glog.conf").write_bytes((artifact / "glog.conf").read_bytes())

    def start(self):
        environment = dict(
            os.environ, DEPLOY_MODE="STANDALONE", METRICS_PORT=str(self.port + 11),
            MILVUS_RUN_DIR=str(self.folder / "run"), LD_LIBRARY_PATH=str(self.artifact / "bin"),
        )
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [self.artifact / "bin/milvus", "run", "standalone"],
            cwd=self.folder, env=environment, stdout=log, stderr=log,
        )
        while not self.is_healthy():
            time.sleep(0.3)
        if connections.has_connection("default"):
            connections.disconnect("default")
        connections.connect("default", host="127.0.0.1", port=self.port)

    def is_healthy(self):
        try:
            url = f"http://127.0.0.1:{self.port + 11}/healthz"
            return b"OK" in urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            return False

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait()


def create(name):
    fields = [
        FieldSchema("pk", DataType.INT64, is_primary=True, auto_id=True),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=128),
    ]
    collection = Collection(name, CollectionSchema(fields))
    parameters = {"M": 32, "efConstruction": 500}
    index = {"index_type": "HNSW", "metric_type": "IP", "params": parameters}
    collection.create_index("vector", index)
    collection.load()


def insert(name, rows):
    Collection(name).insert([numpy.random.rand(rows, 128).tolist()])


def count(name):
    """Waits until the collection is loaded again."""
    for _ in range(150):
        try:
            fields = ["count(*)"]
            rows = Collection(name).query("pk > 0", fields, consistency_level="Strong")
            return rows[0]["count(*)"]
        except Exception as error:  # pymilvus raises one class for everything
            last = error
            time.sleep(2)
    raise last


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--milvus", type=pathlib.Path, default=cache / "layra-testbed/milvus")
    parser.add_argument("--collections", type=int, default=84)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--port", type=int, default=27530)
    arguments = parser.parse_args()
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    number = signal.Signals[f"SIG{arguments.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(arguments.milvus, pathlib.Path(folder), arguments.port)
        server.start()
        try:
            expected = {f"c{index}": 0 for index in range(arguments.collections)}
            for name in expected:
                create(name)
                insert(name, 5)
                expected[name] += 5
            lost = 0
            for turn in range(1, arguments.rounds + 1):
                for _ in range(10):
                    insert("c0", 7)
                    expected["c0"] += 7
                    time.sleep(0.2)
                server.end(number)
                server.start()
                short = [name for name in expected if count(name) != expected[name]]
                if short:
                    print(f"round {turn}: {len(short)} collections lack rows; waiting a minute")
                    time.sleep(60)
                for name in short:
                    found = count(name)
                    if found != expected[name]:
                        print(f"round {turn}: {name} has {found} of {expected[name]} rows")
                        lost += expected[name] - found
                        expected[name] = found
                print(f"round {turn} of {arguments.rounds}: {lost} rows lost so far", flush=True)
        finally:
            server.end(signal.SIGKILL)


if __name__ == "__main__":
    main()
