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


def resource(
    api: str, kind: str, spec: dict[str, Any], annotations: dict[str, Any] | None = None
) -> dict[str, Any]:
    allowed = {"annotations": closed({}, annotations)} if annotations else {}
    metadata = closed({"name": TEXT}, allowed)
    return closed({"apiVersion": {"const": api}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


FORMAT = closed({"name": TEXT}, {"version": TEXT, "autoSelect": {"type": "boolean"}, "priority": COUNT})
AMOUNT = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?([KMGT]i?|m)?$"}
EXTERNAL = closed({
    "metric": closed({"backend": {"const": "prometheus"}, "serverAddress": TEXT, "query": TEXT}),
    "target": closed({"type": {"const": "Value"}, "value": AMOUNT}),
})  # fmt: skip
# What Knative and KServe read there; Knative takes times of whole seconds up to an hour.
ANNOTATIONS = {
    "autoscaling.knative.dev/window": {"type": "string", "pattern": "^[0-9]+[sm]$"},
    "autoscaling.knative.dev/scale-to-zero-pod-retention-period": {"type": "string", "pattern": "^[0-9]+[sm]$"},
    "autoscaling.knative.dev/target-burst-capacity": {"type": "string", "pattern": "^(-1|[0-9]+)$"},
    "serving.kserve.io/deploymentMode": {"enum": ["Serverless", "RawDeployment"]},
    "serving.kserve.io/autoscalerClass": {"enum": ["hpa", "keda", "external", "none"]},
    "serving.kserve.io/enable-prometheus-scraping": {"enum": ["true", "false"]},
}
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
             "resources": {"type": "object"}, "args": {"type": "array", "items": TEXT}},
        )},
        {"minReplicas": COUNT, "maxReplicas": COUNT, "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
         "scaleTarget": COUNT, "containerConcurrency": COUNT, "timeout": COUNT,
         "autoScaling": closed({"metrics": {"type": "array", "minItems": 1, "items": closed(
             {"type": {"const": "External"}, "external": EXTERNAL})}})},
    )}), ANNOTATIONS),
    "TrainedModel": resource("serving.kserve.io/v1alpha1", "TrainedModel", closed(
        {"inferenceService": TEXT, "model": closed({"framework": TEXT, "storageUri": TEXT, "memory": AMOUNT})},
    )),
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


def named(kind: str, file: str = "") -> dict[str, Any]:
    """The only one of a kind, or the first of a file."""
    found = [document for name, document in documents() if document["kind"] == kind and name.endswith(file)]
    assert file or len(found) == 1
    return found[0]


def services() -> list[dict[str, Any]]:
    """All InferenceServices."""
    return [document for _, document in documents() if document["kind"] == "InferenceService"]


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
    for service in services():
        model = service["spec"]["predictor"]["model"]
        assert runtime["metadata"]["name"] == model["runtime"]
        # KServe adds the service's arguments to those of the runtime.
        assert options({"args": [*container["args"], *model.get("args", [])]}).model_repository == ("/mnt/models",)
        formats = {one["name"]: one["version"] for one in runtime["spec"]["supportedModelFormats"]}
        assert formats[model["modelFormat"]["name"]] == model["modelFormat"]["version"]
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(settings.metrics_port)


def test_a_service_of_many_models_leaves_them_to_the_agent() -> None:
    file = "multi-model.yaml"
    model = named("InferenceService", file)["spec"]["predictor"]["model"]
    assert "storageUri" not in model, "KServe adds its agent only without one"
    (container,) = named("ClusterServingRuntime")["spec"]["containers"]
    assert options({"args": [*container["args"], *model["args"]]}).model_control_mode == "explicit"
    trained = [document for name, document in documents() if name.endswith(file) and document["kind"] == "TrainedModel"]
    assert len({document["metadata"]["name"] for document in trained}) == len(trained) > 1
    service = named("InferenceService", file)["metadata"]["name"]
    assert {document["spec"]["inferenceService"] for document in trained} == {service}
    # KServe admits no more models than fit.
    limit = int(model["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert sum(int(document["spec"]["model"]["memory"].removesuffix("Gi")) for document in trained) <= limit


def test_a_service_that_scales_to_zero_fits_knative() -> None:
    service = named("InferenceService", "scale-to-zero.yaml")
    predictor, annotations = service["spec"]["predictor"], service["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "Serverless", "only Knative wakes what is asleep"
    assert predictor["minReplicas"] == 0
    assert predictor["scaleMetric"] in {"concurrency", "rps"}, "the others do not scale to zero"
    for name in ("window", "scale-to-zero-pod-retention-period"):
        text = annotations[f"autoscaling.knative.dev/{name}"]
        assert 6 <= int(text[:-1]) * {"s": 1, "m": 60}[text[-1]] <= 3600


@pytest.mark.parametrize("mistake", ["scaleTarget", "annotation", "memory"])
def test_the_checker_finds_mistakes_in_services(mistake: str) -> None:
    document = named("InferenceService", "scale-to-zero.yaml")
    check(document)
    if mistake == "scaleTarget":
        document["spec"]["predictor"]["scaleTarget"] = "16"
    elif mistake == "annotation":
        document["metadata"]["annotations"]["autoscaling.knative.dev/windows"] = "60s"
    else:
        document = named("TrainedModel", "multi-model.yaml")
        document["spec"]["model"]["memory"] = "1 GB"
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_queue_scaling_asks_for_a_metric_that_there_is() -> None:
    service = named("InferenceService", "queue-scaling.yaml")
    waiting, busy = (one["external"] for one in service["spec"]["predictor"]["autoScaling"]["metrics"])
    assert waiting["metric"]["query"].startswith("sum(nv_inference_pending_request_count{")
    selector = re.compile(r"\{[^}]*\}")
    for metric in (waiting, busy):
        selected = selector.findall(metric["metric"]["query"])
        assert all(f"{service['metadata']['name']}-predictor-" in text for text in selected)
    # One beginning for all ways to scale.
    triggers = [trigger["metadata"] for trigger in named("ScaledObject")["spec"]["triggers"][:2]]
    assert [trigger["threshold"] for trigger in triggers] == [one["target"]["value"] for one in (waiting, busy)]
    assert selector.sub("", busy["metric"]["query"]) == triggers[1]["query"]


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
