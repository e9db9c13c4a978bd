#!/usr/bin/env python3
"""How fast the worker renders pages to PNG, against pdf2image as LAYRA uses it and against
pypdfium2, on the same documents, in one run; and whether the pixels are the same.

    cargo build --release --workspace --example bench_render
    venv/bin/python e2e/bench/render.py --pdfium DIR/libpdfium.so FILE.pdf...

All take turns; the best of each counts.
"""
import argparse
import io
import json
import multiprocessing
import os
import pathlib
import resource
import subprocess
import tempfile
import time

import numpy
import pypdfium2
from pdf2image import convert_from_bytes
from PIL import Image


def cpu_time():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def png(image):
    file = io.BytesIO()
    image.save(file, format="PNG")
    return len(file.getvalue())


def with_pdf2image(task):
    file, dpi, threads = task
    original = pathlib.Path(file).read_bytes()
    return [png(page) for page in convert_from_bytes(original, dpi=dpi, thread_count=threads)]


def with_pypdfium2(task):
    file, dpi, _ = task
    return [png(draw(page, dpi)) for page in pypdfium2.PdfDocument(file)]


def draw(page, dpi):
    return page.render(scale=dpi / 72, may_draw_forms=True).to_pil()


def on_all_cores(work):
    def run(tasks):
        with multiprocessing.Pool() as pool:
            return pool.map(work, tasks, chunksize=1)
    return run


def one_by_one(work):
    return lambda tasks: [work(task) for task in tasks]


def worker(arguments, output=None):
    command = [arguments.program, "--json", "--pdfium", arguments.pdfium, "--dpi",
               str(arguments.dpi), *arguments.files]
    if output:
        command += ["--output", output]
    return json.loads(subprocess.run(
        command, check=True, capture_output=True, text=True).stdout)


def compare(arguments):
    """Pages that are equal pixel by pixel to pypdfium2's, of how many; mean difference to
    pdf2image's where the size is the same."""
    equal = pages = 0
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        worker(arguments, folder)
        for file in arguments.files:
            document = pypdfium2.PdfDocument(file)
            original = pathlib.Path(file).read_bytes()
            for number, page in enumerate(document, 1):
                ours = pathlib.Path(folder) / f"{pathlib.Path(file).stem}-{number:04}.png"
                ours = numpy.asarray(Image.open(ours).convert("RGB")).astype(int)
                theirs = numpy.asarray(draw(page, arguments.dpi).convert("RGB")).astype(int)
                equal += ours.shape == theirs.shape and bool((ours == theirs).all())
                pages += 1
                if number % 20 == 1:
                    poppler = convert_from_bytes(
                        original, dpi=arguments.dpi, first_page=number, last_page=number)[0]
                    poppler = numpy.asarray(poppler.convert("RGB")).astype(int)
                    if poppler.shape == ours.shape:
                        differences.append(abs(poppler - ours).mean())
    return equal, pages, differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--program", default="target/release/examples/bench_render")
    parser.add_argument("--pdfium", required=True)
    parser.add_argument("--dpi", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    ways = {
        "pdf2image, as LAYRA": (one_by_one(with_pdf2image), 1),
        "pdf2image, all cores": (on_all_cores(with_pdf2image), 1),
        "pypdfium2, one process": (one_by_one(with_pypdfium2), 1),
        "pypdfium2, all cores": (on_all_cores(with_pypdfium2), 1),
    }
    best = {}
    for _ in range(arguments.rounds):
        found = worker(arguments)
        rows = {"layra-worker": (found["pages"], found["seconds"], found["cpu_seconds"],
                                 found["png_bytes"])}
        for name, (run, threads) in ways.items():
            start, cpu = time.perf_counter(), cpu_time()
            sizes = run([(file, arguments.dpi, threads) for file in arguments.files])
            sizes = [size for document in sizes for size in document]
            rows[name] = (len(sizes), time.perf_counter() - start, cpu_time() - cpu, sum(sizes))
        for name, row in rows.items():
            if name not in best or row[1] < best[name][1]:
                best[name] = row
        best_png = found["png_cpu_seconds"] / found["pages"]
    pages, fastest, _, _ = best["layra-worker"]
    print(f"{pages} pages at {arguments.dpi} DPI to PNG, {cores} cores")
    print(f"{'':26}{'pages/s':>9}{'CPU ms/page':>13}{'KiB/page':>10}{'time / worker':>15}")
    for name, (count, seconds, cpu, size) in best.items():
        print(f"{name:26}{count / seconds:9.1f}{1e3 * cpu / count:13.1f}"
              f"{size / 1024 / count:10.0f}{seconds / fastest:15.2f}")
    print(f"the worker's PNG alone: {1e3 * best_png:.1f} ms of CPU a page")
    equal, pages, differences = compare(arguments)
    print(f"{equal} of {pages} pages have exactly pypdfium2's pixels")
    if differences:
        print(f"mean difference to pdf2image's pixels: {numpy.mean(differences):.2f} of 255 "
              f"({len(differences)} pages)")


if __name__ == "__main__":
    main()
