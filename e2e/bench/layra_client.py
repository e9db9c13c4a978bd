#!/usr/bin/env python3
"""LAYRA's own requests to its model server, sent by its HTTP client (httpx), against `layra-worker
serve`: the calls of its get_embedding.py, and what it does with the answers.

    venv/bin/pip install httpx
    venv/bin/python e2e/bench/layra_client.py --worker dist/layra-worker

No store is needed: the model server answers as soon as the model is loaded. PDFium and the model are
those of the test-bed.
"""
import argparse
import asyncio
import os
import pathlib
import socket
import struct
import subprocess
import tempfile
import time
import zlib

import httpx

CACHE = pathlib.Path(os.environ.get("LAYRA_TESTBED_CACHE",
                                    pathlib.Path.home() / ".cache/layra-testbed"))
CONFIG = """
pipeline: rag/contracts
source: {{kafka: {{bootstrapServers: 'localhost:9'}}}}
documents:
  objectStore:
    endpoint: 'http://localhost:9'
    accessKeySecretRef: {{name: s3}}
    secretKeySecretRef: {{name: s3}}
embedding: {{model: {{family: minilm, uri: 'file://{model}'}}}}
stores:
  milvus: {{uri: 'http://localhost:9'}}
  mongodb: {{uriSecretRef: {{name: mongo}}}}
"""


def page(text):
    """A PDF of one page: the test-bed's model reads text."""
    content = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    file, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    file += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return file + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1, start)


def bomb(side):
    """A small PNG of one colour and very many pixels."""
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    rows = zlib.compress(bytes(4 << 20), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))


async def embed_text(url, queries):
    async with httpx.AsyncClient(timeout=1200.0) as client:
        response = await client.post(f"{url}/embed_text", json={"queries": queries})
        response.raise_for_status()
        return response.json()["embeddings"]


async def embed_images(url, images):
    files = [("images", (f"manual.pdf_{number}.png", image, "image/png"))
             for number, image in enumerate(images)]
    async with httpx.AsyncClient(timeout=1200.0) as client:
        response = await client.post(f"{url}/embed_image", files=files)
        response.raise_for_status()
        return response.json()["embeddings"]


async def status_of(url, **request):
    async with httpx.AsyncClient(timeout=1200.0) as client:
        response = await client.post(url, **request)
        return response.status_code, response.json()


async def check(url):
    health = httpx.get(f"{url}/healthy-check").json()
    assert health == {"status": "UP", "details": "All systems operational"}, health

    texts = [f"Sentence {number} is about tides and the moon." for number in range(40)]
    began = time.perf_counter()
    questions, pages = await asyncio.gather(
        embed_text(url, texts), embed_images(url, [page(text) for text in texts]))
    took = time.perf_counter() - began
    assert len(questions) == len(pages) == 40
    for number, (question, found) in enumerate(zip(questions, pages)):
        assert all(len(vector) == len(question[0]) for vector in question + found), number
        best = max(sum(a * b for a, b in zip(question[0], vector)) for vector in found)
        assert best > 0.95, f"page {number} is in its place: {best}"
    print(f"40 questions and 40 pages in order, {len(questions[0][0])} wide, in {took:.1f} s")

    # All pages of a document are one request, and its own server takes a thousand.
    status, body = await status_of(f"{url}/embed_image", files=[
        ("images", (f"{number}.png", b"x", "image/png")) for number in range(10_000)])
    assert status in (400, 422) and body["detail"], (status, body)
    print(f"10,000 images: {status}, {body['detail']}")
    for request in ({"json": {}}, {"json": {"queries": "one"}}, {"content": b"no JSON"}):
        status, body = await status_of(f"{url}/embed_text", **request)
        assert status == 422 and body["detail"], (status, body)
    for image in b"\x89PNG\r\n\x1a\n and nothing else", bomb(50_000):
        status, body = await status_of(f"{url}/embed_image", files=[
            ("images", ("broken.png", image, "image/png"))])
        assert status == 422 and body["detail"], (status, body)
        print(f"an image that cannot be read: 422, {body['detail'][0]['msg']}")


def serve(arguments, folder):
    secrets = {"object-store/accessKey": "a", "object-store/secretKey": "b",
               "mongodb/uri": "mongodb://localhost:9"}
    for name, value in secrets.items():
        (folder / "secrets" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "secrets" / name).write_text(value)
    (folder / "worker.yaml").write_text(CONFIG.format(model=arguments.model))
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        model, search = (f"127.0.0.1:{it.getsockname()[1]}" for it in (one, other))
    server = subprocess.Popen(
        [arguments.worker, "serve", "--model-listen", model, "--listen", search, "--config",
         folder / "worker.yaml", "--secrets", folder / "secrets", "--cache-dir", folder / "cache"],
        env={**os.environ, "LAYRA_PDFIUM": str(arguments.pdfium), "RUST_LOG": "error"})
    return server, f"http://{model}"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--model", default=CACHE / "models/minilm")
    parser.add_argument("--pdfium", default=CACHE / "pdfium/libpdfium.so")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, url = serve(arguments, pathlib.Path(folder))
        try:
            for _ in range(600):
                try:
                    if httpx.get(f"{url}/healthy-check").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert server.poll() is None, "the server has ended"
                time.sleep(0.1)
            asyncio.run(check(url))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
