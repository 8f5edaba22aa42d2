"""The bare baseline: list a bucket every 0.2 s, prepare what is new in a pool of two processes.

No retries, receipts, reports or notifications; what a data scientist writes in ten minutes. Run by burst.py,
with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its environment:

    python benchmarks/bare.py ENDPOINT FROM_BUCKET TO_BUCKET
"""

import io
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import boto3
import pandas as pd
from botocore.config import Config
from sklearn.preprocessing import StandardScaler

POLL, PROCESSES = 0.2, 2
NUMBERS = ["CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "EstimatedSalary"]


@cache
def client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def own_client(endpoint: str) -> None:
    """Connections must not be shared with the process that this one was forked from."""
    client.cache_clear()
    client(endpoint)


def transform(content: bytes) -> bytes:
    frame = pd.read_csv(io.BytesIO(content)).drop(columns=["RowNumber", "CustomerId", "Surname"])
    frame["Age"] = frame["Age"].fillna(frame["Age"].median())
    frame = pd.get_dummies(frame, columns=["Geography", "Gender"], dtype="int8")
    frame[NUMBERS] = StandardScaler().fit_transform(frame[NUMBERS].astype("float64"))
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def prepare(endpoint: str, source: str, target: str, key: str) -> None:
    s3 = client(endpoint)
    content = s3.get_object(Bucket=source, Key=key)["Body"].read()
    s3.put_object(Bucket=target, Key=key.removesuffix(".csv") + ".parquet", Body=transform(content))


def main(endpoint: str, source: str, target: str) -> None:
    seen: set[str] = set()
    with ProcessPoolExecutor(PROCESSES, initializer=own_client, initargs=(endpoint,)) as pool:
        while True:
            for page in client(endpoint).get_paginator("list_objects_v2").paginate(Bucket=source):
                for found in page.get("Contents", ()):
                    if found["Key"] not in seen:
                        seen.add(found["Key"])
                        pool.submit(prepare, endpoint, source, target, found["Key"])
            time.sleep(POLL)


if __name__ == "__main__":
    main(*sys.argv[1:])
