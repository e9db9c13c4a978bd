#!/usr/bin/env python3
"""How fast the worker writes vectors to Milvus and searches them, against pymilvus as LAYRA uses it
(one insert a page) and with the same batches as the worker, in one run.

    cargo build --release --workspace --example bench_milvus
    python3 -m venv venv && venv/bin/pip install pymilvus==2.5.6 numpy 'setuptools<81'
    venv/bin/python e2e/bench/milvus.py --uri http://HOST:PORT

Each writes its own pages into one collection with LAYRA's schema, in turns; the collection is
dropped in the end.
"""
import argparse
import json
import subprocess
import time

import numpy
from pymilvus import MilvusClient

from collection import create_collection


def rows(file, page, vectors, dimensions):
    values = numpy.random.default_rng(page).standard_normal((vectors, dimensions), dtype="float32")
    return [{"vector": vector, "image_id": f"{file}-{page}", "page_number": page, "file_id": file}
            for vector in values.tolist()]


def python(client, arguments, file, batch):
    pages = [rows(file, page, arguments.vectors, arguments.dimensions)
             for page in range(arguments.pages)]
    start, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(pages), batch):
        together = [row for page in pages[first:first + batch] for row in page]
        client.insert(arguments.collection, together)
    return time.perf_counter() - start, time.process_time() - cpu


def search_python(client, arguments):
    questions = [numpy.random.default_rng(number).standard_normal((16, arguments.dimensions),
                                                                  dtype="float32").tolist()
                 for number in range(arguments.searches)]
    start, cpu = time.perf_counter(), time.process_time()
    for question in questions:
        found = client.search(arguments.collection, question, limit=50, anns_field="vector",
                              search_params={"metric_type": "IP", "params": {"ef": 100}},
                              output_fields=["image_id", "page_number", "file_id"],
                              consistency_level="Eventually")
        assert len({hit["entity"]["image_id"] for hits in found for hit in hits}) > 0
    return time.perf_counter() - start, time.process_time() - cpu


def run_rust(arguments, file, pages, searches):
    output = subprocess.run(
        [arguments.program, "--uri", arguments.uri, "--collection",
         arguments.collection, "--pages", str(pages), "--searches", str(searches), "--vectors",
         str(arguments.vectors), "--dimensions", str(arguments.dimensions), "--batch",
         str(arguments.batch), "--file", file],
        check=True, capture_output=True, text=True).stdout
    found = json.loads(output)
    assert found["rows"] == pages * arguments.vectors, found
    return found


def rust(arguments, file):
    found = run_rust(arguments, file, arguments.pages, 0)
    return found["seconds"], found["cpu_seconds"]


def search_rust(arguments):
    found = run_rust(arguments, "none", 0, arguments.searches)
    return found["search_seconds"], found["search_cpu_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--uri", required=True)
    parser.add_argument("--program", default="target/release/examples/bench_milvus")
    parser.add_argument("--collection", default="layra_bench_milvus")
    parser.add_argument("--pages", type=int, default=64)
    parser.add_argument("--vectors", type=int, default=700, help="of a page, as ColQwen has them")
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="pages of one insert")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--searches", type=int, default=50, help="of each client in each round")
    arguments = parser.parse_args()
    client = MilvusClient(uri=arguments.uri)
    if client.has_collection(arguments.collection):
        client.drop_collection(arguments.collection)
    create_collection(client, arguments.collection, arguments.dimensions)
    best = {}
    for turn in range(arguments.rounds):
        ways = {
            "layra-worker": lambda: rust(arguments, f"rust{turn}"),
            "pymilvus, a page each": lambda: python(client, arguments, f"page{turn}", 1),
            "pymilvus, same batches":
                lambda: python(client, arguments, f"batch{turn}", arguments.batch),
        }
        for name, run in ways.items():
            result = run()
            best[name] = min(result, best.get(name, result))
    count = client.query(arguments.collection, filter="", output_fields=["count(*)"],
                         consistency_level="Strong")[0]["count(*)"]
    assert count == 3 * arguments.rounds * arguments.pages * arguments.vectors, count
    best_search = {}
    for turn in range(arguments.rounds):
        for name, run in {"layra-worker": lambda: search_rust(arguments),
                          "pymilvus": lambda: search_python(client, arguments)}.items():
            best_search[name] = min(run(), best_search.get(name, (float("inf"), 0)))
    client.drop_collection(arguments.collection)
    total = arguments.pages * arguments.vectors
    seconds, cpu = best["layra-worker"]
    print(f"{total} rows of {arguments.dimensions} numbers, best of {arguments.rounds}")
    print(f"{'':24}{'rows/s':>10}{'client CPU us/row':>19}{'time / worker':>15}{'CPU / worker':>14}")
    for name, (took, used) in best.items():
        print(f"{name:24}{total / took:10.0f}{1e6 * used / total:19.2f}"
              f"{took / seconds:15.2f}{used / cpu:14.2f}")
    seconds, cpu = best_search["layra-worker"]
    print(f"searches of 16 vectors for the 50 nearest each, best of {arguments.rounds}")
    print(f"{'':24}{'ms':>10}{'client CPU ms':>19}{'time / worker':>15}{'CPU / worker':>14}")
    for name, (took, used) in best_search.items():
        print(f"{name:24}{1e3 * took / arguments.searches:10.2f}"
              f"{1e3 * used / arguments.searches:19.2f}"
              f"{took / seconds:15.2f}{used / cpu:14.2f}")


if __name__ == "__main__":
    main()
