"""The manifests of deploy/kubernetes: valid, shut in, and about commands and paths that there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.cli.app import build_app

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

FILES = ("ingest.yaml", "watch.yaml")


def documents(repository: Path) -> Iterator[dict[str, Any]]:
    for name in FILES:
        yield from yaml.safe_load_all((repository / "deploy" / "kubernetes" / name).read_text())


def pods(repository: Path) -> list[tuple[str, dict[str, Any]]]:
    return [
        (one["metadata"]["name"], one["spec"]["template"])
        for one in documents(repository)
        if one["kind"] in ("Deployment", "StatefulSet")
    ]


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_the_files_are_these(repository: Path) -> None:
    """A new manifest has to be looked at here, too."""
    assert sorted(FILES) == sorted(path.name for path in (repository / "deploy" / "kubernetes").iterdir())


def test_each_document_is_valid(repository: Path) -> None:
    """Against the schema of the newest Kubernetes that the checker knows, unknown members refused."""
    version = kubernetes_validate.latest_version()
    kinds = []
    for document in documents(repository):
        kubernetes_validate.validate(document, version, strict=True)
        kinds.append(document["kind"])
    assert {"StatefulSet", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= set(kinds)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**document, "spce": {}}, version, strict=True)


def test_every_container_is_shut_in(repository: Path) -> None:
    """Nobody's uid, nothing to gain, a root file system that cannot be written, limits."""
    for _, template in pods(repository):
        spec = template["spec"]
        context = spec["securityContext"]
        assert (True, 65534, 65534) == (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"])
        assert {"type": "RuntimeDefault"} == context["seccompProfile"]
        assert "OnRootMismatch" == context["fsGroupChangePolicy"]
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not any("hostPath" in volume for volume in spec.get("volumes", []))
        for one in containers(template):
            assert {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            } == one["securityContext"]  # fmt: skip
            assert one["resources"]["limits"]["memory"]
            assert one["resources"]["requests"]["cpu"]


def test_commands_and_their_ports_are_ours(repository: Path) -> None:
    """Arguments are parsed by this version's command line; probes ask where --metrics or --listen serves."""
    for _, template in pods(repository):
        for one in template["spec"]["containers"]:
            args = [word for word in one["args"] if not word.startswith("--state=")]
            command, bound, _ = build_app().parse_args(args, exit_on_error=False, print_error=False)
            assert one["args"][0] == command.__name__
            bindings = [bound.arguments[name] for name in ("metrics", "listen") if name in bound.arguments]
            served = {int(binding.rpartition(":")[2]) for binding in bindings}
            ports = {named["name"]: named["containerPort"] for named in one["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in one:
                    asked = one[probe]["httpGet"]
                    assert ports[asked["port"]] in served
                    assert ("HTTPS" if asked["port"] == "ingest" else None) == asked.get("scheme")
                    assert asked["path"] == ("/readyz" if probe == "readinessProbe" else "/healthz")
            assert "livenessProbe" in one
            assert template["spec"]["terminationGracePeriodSeconds"] >= 30


def test_what_is_read_only_is_mounted_so(repository: Path) -> None:
    """The container that watches cannot change the log, and sees no key but the public one."""
    [template] = [template for name, template in pods(repository) if name.endswith("ingest")]
    [watch] = [one for one in template["spec"]["containers"] if one["name"] == "watch"]
    writable = [mount["mountPath"] for mount in watch["volumeMounts"] if not mount.get("readOnly")]
    assert ["/var/lib/klingai-audit/watch"] == writable
    [key] = [mount for mount in watch["volumeMounts"] if "keys" in mount["subPath"]]
    assert ("keys/audit.keys/log.pub", True) == (key["subPath"], key["readOnly"])
    assert f"--key={key['mountPath']}" in watch["args"]


def test_selectors_choose_the_pods(repository: Path) -> None:
    """Services, budgets and network policies are about the pods of this folder; ports by name exist there."""
    labels = {name: template["metadata"]["labels"] for name, template in pods(repository)}
    ports = {
        name: {port["name"] for one in containers(template) for port in one.get("ports", [])}
        for name, template in pods(repository)
    }
    chosen: dict[str, set[str]] = {}
    for document in documents(repository):
        spec, name = document["spec"], document["metadata"]["name"]
        match document["kind"]:
            case "Service":
                assert spec["selector"] == labels[name]
                assert {port["targetPort"] for port in spec["ports"]} <= ports[name]
            case "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"] == labels[name]
            case "NetworkPolicy":
                assert spec["podSelector"]["matchLabels"] == labels[name]
                assert ["Ingress", "Egress"] == spec["policyTypes"]
                assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} <= ports[name]
            case _:
                continue
        chosen.setdefault(name, set()).add(document["kind"])
    assert {"Service", "PodDisruptionBudget", "NetworkPolicy"} == set.intersection(*chosen.values())
    assert set(labels) == set(chosen)


def test_paths_are_those_of_the_image(repository: Path) -> None:
    """What is mounted is where the image's environment looks."""
    dockerfile = (repository / "deploy" / "docker" / "Dockerfile").read_text()
    [template] = [template for name, template in pods(repository) if name.endswith("ingest")]
    for place in ("log", "keys", "state"):
        path = f"/var/lib/klingai-audit/{place}"
        assert f"{path}/audit" in dockerfile
        for one in template["spec"]["initContainers"]:
            assert path in [mount["mountPath"] for mount in one["volumeMounts"]]
