#!/usr/bin/env python3
"""How fast `layra-worker` embeds pages, against the reference implementation in Python on the same
machine, the same threads, the same page and the same random checkpoint, in one run.

    python3 -m venv venv && venv/bin/pip install -r e2e/bench/requirements.txt
    venv/bin/python e2e/bench/embed.py --worker target/release/layra-worker --threads 1,2

The checkpoint is a ColQwen2.5 of 140 million parameters (vision tower 8 x 640, text tower 8 x 1024):
large enough that matrix products dominate as in the real ones, small enough for a CPU. Rust and
Python take turns; the best time of each counts. On a machine that is busy with other things the
CPU times compare better than the clock's.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import torch
from colpali_engine.models import ColQwen2_5, ColQwen2_5_Processor
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Qwen2TokenizerFast, Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

FIXTURE = pathlib.Path(__file__).parents[2] / "worker/embedding/tests/fixtures/tiny-colqwen2.5"
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def checkpoint(folder):
    """A random model with the tokenizer and the token ids of the tests' tiny one."""
    config = json.loads((FIXTURE / "config.json").read_text())
    config["text_config"].update(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, layer_types=["full_attention"] * 8,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]})
    config["vision_config"].update(
        depth=8, hidden_size=640, intermediate_size=1712, num_heads=8, out_hidden_size=1024,
        fullatt_block_indexes=[3, 7], window_size=112)
    torch.manual_seed(0)
    model = ColQwen2_5(Qwen2_5_VLConfig(**config)).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * (1.2 / weight[0].numel() ** 0.5))
    tokenizer = Qwen2TokenizerFast(
        tokenizer_file=str(FIXTURE / "tokenizer.json"), unk_token=None, bos_token=None,
        eos_token="<|im_end|>", pad_token="<|endoftext|>")
    images = Qwen2VLImageProcessor(
        min_pixels=4 * 28 * 28, max_pixels=768 * 28 * 28, patch_size=14, merge_size=2,
        image_mean=MEAN, image_std=STD)
    processor = ColQwen2_5_Processor(
        image_processor=images, tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((FIXTURE / "tokenizer.json").read_bytes())
    return model, processor


def draw(width, height):
    """Lines of grey that look a little like text."""
    y, x = numpy.mgrid[0:height, 0:width]
    ink = (y % 24 < 12) & ((x * 7 + y // 24 * 13) % 11 < 5)
    return Image.fromarray(numpy.where(ink, 40, 250).astype("uint8")).convert("RGB")


def best(work, seconds):
    """Least seconds of a pass, by the clock and of CPU time."""
    work()
    times, begin = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begin < seconds:
        start, cpu = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    return numpy.min(times, axis=0)


def rust(worker, threads, *arguments):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    command = ["taskset", "--cpu-list", f"0-{threads - 1}", worker, *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True).stdout


def compare(arguments, folder, model, processor, threads):
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, range(threads))
    page = draw(*map(int, arguments.page.split("x")))
    batch = processor.process_images([page])
    forward = preparation = numpy.array([numpy.inf, numpy.inf])
    report = None
    with torch.no_grad():
        for _ in range(arguments.rounds):
            forward = numpy.minimum(forward, best(lambda: model(**batch), arguments.seconds))
            preparation = numpy.minimum(
                preparation, best(lambda: processor.image_processor(images=[page]), 1))
            output = rust(
                arguments.worker, threads, "bench", "embed", "--model", str(folder), "--device",
                "cpu", "--batch", arguments.batch, "--page", arguments.page,
                "--seconds", str(arguments.seconds), "--json")
            found = json.loads(output)
            if report is None:
                report = found
                continue
            for old, new in zip(report["batches"], found["batches"]):
                for key in ("seconds", "cpu_seconds"):
                    old[key] = min(old[key], new[key])
            for key in ("peak_tflops", "preprocessing_pages_per_second"):
                report[key] = max(report[key], found[key])
            key = "preprocessing_cpu_seconds"
            report[key] = min(report[key], found[key])
        expected = model(**batch)[0]
    page.save(folder / "page.png")
    vectors = folder / "vectors.safetensors"
    rust(arguments.worker, threads, "embed", "--model", str(folder), "--device", "cpu",
         "--output", str(vectors), str(folder / "page.png"))
    difference = (load_file(vectors)["page_0"] - expected).abs().max().item()
    show(threads, report, forward, preparation, difference)


def show(threads, report, forward, preparation, difference):
    gflop, peak = report["tflop_per_page"] * 1000, report["peak_tflops"] * 1000
    print(f"\n{threads} thread(s), {report['tokens']} tokens and {gflop:.0f} GFLOP a page, "
          f"vectors differ by at most {difference:.1e}; peak {peak:.0f} GFLOP/s in one product")
    print(f"{'':46}{'Rust':>9}{'Python':>9}{'Python/Rust':>13}")

    def line(name, rust, python):
        print(f"{name:46}{rust:9.4f}{python:9.4f}{python / rust:13.2f}")

    line("preprocessing, s/page", 1 / report["preprocessing_pages_per_second"], preparation[0])
    line("preprocessing, CPU s/page", report["preprocessing_cpu_seconds"], preparation[1])
    for row in report["batches"]:
        pages, name = row["pages"], f"forward, {row['pages']} page(s) a batch"
        line(f"{name}, s/page", row["seconds"] / pages, forward[0])
        line(f"{name}, CPU s/page", row["cpu_seconds"] / pages, forward[1])
        rate = gflop * pages / row["seconds"]
        print(f"{name}: {rate:.0f} GFLOP/s, {rate / peak:.0%} of the peak")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--worker", default="target/release/layra-worker")
    parser.add_argument("--threads", default="1", help="for example 1,2")
    parser.add_argument("--batch", default="1,4", help="pages a batch, for example 1,4,8")
    parser.add_argument("--page", default="1240x1754", help="size in pixels")
    parser.add_argument("--seconds", type=int, default=6, help="for each measurement, at least")
    parser.add_argument("--rounds", type=int, default=2, help="turns of Python and Rust")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model, processor = checkpoint(folder)
        for threads in arguments.threads.split(","):
            compare(arguments, folder, model, processor, int(threads))


if __name__ == "__main__":
    main()
