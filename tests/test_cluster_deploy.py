"""What is in deploy/cluster can be used as it is: its commands exist and fit together."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_readme import ROOT

from batchupload.settings import ClusterSettings

pytest.importorskip("distributed", reason="the extra is not installed: pip install 'batchupload[cluster]'")

from distributed.cli import dask_scheduler, dask_worker

CLUSTER = ROOT / "deploy/cluster"
COMMANDS = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}


def in_units() -> dict[str, list[str]]:
    found = {}
    for name in COMMANDS:
        text = (CLUSTER / f"batchupload-{name}.service").read_text().replace("\\\n", " ")
        (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        (address,) = re.findall(r"^Environment=SCHEDULER=(.*)$", text, re.MULTILINE) or [""]
        found[name] = shlex.split(line.replace("${SCHEDULER}", address))[1:]
    return found


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))


def containers() -> dict[str, dict[str, Any]]:
    deployments = [document for document in documents() if document["kind"] == "Deployment"]
    return {each["name"]: each for found in deployments for each in found["spec"]["template"]["spec"]["containers"]}


def in_pods() -> dict[str, list[str]]:
    return {name: [*each["command"][1:], *each["args"]] for name, each in containers().items()}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("commands", [in_units, in_pods])
def test_the_commands_of_the_parts_exist_and_fit_together(name: str, commands: Any) -> None:
    kind, *words = commands()[name]
    assert kind == name
    options = (
        COMMANDS[name]
        .make_context(name, [word for word in words if not word.startswith("--tls-")], resilient_parsing=True)
        .params
    )
    assert options["dashboard"] is False
    tls = {word.partition("=")[0] for word in words if word.startswith("--tls-")}
    assert tls == {"--tls-ca-file", "--tls-cert", "--tls-key"}
    address = next(word for word in commands()["worker"] if word.startswith("tls://"))
    assert options["protocol"] == "tls"
    assert address.endswith(":8786")
    ClusterSettings(address=address, ca=Path("a"), cert=Path("b"), key=Path("c"))


def test_pods_may_nothing_but_what_they_need_and_all_use_one_image() -> None:
    images = {each["image"] for each in containers().values()}
    cron = (ROOT / "deploy/kubernetes/cronjob.yaml").read_text()
    assert images == set(re.findall(r"image: (\S+)", cron))
    for each in containers().values():
        assert each["securityContext"]["readOnlyRootFilesystem"]
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (service,) = [document for document in documents() if document["kind"] == "Service"]
    assert service["metadata"]["name"] in " ".join(in_pods()["worker"])
    (policy,) = [document for document in documents() if document["kind"] == "NetworkPolicy"]
    assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == {8786, 8788}
