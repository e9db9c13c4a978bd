#!/usr/bin/env python3
"""How fast exact MaxSim is, against numpy on the same vectors and threads, and against only reading
the same bytes, in one run.

    venv/bin/pip install -r e2e/bench/requirements-ingest.txt
    cargo build --release --workspace --example bench_max_sim
    venv/bin/python e2e/bench/max_sim.py

Both take turns, and the fastest of each is compared, because the machine may have other load. Prints
a table and one JSON object.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "target/release/examples/bench_max_sim"


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=PROGRAM)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=750, help="vectors of a page")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--question", type=int, default=20, help="vectors of the question")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def main():
    arguments = parse()
    # Before numpy is loaded.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    import numpy

    def unit(random, rows):
        values = random.standard_normal((rows, arguments.width), dtype="float32")
        return values / numpy.linalg.norm(values, axis=1, keepdims=True)

    random = numpy.random.default_rng(7)
    question = unit(random, arguments.question)
    pages = unit(random, arguments.pages * arguments.rows)
    pages = pages.reshape(arguments.pages, arguments.rows, arguments.width)

    def by_page():
        return numpy.array([(page @ question.T).max(axis=0).sum() for page in pages])

    def at_once():
        products = pages.reshape(-1, arguments.width) @ question.T
        shape = (arguments.pages, arguments.rows, arguments.question)
        return products.reshape(shape).max(axis=1).sum(axis=1)

    def seconds(work):
        start = time.perf_counter()
        scores = work()
        return time.perf_counter() - start, scores

    fastest = dict.fromkeys(["numpy by page", "numpy at once", "f32", "f16", "read"], float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        files = {name: pathlib.Path(folder) / name for name in ("pages", "question")}
        files["pages"].write_bytes(pages.astype("<f4").tobytes())
        files["question"].write_bytes(question.astype("<f4").tobytes())
        for _ in range(arguments.turns):
            for name, work in ("numpy by page", by_page), ("numpy at once", at_once):
                took, scores = seconds(work)
                fastest[name] = min(fastest[name], took)
            output = subprocess.run(
                [arguments.program, "--pages", files["pages"], "--question", files["question"],
                 "--rows", str(arguments.rows), "--width", str(arguments.width)],
                check=True, capture_output=True, text=True).stdout
            found = json.loads(output)
            for name in "f32", "f16", "read":
                fastest[name] = min(fastest[name], found[f"{name}_seconds"])
            for page, score in found["best"]:
                assert abs(scores[page] - score) < 1e-3, (page, score, scores[page])
            assert scores.argmax() == found["best"][0][0]
    print("| | ms | GFLOP/s | GB/s |\n|---|---|---|---|")
    for name, took in fastest.items():
        size = found["bytes"] / (2 if name == "f16" else 1)
        gflops = "" if name == "read" else f"{found['gflop'] / took:.1f}"
        print(f"| {name} | {took * 1000:.1f} | {gflops} | {size / took / 1e9:.1f} |")
    print(json.dumps({"threads": found["threads"], "seconds": fastest,
                      "numpy": numpy.__version__, "gflop": found["gflop"]}))


if __name__ == "__main__":
    main()
