"""deploy/kubernetes: what kustomize makes of it, and a pod of it, run as a container of the image.

Kubernetes' own resources are compared with its schemas. For PodMonitor, whose schema belongs to the
Prometheus operator, the tests look at the fields that make it scrape.
"""

import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from support import networks, peers
from support.running import containers, daemons, httpclients

from tcpdconf import __version__
from tcpdconf.config.load import load

FOLDER = pathlib.Path(__file__).parents[2] / "deploy/kubernetes"
NODE = "10.1.2.3"  # an address of the cluster's networks, of which the shipped configuration knows

pytestmark = pytest.mark.peer


def rendered(folder: pathlib.Path) -> str:
    """Return the objects that `kubectl apply -k` would send."""
    peers.need("kubectl")
    command = ["kubectl", "kustomize", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def resources(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The resources by their kind."""
    return {found["kind"]: found for found in yaml.safe_load_all(rendered(folder))}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.25.0", "1.37.0"])
def test_kubernetes_schemas_accept_the_resources(version: str, tmp_path: pathlib.Path) -> None:
    peers.need("kubernetes-validate")
    (tmp_path / "all.yaml").write_text(rendered(FOLDER))
    command = ["kubernetes-validate", "--strict", "--kubernetes-version", version, str(tmp_path / "all.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("configmap", "service", "deployment"):
        assert f"passed for resource {kind}/tcpdconf" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_schemas_would_refuse_a_mistake(tmp_path: pathlib.Path) -> None:
    peers.need("kubernetes-validate")
    text = rendered(FOLDER).replace("readOnlyRootFilesystem:", "readOnlyRootFileSystem:")
    (tmp_path / "all.yaml").write_text(text)
    command = ["kubernetes-validate", "--strict", str(tmp_path / "all.yaml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_parts_name_each_other() -> None:
    found = resources(FOLDER)
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    labels = pod["metadata"]["labels"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}

    assert found["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert found["Service"]["spec"]["selector"].items() <= labels.items()
    assert [port["targetPort"] for port in found["Service"]["spec"]["ports"]] == ["hello"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["conf"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert container["image"] == f"registry.example/tcpdconf:{__version__}"

    (monitor,) = resources(FOLDER / "monitoring").values()
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert [(end["port"], end["path"]) for end in monitor["spec"]["podMetricsEndpoints"]] == [
        ("metrics", "/metrics")
    ]


def test_the_configuration_suits_the_pod() -> None:
    found = resources(FOLDER)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    loaded = load.load(FOLDER / "conf.d")
    daemon = loaded.config.daemon

    assert found["ConfigMap"]["data"].keys() == {path.name for path in (FOLDER / "conf.d").iterdir()}
    assert [each.port for each in loaded.config.services["hello"].listeners] == [ports["hello"]]
    assert daemon.http is not None
    assert str(daemon.http.listen).endswith(f":{ports['metrics']}")
    *_, drain = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > float(drain) + daemon.stop_timeout


def volume(folder: pathlib.Path) -> pathlib.Path:
    """An emptyDir as the kubelet makes it with fsGroup."""
    folder.mkdir()
    os.chown(folder, 0, containers.USER)
    folder.chmod(0o2777)
    return folder


def config_map(folder: pathlib.Path, name: str, data: dict[str, str]) -> None:
    """Write a ConfigMap's files, or other ones, as the kubelet does: all of them in one step."""
    (folder / name).mkdir(parents=True)
    for key, text in data.items():
        (folder / name / key).write_text(text)
        link = folder / key
        if not link.is_symlink():
            link.symlink_to(f"..data/{key}")
    (folder / "..new").symlink_to(name)
    (folder / "..new").rename(folder / "..data")


@pytest.mark.network
@pytest.mark.timeout(1200)
def test_a_pod_of_the_image_serves_reloads_and_ends(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = resources(FOLDER)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (spec,) = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == containers.USER
    assert not {"command", "args", "env"} & spec.keys()  # those of the image
    data = found["ConfigMap"]["data"]
    config_map(tmp_path / "conf", "..one", data)
    folders = {
        name: volume(tmp_path / name) if "emptyDir" in each else tmp_path / "conf"
        for each in pod["volumes"]
        for name in [each["name"]]
    }
    mounts = {mount["mountPath"]: folders[mount["name"]] for mount in spec["volumeMounts"]}
    port, metrics = (each["containerPort"] for each in spec["ports"])
    with containers.Container(bundle, "unshare", tmp_path, mounts=mounts) as container:
        networks.ip(f"address add {NODE}/32 dev lo")

        def hello() -> str:
            header = b"PROXY TCP4 192.0.2.7 198.51.100.9 5555 25\r\n"
            return daemons.talk(port, NODE, NODE, header).decode()

        def answer(path: str) -> tuple[int, str]:
            with daemons.connect(metrics, NODE, NODE) as end:
                end.sendall(f"GET {path} HTTP/1.0\r\nHost: {NODE}:{metrics}\r\n\r\n".encode())
                head, _, text = daemons.read(end).decode().partition("\r\n\r\n")
                return int(head.split()[1]), text

        assert hello() == "Hello ::ffff:192.0.2.7\n"
        assert daemons.talk(port) == b""  # not trusted
        daemons.until(lambda: answer(spec["startupProbe"]["httpGet"]["path"])[0] == 200, "readiness")
        for probe in ("readinessProbe", "livenessProbe"):
            assert answer(spec[probe]["httpGet"]["path"])[0] == 200
        daemons.until(
            lambda: 'tcpdconf_accepted_total{service="hello"} 1' in answer("/metrics")[1],
            "the count of clients",
        )
        with pytest.raises(ConnectionError):
            httpclients.get(metrics, "/metrics")

        config_map(
            tmp_path / "conf", "..two", {key: text.replace("Hello", "Bye") for key, text in data.items()}
        )
        daemons.until(lambda: "reloaded" in container.log, "the reload")
        shutil.rmtree(tmp_path / "conf/..one")
        assert hello() == "Bye ::ffff:192.0.2.7\n"

        assert all("event" in json.loads(line) for line in container.log.splitlines())
        container.run(*spec["lifecycle"]["preStop"]["exec"]["command"])
        assert container.process.wait(daemons.SECONDS) == 0


def test_the_how_to_names_the_commands() -> None:
    page = (FOLDER.parents[1] / "docs/how-to/kubernetes.md").read_text()
    for folder in (FOLDER, FOLDER / "monitoring"):
        command = f"kubectl apply -k {folder.relative_to(FOLDER.parents[1])}"
        assert command in page
        assert command in (folder / "kustomization.yaml").read_text()
