"""The smallest flow that runs on a schedule in a time zone, beside the preprocessing: copy it for your own.

    python examples/greeting.py        # brings it to the Prefect server that PREFECT_API_URL names

The worker of `dropflow up` or `dropflow worker` runs it, weekdays at nine in Berlin; *Custom run* in the UI
greets whom you like.
"""

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.schedules import CronSchedule


@flow(log_prints=True)
def greet(name: str = "data scientist") -> str:
    """Say good morning.

    Args:
        name: Whom to greet.
    """
    greeting = f"Good morning, {name}!"
    get_run_logger().info(greeting)
    return greeting


def deploy(work_pool: str = "dropflow") -> None:
    """Create or update the deployment greet/weekdays in the work pool."""
    source = greet.from_source(str(Path(__file__).parent), "greeting.py:greet")
    source.deploy(  # type: ignore[union-attr] # a coroutine only where an event loop runs
        "weekdays",
        work_pool_name=work_pool,
        schedule=CronSchedule(cron="0 9 * * 1-5", timezone="Europe/Berlin"),
        description="Says good morning, weekdays at nine.",
        print_next_steps=False,
    )


if __name__ == "__main__":
    deploy()
