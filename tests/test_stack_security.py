"""Secrets and certificates with everything real: store, Prefect server, worker, listener."""

from pathlib import Path

import pytest
from authority import Authority, in_front_of
from conftest import Running

pytestmark = pytest.mark.stack


def test_prefects_own_client_trusts_the_authority_in_the_file(running: Running, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    port = int(running.settings.prefect_api.removesuffix("/api").rpartition(":")[2])
    with in_front_of(port, ours.server()) as secure:
        url = f"https://127.0.0.1:{secure}/api"
        trusted, other = (
            running.cli("apply", "--diff", DROPFLOW_PREFECT_API_URL=url, DROPFLOW_CA_FILE=str(one.file))
            for one in (ours, theirs)
        )
    assert trusted.returncode == 0, trusted.stderr
    assert other.returncode == 2, other.stderr
    assert "DROPFLOW_CA_FILE" in other.stderr
    assert "Traceback" not in other.stderr
