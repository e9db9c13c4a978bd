#!/usr/bin/env python3
"""What smaller weights and fewer vectors cost: each precision against f32, and token pooling
against the reference implementation's pooler, on the tests' tiny random checkpoints and on the
random one of embed.py, whose shapes are nearer to real ones.

    python3 -m venv venv && venv/bin/pip install -r e2e/bench/requirements.txt
    venv/bin/python e2e/bench/quality.py --worker target/release/layra-worker

Memory is the anonymous memory of the process after loading the model.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import torch
from colpali_engine.compression.token_pooling import HierarchicalTokenPooler
from safetensors.torch import load_file

from embed import checkpoint

FIXTURES = pathlib.Path(__file__).parents[2] / "worker/embedding/tests/fixtures"
TINY = ["tiny-colqwen2", "tiny-colqwen2.5", "tiny-colqwen3"]
PRECISIONS = ["f32", "bf16", "f16", "q8", "q4"]
FACTORS = [2, 3, 7]


def queries():
    return json.loads((FIXTURES / TINY[0] / "reference.json").read_text())["queries"]


def vectors(worker, model, *options):
    """Pages and queries as lists of tensors."""
    pages = sorted((FIXTURES / "pages").glob("*.png"))
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "vectors.safetensors"
        subprocess.run([worker, "embed", "--model", model, "--device", "cpu", "--output", output,
                        *options, *pages, "--query", *queries()], check=True, capture_output=True)
        found = load_file(output)
    name = lambda kind: [found[f"{kind}_{i}"] for i in range(sum(kind in key for key in found))]
    return name("page"), name("query")


def scores(pages, questions):
    return torch.tensor([[(q @ p.T).max(1).values.sum() for p in pages] for q in questions])


def memory(worker, model, precision):
    report = subprocess.run(
        [worker, "bench", "embed", "--model", model, "--device", "cpu", "--precision", precision,
         "--page", "124x175", "--batch", "1", "--seconds", "0", "--json"],
        check=True, capture_output=True, text=True)
    return json.loads(report.stdout)["model_bytes"] / 2**20


def precisions(worker, models):
    print("| checkpoint | precision | MiB | least cosine | mean cosine | least mean of a page "
          "| largest change of a score, a query token |\n|---|---|---|---|---|---|---|")
    for name, model in models:
        exact_pages, exact_queries = vectors(worker, model, "--precision", "f32")
        exact = scores(exact_pages, exact_queries)
        for precision in PRECISIONS:
            pages, questions = vectors(worker, model, "--precision", precision)
            cosines = [(a * b).sum(1) for a, b in zip(pages, exact_pages)]
            every = torch.cat(cosines)
            change = (scores(pages, questions) - exact).abs()
            change = max(row.max() / len(q) for row, q in zip(change, exact_queries))
            # A tiny model takes less than what the process takes anyway.
            size = "-" if name in TINY else f"{memory(worker, model, precision):.0f}"
            print(f"| {name} | {precision} | {size} "
                  f"| {every.min():.4f} | {every.mean():.4f} | {min(c.mean() for c in cosines):.4f} "
                  f"| {change:.4f} |", flush=True)


def pooling(worker, models):
    print("\n| checkpoint | factor | vectors | off the reference pooler by | mean cosine to the "
          "nearest pooled vector | a query token's score lost | best page kept |\n|---|---|---|---|---|---|---|")
    pooler = HierarchicalTokenPooler()
    for name, model in models:
        full, questions = vectors(worker, model)
        exact = scores(full, questions)
        for factor in FACTORS:
            pages, _ = vectors(worker, model, "--pool-factor", str(factor))
            reference = pooler.pool_embeddings(full, pool_factor=factor)
            difference = max((a - b).abs().max().item() for a, b in zip(pages, reference))
            found = scores(pages, questions)
            nearest = torch.cat([(a @ b.T).max(1).values for a, b in zip(full, pages)]).mean()
            tokens = torch.tensor([[len(q)] for q in questions])
            lost = ((exact - found) / tokens).mean()
            kept = (found.argmax(1) == exact.argmax(1)).sum()
            count = lambda tensors: sum(len(tensor) for tensor in tensors)
            print(f"| {name} | {factor} | {count(full)} -> {count(pages)} | {difference:.1e} "
                  f"| {nearest:.3f} | {lost:.4f} | {kept} of {len(exact)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--worker", default="target/release/layra-worker")
    worker = parser.parse_args().worker
    with tempfile.TemporaryDirectory() as name:
        checkpoint(pathlib.Path(name))
        models = [(name, FIXTURES / name) for name in TINY] + [("140 M, random", name)]
        precisions(worker, models)
        pooling(worker, models)


if __name__ == "__main__":
    main()
