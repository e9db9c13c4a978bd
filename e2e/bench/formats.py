#!/usr/bin/env python3
"""What a page of each kind of document costs the worker: CPU time and resident memory.

    cargo testbed dist
    venv/bin/pip install pillow==13.0.0
    venv/bin/python e2e/bench/formats.py --pdfium DIR/libpdfium.so

`layra-worker inspect` opens each file as a worker does, renders it with the defaults and encodes it
as PNG. It is run with one copy of a file and with several more; the difference tells the cost of one.
The memory is that of the largest process. Office documents are those of the tests, and need
LibreOffice; `--kinds pictures` or `--kinds office` measures only a part.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import zipfile

from PIL import Image, ImageDraw, ImageFilter

A4 = (2480, 3508)  # at 300 dots per inch
PHOTOGRAPH = (4000, 3000)
OFFICE = pathlib.Path(__file__).parents[2] / "worker/rendering/tests/fixtures/office"
# Of each format one; slides, sheets and texts in several.
OFFICE_FILES = """text.docx text.doc text-95.doc text.odt text.fodt text.rtf text.sxw
    sheet.xlsx sheet.xls sheet-95.xls sheet.xlsb sheet.ods sheet.fods sheet.sxc
    slide.pptx slide.ppt slide.odp slide.fodp slide.sxi drawing.odg drawing.vsd drawing.vsdx
    text.pub picture.wmf picture.emf text.wpd text.wps text.hwp text.pages slides.key""".split()
WORDS = "the budget of the pump station was approved by the board in March".split()


def scan():
    """A printed page."""
    page = Image.new("L", A4, 255)
    draw = ImageDraw.Draw(page)
    for line in range(60):
        text = " ".join(random.choice(WORDS) for _ in range(20))
        draw.text((200, 200 + 50 * line), text, fill=0, font_size=36)
    return page


def photograph():
    """Soft colours and some noise."""
    small = Image.frombytes("RGB", (80, 60), random.randbytes(80 * 60 * 3))
    image = small.resize(PHOTOGRAPH, Image.Resampling.BICUBIC)
    noise = Image.effect_noise(PHOTOGRAPH, 40).convert("RGB")
    return Image.blend(image, noise, 0.1).filter(ImageFilter.GaussianBlur(1))


def drawing():
    """A plan: lines, filled shapes and words."""
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="1123" height="794">']
    for _ in range(2000):
        x, y = random.randrange(1100), random.randrange(780)
        parts.append(f'<path d="M{x} {y} q 20 -30 40 0 t 40 0" fill="none" stroke="black"/>')
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="8" fill="#8ac"/>')
    for _ in range(200):
        x, y = random.randrange(1000), random.randrange(780)
        parts.append(f'<text x="{x}" y="{y}" font-size="10">{" ".join(WORDS[:4])}</text>')
    return "".join(parts) + "</svg>"


def text():
    """One page."""
    return "\n".join(" ".join(random.choice(WORDS) for _ in range(12)) for _ in range(50))


def book(path, html):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml",
                         "<container><rootfiles><rootfile full-path='c.opf'/></rootfiles></container>")
        archive.writestr("c.opf", "<package><manifest><item id='c' href='c.xhtml'/></manifest>"
                         "<spine><itemref idref='c'/></spine></package>")
        archive.writestr("c.xhtml", html)


def make(directory):
    page, photo, words = scan(), photograph(), text()
    paragraphs = "".join(f"<p>{line}</p>" for line in words.splitlines()[:25])
    html = f"<html><head><title>x</title></head><body>{paragraphs}</body></html>"
    page.save(directory / "A4 at 300 DPI.png")
    page.save(directory / "A4 at 300 DPI.pdf", resolution=300)
    page.save(directory / "A4 at 300 DPI.gif")
    page.save(directory / "A4 at 300 DPI.bmp")
    page.save(directory / "A4 at 300 DPI, JPEG.tiff", compression="jpeg")
    page.convert("1").save(directory / "A4 at 300 DPI, group 4.tiff", compression="group4")
    page.save(directory / "A4 at 300 DPI, LZW.tiff", compression="tiff_lzw")
    photo.save(directory / "12 megapixels.jpg", quality=90)
    photo.save(directory / "12 megapixels.png")
    photo.save(directory / "12 megapixels.webp", quality=85)
    photo.save(directory / "12 megapixels.jp2", quality_mode="rates", quality_layers=[12])
    (directory / "plan.svg").write_text(drawing())
    (directory / "page.txt").write_text(words)
    (directory / "page.html").write_text(html)
    (directory / "page.eml").write_text(f"From: a@b.example\nTo: c@d.example\nSubject: x\n\n{words}")
    book(directory / "page.epub", html)


def cost(arguments, file, copies):
    """CPU seconds, KiB of the largest process, and the reports."""
    code = """
import json, resource, subprocess, sys
output = subprocess.run(sys.argv[1:], check=True, capture_output=True, text=True).stdout
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss, output]))
"""
    command = [arguments.worker, "inspect", "--output", "json", "--pdfium", arguments.pdfium]
    command += [file] * copies
    output = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True)
    seconds, kib, reports = json.loads(output.stdout)
    return seconds, kib, [json.loads(line) for line in reports.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", default="dist/layra-worker")
    parser.add_argument("--pdfium", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=10, help="of a picture, a drawing or a text")
    parser.add_argument("--office-copies", type=int, default=2)
    parser.add_argument("--kinds", choices=["pictures", "office"])
    arguments = parser.parse_args()
    random.seed(7)
    print("| file | pages | stored pixels | CPU ms a document | a page | resident MiB |")
    print("|---|---|---|---|---|---|")
    if arguments.kinds != "office":
        with tempfile.TemporaryDirectory() as directory:
            make(pathlib.Path(directory))
            for file in sorted(pathlib.Path(directory).iterdir(), key=lambda file: file.suffix):
                measure(arguments, file, arguments.copies)
    if arguments.kinds != "pictures":
        for name in OFFICE_FILES:
            measure(arguments, OFFICE / name, arguments.office_copies)


def measure(arguments, file, copies):
    """Prints a row of the table."""
    milliseconds, most = [], 0
    for _ in range(arguments.rounds):
        one, _, _ = cost(arguments, file, 1)
        all_of_them, kib, reports = cost(arguments, file, 1 + copies)
        milliseconds.append((all_of_them - one) * 1000 / copies)
        most = max(most, kib)
    rejected = [report for report in reports if report["outcome"] != "pages"]
    assert not rejected, rejected
    pages = len(reports[0]["pages"])
    width, height = reports[0]["pages"][0]["pixels"]
    least = min(milliseconds)
    print(f"| {file.name} | {pages} | {width} x {height} | {least:.0f} | {least / pages:.0f} | {most >> 10} |",
          flush=True)


if __name__ == "__main__":
    main()
