"""The examples of docs/deploy.md, as far as they can be checked without a cluster: against the schemas of Dagster, of
Kubernetes and of this project."""

import copy
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster import DagsterInstance
from dagster._config import process_config
from dagster._core.instance.ref import InstanceRef
from dagster_postgres.storage import DagsterPostgresStorage

from assets.definitions import defs
from assets.settings import Settings, parse_settings
from pipeline.download.supervisor import distributor

PROJECT = Path(__file__).resolve().parents[1]
DEPLOY = PROJECT / "deploy"
KUBERNETES = "1.31"

# Of the chart `dagster` 1.13, what its schema allows at the top and where this file sets something.
CHART: dict[str, set[str]] = {
    "": {"postgresql", "generatePostgresqlPasswordSecret", "dagster-user-deployments", "runLauncher", "dagsterDaemon"}
    | {"concurrency", "pythonLogs", "telemetry"},
    "postgresql": {"enabled", "postgresqlHost", "postgresqlUsername", "postgresqlDatabase"},
    "dagsterDaemon": {"runCoordinator", "runMonitoring"},
    "concurrency": {"enabled", "pools", "runs"},
    "concurrency.pools": {"defaultLimit", "granularity", "opGranularityRunBuffer"},
    "concurrency.runs": {"maxConcurrentRuns", "tagConcurrencyLimits"},
    "runLauncher.config.k8sRunLauncher.runK8sConfig": {"containerConfig", "podSpecConfig", "jobSpecConfig"},
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def at(values: dict[str, Any], path: str) -> dict[str, Any]:
    for key in filter(None, path.split(".")):
        values = values[key]
    return values


def assert_pod(spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_schemas_are_there_and_refuse() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        assert_pod({"containers": [{"name": "x", "image": "x", "volumeMount": []}]})


def test_the_run_config_is_the_profile_but_for_the_cluster() -> None:
    (profile,) = yaml.safe_load_all((DEPLOY.parent / "profiles/laion400m.yaml").read_text())
    expected = parse_settings(profile["resources"]["settings"]["config"])
    own = {"root", "storage", "source", "evaluation", "compute", "images", "embeddings", "neighbors"}
    for name in Settings.model_fields.keys() - own:
        assert getattr(settings(), name) == getattr(expected, name), name


def test_the_run_config_fits() -> None:
    (profile,) = documents("run.yaml")
    config = parse_settings(profile["resources"]["settings"]["config"])
    assert config.root.startswith("s3://")
    assert distributor(config.images, config.compute) == "ray"
    assert defs.resolve_job_def("clip_cid").run_config_schema.config_type is not None


def test_the_instance_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "dagster.yaml").read_text())
    instance = InstanceRef.from_dir(str(tmp_path))
    storage = instance.storage_data
    assert (storage.module_name, storage.class_name) == ("dagster_postgres", "DagsterPostgresStorage")
    for name in re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()):
        monkeypatch.setenv(name, "x")
    result = process_config(DagsterPostgresStorage.config_type(), storage.config_dict)
    assert result.success, result.errors
    assert instance.settings["concurrency"]["pools"] == {"granularity": "run", "default_limit": 1}
    assert issubclass(instance.run_coordinator_data.rehydrate().__class__, object)


def test_pools_of_the_assets_are_the_one_that_is_limited() -> None:
    pools = {spec.op.pool for spec in defs.resolve_asset_graph().assets_defs if spec.is_executable}
    assert pools == {None, "gpu"}


def test_the_pools_hold_no_run_up_where_no_limit_is_set() -> None:
    # The instance of a checkout sets none, so that a run that was killed cannot keep a slot.
    values = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    assert "pools" not in values["concurrency"]
    with DagsterInstance.ephemeral() as instance:
        assert instance.event_log_storage.get_pool_limits() == []


@pytest.mark.parametrize("part", CHART)
def test_values_for_the_chart_have_its_names(part: str) -> None:
    (values,) = documents("helm-values.yaml")
    assert set(at(values, part)) <= CHART[part]


def test_pods_of_runs_and_of_the_code_server_fit() -> None:
    (values,) = documents("helm-values.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    launched = at(values, "runLauncher.config.k8sRunLauncher.runK8sConfig")
    container = {
        "name": "run",
        "image": f"{deployment['image']['repository']}:{deployment['image']['tag']}",
        "envFrom": [{"secretRef": secret} for secret in deployment["envSecrets"]],
        "volumeMounts": deployment["volumeMounts"],
        **launched["containerConfig"],
    }
    assert_pod({**launched["podSpecConfig"], "volumes": deployment["volumes"], "containers": [container]})
    assert deployment["codeServerArgs"] == ["-m", "assets.definitions"]


def test_the_ray_cluster_fits_the_run_and_the_lock() -> None:
    claim, cluster = documents("ray.yaml")
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    # Driver and nodes must have the same version, and both come from one image.
    assert cluster["spec"]["rayVersion"] == metadata.version("ray")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        assert_pod(group["template"]["spec"])
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert {mount["mountPath"] for mount in mounts} == {settings().storage.scratch}
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert settings().compute.address == f"{cluster['metadata']['name']}-head-svc:6379"


def test_run_and_ray_share_image_secret_and_scratch() -> None:
    claim, cluster = documents("ray.yaml")
    (values,) = documents("helm-values.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    container = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    assert container["envFrom"] == [{"secretRef": secret} for secret in deployment["envSecrets"]]
    assert container["volumeMounts"] == deployment["volumeMounts"]
    assert deployment["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_compose_mounts_what_the_instance_asks_for() -> None:
    (compose,) = documents("compose.yaml")
    asked = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()))
    for name in ("webserver", "daemon"):
        service = compose["services"][name]
        assert asked <= set(service["environment"])
        assert service["environment"]["DAGSTER_HOME"] == "/app/home"
        assert "./dagster.yaml:/app/home/dagster.yaml:ro" in service["volumes"]
    assert set(compose["volumes"]) == {"postgres", "scratch"}


def test_the_page_shows_no_file_that_is_not_there() -> None:
    page = (PROJECT / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"deploy/[\w.-]+\.yaml|deploy/Dockerfile", page))
    assert named == {f"deploy/{path.name}" for path in DEPLOY.iterdir() if path.suffix != ".dockerignore"}


def settings() -> Settings:
    (profile,) = documents("run.yaml")
    return parse_settings(copy.deepcopy(json.loads(json.dumps(profile["resources"]["settings"]["config"]))))
