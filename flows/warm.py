"""What a run's process needs: importing this is the warm-up of the worker's template."""

import gc

import anyio._backends._asyncio  # noqa: F401 - each of these is imported by the first run otherwise
import pandas  # noqa: F401
import prefect.concurrency.services
import prefect.engine
import prefect.flow_engine
import prefect.task_engine
import prefect.utilities.visualization  # noqa: F401
import pyarrow.parquet  # noqa: F401
import sklearn.compose  # noqa: F401
import skops.io  # noqa: F401
from botocore import UNSIGNED
from botocore.config import Config
from pydantic import BaseModel
from sklearn.impute import SimpleImputer

import flows.execution
import flows.preprocess
import flows.train  # noqa: F401
from dropflow import tracing
from dropflow.storage import shared_session
from flows import steps

# Reading the models of a client takes 0.3 s; the session keeps them. Nothing is connected to.
shared_session().client(
    "s3",
    endpoint_url="http://127.0.0.1:9",
    region_name="us-east-1",
    config=Config(signature_version=UNSIGNED),
)


def built(model: type[BaseModel]) -> None:
    """Have pydantic build Prefect's models below this one; it puts that off until each is used, 3 ms each."""
    for below in model.__subclasses__():
        if below.__module__.startswith(("prefect.client", "prefect.events")):
            below.model_rebuild(raise_errors=False)
        built(below)


built(BaseModel)
# What the first object of each process would pay for otherwise: 70 ms.
steps.code(None)
SimpleImputer().fit([[0.0]])
tracing.warm_up()
# What is there now stays: a run's collector need not go through it, which would copy its pages.
gc.collect()
gc.freeze()
