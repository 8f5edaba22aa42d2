"""What a run's process needs: importing this is the warm-up of the worker's template."""

import boto3  # noqa: F401
import pandas  # noqa: F401
import prefect.engine
import prefect.flow_engine  # noqa: F401
import pyarrow.parquet  # noqa: F401
import sklearn.compose  # noqa: F401

import flows.preprocess
import flows.train  # noqa: F401
