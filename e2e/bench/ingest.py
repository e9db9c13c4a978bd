#!/usr/bin/env python3
"""Ingests documents as LAYRA does it: one after the other, each stage for the whole document, all
pages in memory. It reads a JSON request on standard input and answers with what each stage took.
`cargo measure ingest` runs it in turns with the worker, on the same documents and servers.

The model is all-MiniLM-L6-v2 through sentence-transformers in place of ColQwen, in this process.
"""
import io
import json
import resource
import sys
import time
import uuid
from datetime import datetime, timezone

import boto3
import pypdfium2
import torch
from bson import ObjectId
from pdf2image import convert_from_bytes
from pymilvus import MilvusClient
from pymongo import MongoClient

from collection import create_collection
from passages import Model


class Stages:
    """Seconds and CPU seconds by stage, children included."""

    def __init__(self):
        self.wall, self.cpu = {}, {}

    def run(self, stage, work):
        start, cpu = time.perf_counter(), cpu_time()
        result = work()
        self.wall[stage] = self.wall.get(stage, 0) + time.perf_counter() - start
        self.cpu[stage] = self.cpu.get(stage, 0) + cpu_time() - cpu
        return result


def cpu_time():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def png(page):
    file = io.BytesIO()
    page.save(file, format="PNG")
    return file.getvalue()


def texts(original):
    document = pypdfium2.PdfDocument(original)
    return [page.get_textpage().get_text_range() for page in document]


def ingest(request, document, model, stores, stages):
    s3, database, milvus = stores
    user, base, collection = request["username"], request["knowledge_base"], request["collection"]
    file_id = document["file_id"]
    original = stages.run("fetch", lambda: s3.get_object(
        Bucket=request["bucket"], Key=document["key"])["Body"].read())
    pages = stages.run("render", lambda: convert_from_bytes(original, dpi=request["dpi"]))
    images = stages.run("png", lambda: [png(page) for page in pages])
    cut = stages.run("text", lambda: [model.cut(text) for text in texts(original)])
    vectors = stages.run("embed", lambda: model.embed(cut))

    def store():
        ids = [f"{user}_{uuid.uuid4()}" for _ in images]
        for number, (image_id, page) in enumerate(zip(ids, vectors)):
            milvus.insert(collection, [
                {"vector": vector, "image_id": image_id, "page_number": number, "file_id": file_id}
                for vector in page])
        now = datetime.now(timezone.utc)
        entry = {"file_id": file_id, "filename": document["filename"],
                 "minio_filename": document["key"], "minio_url": "", "created_at": now}
        database.files.insert_one({
            **entry, "username": user, "knowledge_db_id": base, "images": [],
            "last_modify_at": now, "is_delete": False})
        database.knowledge_bases.update_one(
            {"knowledge_base_id": base}, {"$push": {"files": entry}, "$set": {"last_modify_at": now}})
        for number, (image_id, image) in enumerate(zip(ids, images)):
            key = f"{user}_{document['filename']}_{ObjectId()}.png"
            s3.put_object(Bucket=request["bucket"], Key=key, Body=image, ContentType="image/png")
            database.files.update_one({"file_id": file_id}, {
                "$push": {"images": {"images_id": image_id, "minio_filename": key,
                                     "minio_url": "", "page_number": number + 1}},
                "$set": {"last_modify_at": datetime.now(timezone.utc)}})

    stages.run("stores", store)
    return len(images)


def main():
    request = json.load(sys.stdin)
    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    model = Model(request["model"])
    model.embed([model.cut("warm")])
    s3 = boto3.client(
        "s3", endpoint_url=request["s3"]["endpoint"], aws_access_key_id=request["s3"]["access_key"],
        aws_secret_access_key=request["s3"]["secret_key"], region_name="us-east-1")
    database = MongoClient(request["mongodb_uri"])[request["database"]]
    milvus = MilvusClient(uri=request["milvus"])
    create_collection(milvus, request["collection"], 384)
    stages = Stages()
    start, cpu = time.perf_counter(), cpu_time()
    pages = sum(
        ingest(request, document, model, (s3, database, milvus), stages)
        for document in request["documents"])
    print(json.dumps({
        "pages": pages, "seconds": time.perf_counter() - start, "cpu_seconds": cpu_time() - cpu,
        "wall": stages.wall, "cpu": stages.cpu, "threads": torch.get_num_threads(),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }))


if __name__ == "__main__":
    main()
