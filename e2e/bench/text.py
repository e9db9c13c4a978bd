#!/usr/bin/env python3
"""How fast the worker embeds pages of text with all-MiniLM-L6-v2, against
sentence-transformers on the same passages and threads, and against the largest f32 product of the
model in torch, in one run.

    venv/bin/pip install -r e2e/bench/requirements-ingest.txt
    cargo build --release --workspace --example bench_text --example bench_render
    target/release/examples/bench_render --output DIR FILE.pdf   # writes the pages
    venv/bin/python e2e/bench/text.py --model DIR --pages 'DIR/*.txt'

All take turns, and the sums over all turns are compared, because the machine may have other load.
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


class Turns:
    """Sums over all turns of one side, so that other load affects all sides alike."""

    def __init__(self):
        self.gflop, self.total, self.seconds, self.cpu = 0, 0, float("inf"), float("inf")

    def add(self, gflop, seconds, cpu):
        self.gflop, self.total = self.gflop + gflop, self.total + seconds
        self.seconds, self.cpu = min(self.seconds, seconds), min(self.cpu, cpu)

    def rate(self):
        return self.gflop / self.total

    def take(self, gflop, work):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        self.add(gflop, time.perf_counter() - start, time.process_time() - cpu)


def product(turns, seconds, rows=2048, inputs=384, outputs=1536):
    """Runs torch's largest product of the model for this time."""
    a, b = torch.ones(rows, inputs), torch.ones(outputs, inputs)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        turns.take(2e-9 * rows * inputs * outputs, lambda: torch.nn.functional.linear(a, b))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", default="target/release/examples/bench_text")
    parser.add_argument("--model", required=True)
    parser.add_argument("--pages", required=True, help="a pattern of text files, one a page")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(glob.glob(arguments.pages))
    texts = [pathlib.Path(file).read_text() for file in files]
    torch.set_num_threads(arguments.threads)
    os.sched_setaffinity(0, range(arguments.threads))
    model = Model(arguments.model)
    cut = [model.cut(text) for text in texts]
    python, rust, peak, own = Turns(), Turns(), Turns(), []
    with tempfile.TemporaryDirectory() as folder:
        vectors = pathlib.Path(folder) / "vectors.json"
        for _ in range(arguments.rounds):
            output = subprocess.run(
                [arguments.program, "--model", arguments.model, "--passes", "1",
                 "--vectors", vectors, *files],
                env=dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads)), check=True,
                capture_output=True, text=True).stdout
            found = json.loads(output)
            rust.add(found["gflop"], found["seconds"], found["cpu_seconds"])
            own.append(found["product_gflops"])
            product(peak, found["seconds"])
            python.take(found["gflop"], lambda: model.embed(cut))
            product(peak, found["seconds"])
        expected = [page[0] for page in model.embed(cut)]
        rows = torch.tensor(json.loads(vectors.read_text()))
    cosine = (torch.tensor(expected) * rows).sum(1).min().item()
    pages, own = found["pages"], sum(own) / len(own)
    print(f"{pages} pages, {found['passages']} passages, {found['tokens']} tokens, "
          f"{found['gflop'] / pages:.1f} GFLOP a page, {arguments.threads} thread(s), "
          f"smallest cosine {cosine:.6f}")
    print(f"{'':32}{'worker':>10}{'Python':>10}{'ratio':>8}")
    for label, ours, theirs in [
            ("pages/s, best turn", pages / rust.seconds, pages / python.seconds),
            ("CPU ms a page, best turn", 1e3 * rust.cpu / pages, 1e3 * python.cpu / pages),
            ("GFLOP/s, all turns", rust.rate(), python.rate()),
            ("largest product alone, GFLOP/s", own, peak.rate()),
            ("of the own largest product", rust.rate() / own, python.rate() / peak.rate()),
            ("of torch's largest product", rust.rate() / peak.rate(),
             python.rate() / peak.rate())]:
        print(f"{label:32}{ours:10.2f}{theirs:10.2f}{ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
