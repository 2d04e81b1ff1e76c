"""Where a proxy is set for the world, what is on this machine is asked directly."""

import uuid
from pathlib import Path

import boto3

from harness.pictures import SAMPLES
from harness.servers import free_port
from harness.stack import running_stack

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def test_the_service_works_with_a_storage_on_this_machine(tmp_path: Path, s3_endpoint: str) -> None:
    bucket = f"test-{uuid.uuid4().hex}"
    usual = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    boto3.client(
        "s3", endpoint_url=s3_endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    ).create_bucket(Bucket=bucket)
    proxies = dict.fromkeys(PROXIES, f"http://127.0.0.1:{free_port()}") | {"NO_PROXY": "", "no_proxy": ""}
    settings = usual | proxies | {"AWS_ENDPOINT": s3_endpoint, "STORAGE_URL": f"s3://{bucket}"}
    with running_stack(tmp_path, **settings) as stack:
        task_id = stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2)
        stack.finish(task_id)
        assert stack.video(task_id)
