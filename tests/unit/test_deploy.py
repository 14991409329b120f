"""deploy/: what it holds fits the schemas of Kubernetes, KServe and KEDA, our options, and itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from triton_async.config.settings import Settings, parse

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.34"

pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="only the package is here")

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Schema of an object with these fields and no others."""
    return {
        "type": "object", "properties": required | (optional or {}), "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


def resource(api: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"type": "object", "required": ["name"]}
    return closed({"apiVersion": {"const": api}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


FORMAT = closed({"name": TEXT}, {"version": TEXT, "autoSelect": {"type": "boolean"}, "priority": COUNT})
# The parts of the resource definitions of KServe 0.15 and KEDA 2.17 that are used here. Containers are pods' own.
CUSTOM = {
    "ClusterServingRuntime": resource("serving.kserve.io/v1alpha1", "ClusterServingRuntime", closed(
        {"containers": {"type": "array", "minItems": 1}},
        {
            "annotations": {"type": "object", "additionalProperties": TEXT},
            "supportedModelFormats": {"type": "array", "items": FORMAT, "minItems": 1},
            "protocolVersions": {"type": "array", "items": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}},
        },
    )),
    "InferenceService": resource("serving.kserve.io/v1beta1", "InferenceService", closed({"predictor": closed(
        {"model": closed(
            {"modelFormat": closed({"name": TEXT}, {"version": TEXT})},
            {"runtime": TEXT, "protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}, "storageUri": TEXT,
             "resources": {"type": "object"}},
        )},
        {"minReplicas": COUNT, "maxReplicas": COUNT},
    )})),
    "ScaledObject": resource("keda.sh/v1alpha1", "ScaledObject", closed(
        {
            "scaleTargetRef": closed({"name": TEXT}, {"kind": TEXT, "apiVersion": TEXT}),
            "triggers": {"type": "array", "minItems": 1, "items": closed({
                "type": {"const": "prometheus"},
                "metadata": closed({"serverAddress": TEXT, "query": TEXT, "threshold": {"type": "string"}}),
            })},
        },
        {"minReplicaCount": COUNT, "maxReplicaCount": COUNT, "cooldownPeriod": COUNT, "pollingInterval": COUNT},
    )),
}  # fmt: skip
OF_KUSTOMIZE = closed(
    {"apiVersion": TEXT, "kind": {"enum": ["Kustomization", "Component"]}, "resources": {"type": "array"}}
)


def documents() -> list[tuple[str, dict[str, Any]]]:
    """File and content of every resource, kustomize's own included."""
    files = sorted([*(DEPLOY / "kubernetes").rglob("*.yaml"), *(DEPLOY / "kserve").rglob("*.yaml")])
    return [
        (str(path.relative_to(DEPLOY)), document)
        for path in files for document in yaml.safe_load_all(path.read_text()) if "kind" in document
    ]  # fmt: skip


def named(kind: str) -> dict[str, Any]:
    (found,) = (document for _, document in documents() if document["kind"] == kind)
    return found


def check(document: dict[str, Any]) -> None:
    """Fails where it is no valid resource."""
    if "kustomize" in document["apiVersion"]:
        jsonschema.validate(document, OF_KUSTOMIZE)
    elif document["kind"] in CUSTOM:
        jsonschema.validate(document, CUSTOM[document["kind"]])
        containers = document["spec"].get("containers")
        if containers is not None:
            spec = {"containers": containers}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": spec}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def options(container: dict[str, Any]) -> Settings:
    """What the server makes of a container's arguments."""
    program, *arguments = container["args"]
    assert program == "tritonserver"
    settings = parse(arguments)
    assert not settings.warnings
    return settings


@pytest.mark.parametrize(("file", "document"), documents() if DEPLOY.is_dir() else [])
def test_every_resource_fits_its_schema(file: str, document: dict[str, Any]) -> None:
    check(document)


@pytest.mark.parametrize("mistake", ["replicaz", "kind"])
def test_the_checker_finds_mistakes(mistake: str) -> None:
    document = named("Deployment")
    document["spec"][mistake] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        check(document)


def test_the_deployment_fits_its_options() -> None:
    pod = named("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = options(container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.http_port, "grpc": settings.grpc_port, "metrics": settings.metrics_port}
    assert pod["terminationGracePeriodSeconds"] > settings.exit_timeout_secs > 2 * settings.exit_grace_secs
    readiness = container["readinessProbe"]
    noticed = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert noticed < settings.exit_grace_secs, "it closes before it is known not to be ready"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.model_repository == (mounts["models"],)
    annotations = named("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == settings.metrics_port


def test_the_services_find_the_pods_and_the_scalers_the_deployment() -> None:
    deployment = named("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    services = [document for _, document in documents() if document["kind"] == "Service"]
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        assert named(kind)["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_the_runtime_of_kserve_fits_its_options() -> None:
    runtime = named("ClusterServingRuntime")
    (container,) = runtime["spec"]["containers"]
    settings = options(container)
    assert (settings.http_port, settings.grpc_port) == (8080, 9000)
    assert settings.model_repository == ("/mnt/models",)
    assert runtime["metadata"]["name"] == named("InferenceService")["spec"]["predictor"]["model"]["runtime"]
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(settings.metrics_port)


@pytest.mark.parametrize("component", ["hpa", "keda"])
def test_kustomize_puts_it_together(component: str, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here")
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [kubernetes/base]\ncomponents: [kubernetes/{component}]\nnamePrefix: my-\n"
    )
    made = subprocess.run(["kubectl", "kustomize", tmp_path], check=True, capture_output=True, text=True).stdout
    found = {document["kind"]: document for document in yaml.safe_load_all(made)}
    for document in found.values():
        check(document)
    scaler = found["HorizontalPodAutoscaler" if component == "hpa" else "ScaledObject"]
    if component == "hpa":  # kustomize knows that this one names a Deployment
        assert scaler["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"] == "my-triton-async"


def test_the_image_runs_as_a_user_that_kubernetes_sees_not_to_be_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    # With `runAsNonRoot` a name is refused: only a number is known not to be root's.
    assert users == ["1000"]
    assert any("--uid 1000" in line for line in lines)
    assert 'ENTRYPOINT ["triton-async"]' in lines


def test_the_readme_names_every_file() -> None:
    text = (DEPLOY / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)#]+)\)", text))
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()} - {"README.md"}
    folders = {name for name in linked if (DEPLOY / name).is_dir()}
    assert all((DEPLOY / name).exists() for name in linked)
    assert all(name in linked or any(Path(folder) in Path(name).parents for folder in folders) for name in files)
