"""The files that describe clusters fit their schemas, and one another."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from sweeps.cli import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "cluster.md"
KUBERNETES = "1.34"

TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD = {"type": "object", "required": ["spec"]}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """The schema of a mapping that has these keys and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


# The fields of KubeRay 1.6's `ray.io/v1` that a cluster of ours may have. Kubernetes rejects what it does not
# know there; pods have a schema of their own.
GROUP = {"rayStartParams": TEXTS, "template": POD}
CLUSTER = closed(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    headGroupSpec=closed(
        ("rayStartParams", "template"),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        **GROUP,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            groupName=TEXT,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            **GROUP,
        ),
    },
)
JOB = closed(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=WHOLE,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=WHOLE,
    rayClusterSpec=CLUSTER,
)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())


def cluster(name: str) -> dict[str, Any]:
    """The specification of a Ray cluster in a manifest."""
    spec = read(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> Iterator[dict[str, Any]]:
    """The specifications of a manifest's pods, the head's first."""
    spec = cluster(name)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


def image() -> str:
    """What every node runs: this project's version, and that of Ray."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return f"face-distillation-sweeps:{version}-ray{ray_version()}"


def ray_version() -> str:
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def is_understood(command: str) -> bool:
    """Whether `sweeps` takes a command line as it stands; raises what it has against it."""
    sweeps, verb, *words = shlex.split(command, comments=True)
    main.commands[verb].make_context(verb, words)
    return sweeps == "sweeps"


def commands_of_the_page() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("sweeps ")]


MANIFESTS = ("kuberay/cluster.yaml", "kuberay/job.yaml")


@pytest.mark.parametrize(
    ("name", "kind", "spec"), [(MANIFESTS[0], "RayCluster", CLUSTER), (MANIFESTS[1], "RayJob", JOB)]
)
def test_a_manifest_has_the_fields_that_kuberay_knows(name: str, kind: str, spec: dict[str, Any]) -> None:
    manifest = read(name)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    jsonschema.validate(manifest["spec"], spec)


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_what_kubernetes_runs(name: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for spec in pods(name):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    kubernetes_validate.validate(read("kuberay/home.yaml"), KUBERNETES, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_pod_runs_the_image_and_sees_the_home(name: str) -> None:
    claim = read("kuberay/home.yaml")["metadata"]["name"]
    assert cluster(name)["rayVersion"] == ray_version()
    for spec in pods(name):
        (container,) = spec["containers"]
        assert container["image"] == image()
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/shared"]]["persistentVolumeClaim"]["claimName"] == claim
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["SWEEPS_HOME"].startswith("/shared/")
        assert environment["MLFLOW_TRACKING_URI"].startswith("http")
        assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()


@pytest.mark.parametrize("name", MANIFESTS)
def test_secrets_are_named_and_the_page_makes_them(name: str) -> None:
    named = {cluster(name)["authOptions"]["secretName"]}
    named |= {
        source["secretRef"]["name"]
        for spec in pods(name)
        for c in spec["containers"]
        for source in c["envFrom"]
    }
    made = set(re.findall(r"kubectl create secret generic (\S+)", PAGE.read_text()))
    assert named == made


def test_a_job_is_a_sweep_that_may_take_its_time_to_stop() -> None:
    spec = read("kuberay/job.yaml")["spec"]
    assert is_understood(spec["entrypoint"])
    assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert spec["backoffLimit"] == 0
    assert spec["rayClusterSpec"] == cluster("kuberay/cluster.yaml")


def test_the_launchers_file_is_what_ray_takes() -> None:
    settings = read("ray-cluster.yaml")
    schema = Path(ray.__path__[0]) / "autoscaler" / "ray-schema.json"
    jsonschema.validate(settings, json.loads(schema.read_text()))
    assert settings["docker"]["image"] == image()
    assert settings["max_workers"] == len(settings["provider"]["worker_ips"])


def test_the_trackers_file_is_what_compose_takes() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    compose_spec.PyCompose.from_yaml((DEPLOY / "tracking" / "compose.yaml").read_text())


def test_the_tracker_keeps_no_password_and_answers_to_its_name() -> None:
    compose = read("tracking/compose.yaml")
    database, mlflow = compose["services"]["database"], compose["services"]["mlflow"]
    assert mlflow["image"] == image()
    assert "${POSTGRES_PASSWORD:?" in database["environment"]["POSTGRES_PASSWORD"]
    assert "${POSTGRES_PASSWORD}@database:5432/mlflow" in mlflow["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert database["environment"]["POSTGRES_DB"] == "mlflow"
    allowed = next(word for word in mlflow["command"] if word.startswith("--allowed-hosts="))
    assert "${TRACKER_HOST:?" in allowed
    assert allowed.endswith(":*,localhost:*")
    assert set(compose["volumes"]) == {"database", "artifacts"}
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / "tracking" / source).is_file()


def test_mlflow_takes_the_trackers_command() -> None:
    from mlflow.cli import server

    command = read("tracking/compose.yaml")["services"]["mlflow"]["command"]
    assert command[:2] == ["mlflow", "server"]
    context = server.make_context("server", list(command[2:]))
    assert context.params["artifacts_destination"] == "/artifacts"


def test_the_image_is_built_from_what_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    sources = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    kept = {
        line.removeprefix("!")
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if "!" in line
    }
    assert sources == kept
    assert all((ROOT / source).exists() for source in sources)
    assert f"-t {image()} " in "\n".join(lines)
    assert f"-t {image()} " in PAGE.read_text()


@pytest.mark.parametrize("command", commands_of_the_page())
def test_a_command_of_the_page_is_understood(command: str) -> None:
    assert is_understood(command)


def test_the_page_shows_every_command_of_a_sweep_on_a_cluster() -> None:
    shown = {shlex.split(command)[1] for command in commands_of_the_page()}
    assert shown >= {"doctor", "validate", "submit", "status", "logs", "stop", "promote"}


def test_what_the_page_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
