#!/usr/bin/env python3
"""How fast `layra-worker` embeds pages of text with all-MiniLM-L6-v2, against
sentence-transformers on the same passages and threads, and against the largest f32 product of the
model in torch, in one run.

    venv/bin/pip install -r e2e/bench/requirements-ingest.txt
    venv/bin/python e2e/bench/text.py --model DIR --pages 'DIR/*.txt'

`layra-worker bench render --output DIR` makes the pages. Both take turns; the best of each counts.
"""
import argparse
import glob
import json
import os
import pathlib
import subprocess
import tempfile
import time

import torch

from passages import Model


def best(work, times):
    results = []
    for _ in range(times):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        results.append((time.perf_counter() - start, time.process_time() - cpu))
    return min(results)


def product(rows=2048, inputs=384, outputs=1536):
    a, b = torch.ones(rows, inputs), torch.ones(outputs, inputs)
    seconds, _ = best(lambda: torch.nn.functional.linear(a, b), 30)
    return 2e-9 * rows * inputs * outputs / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--worker", default="target/debug/layra-worker")
    parser.add_argument("--model", required=True)
    parser.add_argument("--pages", required=True, help="a pattern of text files, one a page")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    files = sorted(glob.glob(arguments.pages))
    texts = [pathlib.Path(file).read_text() for file in files]
    torch.set_num_threads(arguments.threads)
    os.sched_setaffinity(0, range(arguments.threads))
    model = Model(arguments.model)
    cut = [model.cut(text) for text in texts]
    python, peak, rust = (float("inf"), 0), 0, None
    with tempfile.TemporaryDirectory() as folder:
        vectors = pathlib.Path(folder) / "vectors.json"
        for _ in range(arguments.rounds):
            peak = max(peak, product())
            python = min(python, best(lambda: model.embed(cut), 1))
            output = subprocess.run(
                [arguments.worker, "bench", "text", "--model", arguments.model, "--passes", "2",
                 "--vectors", vectors, *files],
                env=dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads)), check=True,
                capture_output=True, text=True).stdout
            found = json.loads(output)
            if rust is None or found["seconds"] < rust["seconds"]:
                rust = {**found, "product_gflops": [
                    max(pair) for pair in zip(found["product_gflops"],
                                              (rust or found)["product_gflops"])]}
        expected = [page[0] for page in model.embed(cut)]
        found = torch.tensor(json.loads(vectors.read_text()))
    cosine = (torch.tensor(expected) * found).sum(1).min().item()
    pages, gflop = rust["pages"], rust["gflop"]
    peak = max(peak, product())
    print(f"{pages} pages, {rust['passages']} passages, {rust['tokens']} tokens, "
          f"{gflop / pages:.1f} GFLOP a page, {arguments.threads} thread(s), "
          f"smallest cosine {cosine:.6f}")
    print(f"{'':28}{'Rust':>10}{'Python':>10}{'ratio':>8}")
    for label, ours, theirs in [
            ("pages/s", pages / rust["seconds"], pages / python[0]),
            ("CPU ms a page", 1e3 * rust["cpu_seconds"] / pages, 1e3 * python[1] / pages),
            ("GFLOP/s", gflop / rust["seconds"], gflop / python[0]),
            ("of torch's largest product", gflop / rust["seconds"] / peak,
             gflop / python[0] / peak)]:
        print(f"{label:28}{ours:10.2f}{theirs:10.2f}{ours / theirs:8.2f}")
    library, own = rust["product_gflops"]
    print(f"largest product, GFLOP/s: torch {peak:.0f}, candle {library:.0f}, the worker's {own:.0f}")


if __name__ == "__main__":
    main()
