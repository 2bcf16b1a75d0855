"""Every overlay is valid, gives nobody more than needed, and holds what pipelines refer to."""

import re

import pytest

from components import cluster

KUBERNETES = "1.32.0"
# Made by hand with kubectl, as the README says; their values are nowhere in the repository.
SECRETS = {*cluster.SECRETS, "bartizan-postgres"}
PINNED = re.compile(r"[^@]+@sha256:[0-9a-f]{64}|[^@]+:\d+[\w.-]*")


def test_built_in_kinds_are_valid(manifests):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in manifests:
        if document["kind"] != "TrainingRuntime":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_training_runtime_holds_no_unknown_field(manifests):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    (runtime,) = manifests.of("TrainingRuntime")
    assert models.TrainerV1alpha1TrainingRuntime.from_dict(runtime).to_dict() == runtime


def test_the_training_runtime_is_one_that_trainer_accepts(manifests):
    runtime = manifests.one("TrainingRuntime", cluster.TRAINING_RUNTIME)
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    labels = job["template"]["metadata"]["labels"]
    assert labels["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert (job["name"], container["name"]) == ("node", "node")


def test_what_pipelines_refer_to_exists(manifests):
    assert cluster.SERVICE_ACCOUNT in manifests.names("ServiceAccount")
    assert cluster.STATE_CLAIM in manifests.names("PersistentVolumeClaim")
    for name, keys in cluster.CONFIG_MAPS.items():
        data = manifests.one("ConfigMap", name)["data"]
        assert "MLFLOW_TRACKING_URI" in data and set(data) <= set(keys)
    (node,) = [pod for pod in manifests.pods() if pod.kind == "TrainingRuntime"]
    assert node.spec["priorityClassName"] == cluster.TRAINING_PRIORITY
    mounts = {mount["name"]: mount["mountPath"] for mount in node.containers[0]["volumeMounts"]}
    assert mounts["state"] == cluster.STATE_FOLDER and "/dev/shm" in mounts.values()


def test_all_are_in_one_namespace(manifests):
    everywhere = ("Namespace", "PriorityClass")
    names = {d["metadata"].get("namespace") for d in manifests if d["kind"] not in everywhere}
    assert len(names) == 1 and None not in names
    assert not any("namespace" in d["metadata"] for d in manifests.of(*everywhere))
    assert manifests.names("Namespace") in (set(), names)


def test_pods_can_do_no_harm(manifests):
    for pod in manifests.pods():
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] >= 999, pod.owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        assert not any(pod.spec.get(f"host{what}") for what in ("Network", "PID", "IPC"))
        assert not any("hostPath" in volume for volume in pod.spec["volumes"])
        for container in pod.containers:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_pods_say_what_they_need(manifests):
    for pod in manifests.pods():
        for container in pod.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), pod.owner
            assert "memory" in resources["limits"]
            assert PINNED.fullmatch(container["image"]), container["image"]
            if pod.kind in ("Deployment", "StatefulSet"):
                assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_what_pods_refer_to_exists(manifests):
    accounts, claims = manifests.names("ServiceAccount"), manifests.names("PersistentVolumeClaim")
    for pod in manifests.pods():
        assert pod.spec["serviceAccountName"] in accounts
        assert pod.spec.get("priorityClassName", "") in {"", *manifests.names("PriorityClass")}
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]
        templates = manifests.one(pod.kind, pod.owner)["spec"].get("volumeClaimTemplates", [])
        known = {*volumes, *(template["metadata"]["name"] for template in templates)}
        for container in pod.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= known
            check_environment(container, manifests)


def check_environment(container, manifests):
    sources = [source for entry in container.get("envFrom", ()) for source in entry.items()]
    values = [entry["valueFrom"] for entry in container.get("env", ()) if "valueFrom" in entry]
    sources += [source for value in values for source in value.items()]
    for kind, source in sources:
        if kind.startswith("configMap"):
            assert source["name"] in manifests.names("ConfigMap")
        else:
            assert kind in ("secretRef", "secretKeyRef") and source["name"] in SECRETS


def test_no_secret_is_written_down(manifests):
    assert not manifests.of("Secret")
    secret = re.compile("PASSWORD|SECRET|TOKEN|ACCESS_KEY")
    for pod in manifests.pods():
        for container in pod.containers:
            for entry in container.get("env", ()):
                assert "value" not in entry or not secret.search(entry["name"])
    for data in (document["data"] for document in manifests.of("ConfigMap")):
        assert not any(secret.search(name) for name in data)
        assert not any(re.search("//[^/@]*:[^/@]*@", value) for value in data.values())


def test_selectors_find_their_pods(manifests):
    pods = list(manifests.pods())
    for document in manifests.of("Deployment", "StatefulSet", "PodDisruptionBudget", "Service"):
        selector = document["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        found = [pod for pod in pods if wanted.items() <= pod.labels.items()]
        assert len(found) == 1, document["metadata"]["name"]
        if document["kind"] == "Service":
            ports = {port["name"] for c in found[0].containers for port in c["ports"]}
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports


def test_only_steps_may_ask_kubernetes_and_only_for_what_they_need(manifests):
    (role,), (binding,) = manifests.of("Role"), manifests.of("RoleBinding")
    assert not manifests.of("ClusterRole", "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [cluster.SERVICE_ACCOUNT]
    granted = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    words = {word for rule in role["rules"] for word in (*rule["apiGroups"], *rule["resources"])}
    assert not any("*" in word for word in words | {verb for _, verb in granted})
    needed = {("trainjobs", v) for v in ("create", "get", "list", "watch", "delete")}
    needed |= {(r, v) for r in ("pods", "pods/log") for v in ("get", "list", "watch")}
    assert needed <= granted
    assert {verb for resource, verb in granted if resource == "secrets"} == {"get"}
    assert all("resourceNames" in rule for rule in role["rules"] if "secrets" in rule["resources"])
