"""kubernetes/: valid, restricted, and in step with the program and with docker-compose.yaml. No cluster runs it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from composing import load
from test_webhook import calling

from dropflow.cli import app
from dropflow.declarations import load_datasets
from dropflow.ledger import Ledger
from dropflow.settings import FIELDS, FILE, PREFIX, PROJECT, SECRETS
from flows import alive

FOLDER = PROJECT / "kubernetes"
VERSIONS = ("1.30", "1.37")
BASE, EXAMPLE = (
    yaml.safe_load((FOLDER / one / "kustomization.yaml").read_text()) for one in ("base", "example")
)
COMPOSE: dict[str, Any] = load()["services"]


def documents() -> list[dict[str, Any]]:
    return [
        one for name in BASE["resources"] for one in yaml.safe_load_all((FOLDER / "base" / name).read_text())
    ]


PODS = {
    one["metadata"]["name"]: one["spec"]["template"]
    for one in documents()
    if "template" in one.get("spec", {})
}
CONTAINERS = [
    (name, one)
    for name, template in PODS.items()
    for one in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
]


def literals(kustomization: dict[str, Any], name: str) -> dict[str, str]:
    found = next(one for one in kustomization["configMapGenerator"] if one["name"] == name)
    return dict(line.split("=", 1) for line in found.get("literals", []))


def environment(container: dict[str, Any]) -> dict[str, Any]:
    """What a container is given, by variable: a value, or where it comes from."""
    found: dict[str, Any] = {}
    for one in container.get("envFrom", []):
        name = one["configMapRef"]["name"]
        found |= literals(BASE, name) | literals(EXAMPLE, name)
    return found | {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def secret_keys() -> Iterator[tuple[str, str]]:
    """Every Secret and key that a pod is told of."""
    for name, container in CONTAINERS:
        spec = PODS[name]["spec"]
        sources = [s for v in spec["volumes"] if "projected" in v for s in v["projected"]["sources"]]
        mounted = [one["secret"]["name"] for one in sources]
        for variable, value in environment(container).items():
            if isinstance(value, dict) and "secretKeyRef" in value:
                yield value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]
            elif variable.endswith(FILE):
                key = Path(value).name
                yield (mounted[-1] if key == "prefect_auth" else mounted[0]), key


@pytest.mark.parametrize("version", VERSIONS)
def test_it_keeps_to_the_schemas(version: str) -> None:
    for one in documents():
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not on PATH: it builds the overlay")
def test_the_example_can_be_built(tmp_path: Path) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", FOLDER / "example"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for one in built:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "dropflow"
    maps = {one["metadata"]["name"]: one["data"] for one in built if one["kind"] == "ConfigMap"}
    named = re.findall(r"(?:configMapRef:\n\s+name|configMap:\n\s+name): (\S+)", done.stdout)
    assert set(named) == maps.keys()
    # As the kubelet lays out a ConfigMap: links to a folder with a time for its name.
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..data").symlink_to("..2026")
    for name, text in next(data for one, data in maps.items() if one.startswith("datasets-")).items():
        (tmp_path / "..2026" / name).write_text(text)
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert load_datasets(tmp_path).by_name.keys() == {"churn"}


def test_the_example_shows_a_dataset_of_ours() -> None:
    files = next(one for one in EXAMPLE["configMapGenerator"] if one["name"] == "datasets")["files"]
    for name in files:
        assert (FOLDER / "example" / name).read_text() == (PROJECT / name).read_text()


def test_every_variable_is_a_setting() -> None:
    for _, container in CONTAINERS:
        for variable in environment(container):
            if variable.startswith(PREFIX):
                field = variable.removeprefix(PREFIX).lower()
                assert field in FIELDS or field.removesuffix(FILE.lower()) in SECRETS, variable


def test_all_are_given_what_compose_gives_them() -> None:
    services = {
        "listener": "listener-1",
        "worker": "worker",
        "apply": "apply",
        "prefect": "prefect",
        "migrate": "migrate",
    }
    for _, container in CONTAINERS:
        given = {one.removesuffix(FILE) for one in environment(container)}
        missing = COMPOSE[services[container["name"]]]["environment"].keys() - given
        # How often is told where it differs from what is usual.
        assert missing <= {"DROPFLOW_SWEEP_SECONDS"}, container["name"]


@pytest.mark.parametrize(
    ("variable", "readers"),
    [
        ("DROPFLOW_RUN_MINUTES", ["listener-1", "listener-2", "worker"]),
        ("DROPFLOW_RUNBOOKS_URL", ["listener-1", "listener-2", "apply"]),
    ],
)
def test_what_is_set_reaches_all_who_read_it(variable: str, readers: list[str]) -> None:
    default = FIELDS[variable.removeprefix(PREFIX).lower()].default
    given = {COMPOSE[name]["environment"].get(variable) for name in readers}
    assert given == {f"${{{variable}:-{default}}}"}
    assert literals(BASE, "settings")[variable] == str(default)


def test_what_prefect_is_told_is_told_it_by_compose() -> None:
    declared = COMPOSE["prefect"]["environment"]
    given = literals(BASE, "prefect-settings")
    assert given.keys() | literals(EXAMPLE, "prefect-settings").keys() <= declared.keys()
    same = {name: value for name, value in given.items() if "$" not in declared[name]}
    assert same == {name: declared[name] for name in same}


def test_commands_are_those_of_the_program_or_of_compose() -> None:
    for _, container in CONTAINERS:
        if "command" in container:
            service = COMPOSE[container["name"]]
            assert container["command"] == [*service["entrypoint"], *service["command"]]
        else:
            assert container["args"][0] in app


def test_probes_ask_for_what_is_there(ledger: Ledger) -> None:
    listener = calling(ledger)
    for name, container in CONTAINERS:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            if "exec" in probe:
                healthcheck = COMPOSE[name]["healthcheck"]["test"]
                assert probe["exec"]["command"] == healthcheck[1:]
                assert f"/{alive.NAME} " in healthcheck[-1]
            elif name == "listener":
                assert listener.get(probe["httpGet"]["path"]).status_code == 200
            elif probe:
                assert probe["httpGet"]["path"] in json.dumps(COMPOSE[name]["healthcheck"])
    probed = {name for name, container in CONTAINERS if "livenessProbe" in container}
    assert probed == {name for name, container in CONTAINERS if container["name"] not in ("apply", "migrate")}


def test_no_pod_may_do_more_than_it_has_to() -> None:
    for name, template in PODS.items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        # Of a service named dropflow Kubernetes would make DROPFLOW_PORT, which is no setting.
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    for name, container in CONTAINERS:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert container["resources"].keys() == {"requests", "limits"}, name
        assert {"/var/lib/dropflow", "/tmp"} <= {one["mountPath"] for one in container["volumeMounts"]}, name  # noqa: S108


def test_no_argument_is_made_of_a_secret() -> None:
    for name, container in CONTAINERS:
        # Kubernetes puts the value of a variable in place of $(NAME).
        assert "$(" not in json.dumps([container.get("command"), container.get("args")]), name


def policies() -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one["spec"] for one in documents() if one["kind"] == "NetworkPolicy"}


def test_pods_call_whom_they_have_to() -> None:
    found = policies()
    assert found["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (callers,) = found["prefect"]["ingress"][0]["from"]
    (names,) = callers["podSelector"]["matchExpressions"]
    with_address = {name for name, one in CONTAINERS if "DROPFLOW_PREFECT_API_URL" in environment(one)}
    assert set(names["values"]) == with_address
    to_prefect = {"matchLabels": {"app.kubernetes.io/name": "prefect"}}
    for name, anywhere in {"worker": {53, 443, 9000}, "apply": {53}}.items():
        policy = found[name]
        assert policy["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}
        assert policy["policyTypes"] == ["Egress"]
        first, *others = policy["egress"]
        assert first == {"to": [{"podSelector": to_prefect}], "ports": [{"port": "http"}]}
        assert {port["port"] for one in others for port in one["ports"]} == anywhere


def test_secrets_are_named_and_never_given() -> None:
    assert not [one for one in documents() if one["kind"] == "Secret"]
    for kustomization in (BASE, EXAMPLE):
        assert "secretGenerator" not in kustomization
        for name in ("settings", "prefect-settings"):
            given = literals(kustomization, name)
            assert not [one for one in given if re.search("PASSWORD|SECRET|TOKEN|AUTH|NOTIFY|LEDGER", one)]
    told = (PROJECT / "docs" / "operations.md").read_text()
    for secret, key in secret_keys():
        assert re.search(rf"\| `{secret}` \|.*`{key}`", told), f"{secret}/{key} is not in docs/operations.md"


def test_every_label_that_is_looked_for_is_on_a_pod() -> None:
    names = {template["metadata"]["labels"]["app.kubernetes.io/name"] for template in PODS.values()}
    wanted = re.findall(r"app\.kubernetes\.io/name\"?: \"?([\w-]+)", json.dumps(documents()))
    assert set(wanted) <= names
    assert BASE["labels"] == [{"pairs": {"app.kubernetes.io/part-of": "dropflow"}, "includeTemplates": True}]
