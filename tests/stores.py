"""A real S3 API on the loopback interface, and the variables by which clients find it."""

from __future__ import annotations

import os
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "nightly"


@contextmanager
def s3_server():
    """Serve S3 from this process; yield the environment for others, and set it for this one meanwhile."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nightly-writer",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-log-may-hold",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield environment
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.stop()
