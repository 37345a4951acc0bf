"""The Helm chart: Kubernetes takes what it renders, and the configuration in it is sound."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import __version__
from gateway.config import parse_config, warnings_of
from tests.support.places import ROOT

CHART = ROOT / "packaging" / "helm" / "mqtt-edge-gateway"
TOOLS = ROOT / "build" / "chart-tools"
GIVEN = {"GATEWAY_ID": "edge", "SERVICE_NAME": "edge"}

EVERYTHING = """
gatewayId: hall-3
imagePullSecrets: [{name: registry}]
secrets: {gateway-password: "p", http-token: "t"}
persistence: {storageClass: local-path, size: 20Gi}
networkPolicy: {enabled: true, from: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}
podAnnotations: {owner: "hall 3"}
nodeSelector: {kubernetes.io/arch: arm64}
tolerations: [{key: edge, operator: Exists, effect: NoSchedule}]
affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution:
  [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: other}}}]}}
"""
OF_ONES_OWN = "{existingSecret: mine, networkPolicy: {enabled: true}}"


@pytest.fixture(scope="module")
def helm() -> str:
    program = TOOLS / "helm"
    found = str(program) if program.exists() else shutil.which("helm")
    if found is None:
        pytest.skip("there is no Helm; `make chart-tools` installs it")
    return found


def render(helm: str, folder: Path, values: str) -> list[dict[str, Any]]:
    """The documents for a release `edge` with these values. Fails as Helm does."""
    file = folder / "values.yaml"
    file.write_text(values)
    done = subprocess.run(
        [helm, "template", "edge", str(CHART), "--values", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in documents if each["kind"] == kind]


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_its_configuration_is_sound(tmp_path: Path) -> None:
    config = yaml.safe_load((CHART / "values.yaml").read_text())["config"]
    (tmp_path / "http-token").write_text("a-token-of-some-length")
    text = yaml.safe_dump(config).replace("/run/secrets", str(tmp_path))
    assert warnings_of(parse_config(text, tmp_path, environ=GIVEN)) == ()


def test_helm_finds_nothing_to_say(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_kubernetes_takes_what_it_renders(helm: str, tmp_path: Path) -> None:
    validate = TOOLS / "bin" / "kubernetes-validate"
    if not validate.exists():
        pytest.skip("there are no schemas of Kubernetes; `make chart-tools` installs them")
    documents = [each for values in ("", EVERYTHING, OF_ONES_OWN) for each in render(helm, tmp_path, values)]
    assert len(documents) == 4 + 5 + 4
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(yaml.safe_dump_all(documents))
    for version in ("1.25", "1.37"):
        done = subprocess.run(
            [str(validate), "--strict", "-k", version, str(rendered)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_pod_has_no_rights_and_its_files_are_where_the_image_looks(helm: str, tmp_path: Path) -> None:
    documents = render(helm, tmp_path, EVERYTHING)
    (pod,) = (each["spec"]["template"]["spec"] for each in of_kind(documents, "StatefulSet"))
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsUser"] == 10001  # as in docker/Dockerfile
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert places.pop("tmp")
    assert places == {"data": "/data", "config": "/etc/gateway", "secrets": "/run/secrets"}
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "512Mi"}


def test_a_secret_of_ones_own_takes_the_place_of_the_charts(helm: str, tmp_path: Path) -> None:
    documents = render(helm, tmp_path, OF_ONES_OWN)
    assert of_kind(documents, "Secret") == []
    (pod,) = (each["spec"]["template"]["spec"] for each in of_kind(documents, "StatefulSet"))
    assert {"secretName": "mine", "defaultMode": 0o440} in [each.get("secret") for each in pod["volumes"]]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("{replicas: 2}", "replicas is not allowed"),
        ("{persistence: {size: big}}", "persistence.size"),
        ("{config: {gateway: {data_dir: /elsewhere}}}", "config.gateway.data_dir"),
        ("{config: {http: {listen: '127.0.0.1:8080'}}}", "config.http.listen"),
    ],
)
def test_a_value_that_would_not_work_is_refused(helm: str, tmp_path: Path, values: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        render(helm, tmp_path, values)
