"""Who may talk to whom, by the rules of Kubernetes for policies, worked out pod by pod."""

import pytest

STEP = {"pipelines.kubeflow.org/v2_component": "true"}
STRANGER = {"app": "stranger"}
DNS = {"k8s-app": "kube-dns"}


def selects(selector, labels):
    for wanted in selector.get("matchExpressions", ()):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def may(manifests, direction, labels, peer, port):
    """Whether a pod may exchange packets with a peer, seen from one end."""
    own = [
        policy["spec"]
        for policy in manifests.of("NetworkPolicy")
        if direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], labels)
    ]
    side = "from" if direction == "Ingress" else "to"
    rules = [rule for policy in own for rule in policy.get(direction.lower(), ())]
    return not own or any(
        any("podSelector" in end and selects(end["podSelector"], peer) for end in rule[side])
        and ("ports" not in rule or port in [entry["port"] for entry in rule["ports"]])
        for rule in rules
    )


def talks(manifests, source, target, port):
    return may(manifests, "Egress", source, target, port) and may(
        manifests, "Ingress", target, source, port
    )


@pytest.fixture
def labels(manifests):
    return {pod.owner: pod.labels for pod in manifests.pods()}


def test_the_tracking_server_is_heard_by_those_who_track(manifests, labels):
    server = labels["bartizan-mlflow"]
    for source in (STEP, labels["bartizan-torch"], labels["bartizan-doctor"]):
        assert talks(manifests, source, server, "http")
    assert not talks(manifests, STRANGER, server, "http")
    assert not talks(manifests, STEP, server, 22)


def test_only_the_tracking_server_reaches_the_database(manifests, labels):
    if (database := labels.get("bartizan-postgres")) is None:
        pytest.skip("this overlay's database is outside of the cluster")
    assert talks(manifests, labels["bartizan-mlflow"], database, "postgres")
    for source in (STEP, STRANGER, labels["bartizan-torch"], labels["bartizan-doctor"]):
        assert not talks(manifests, source, database, "postgres")
    assert not talks(manifests, database, STRANGER, 80)


def test_processes_of_a_training_talk_on_any_port(manifests, labels):
    node = labels["bartizan-torch"]
    assert talks(manifests, node, node, 29500) and talks(manifests, node, node, 41234)
    assert not talks(manifests, STEP, node, 29500)


def test_nobody_calls_a_step(manifests, labels):
    for source in (*labels.values(), STRANGER):
        assert not talks(manifests, source, STEP, 80)


def test_every_pod_of_ours_may_look_up_names_and_little_else(manifests, labels):
    for name in labels:
        assert talks(manifests, labels[name], DNS, 53)
        assert not talks(manifests, labels[name], STRANGER, 80)
        assert not talks(manifests, STRANGER, labels[name], 80)


def test_the_bucket_is_open_to_who_needs_it(manifests, labels):
    (policy,) = [
        d["spec"]
        for d in manifests.of("NetworkPolicy")
        if d["metadata"]["name"] == "bartizan-bucket"
    ]
    for name in labels:
        expected = name in ("bartizan-mlflow", "bartizan-torch", "bartizan-doctor")
        assert selects(policy["podSelector"], labels[name]) == expected


def test_no_policy_is_about_pods_that_do_not_exist(manifests, labels):
    known = [*labels.values(), STEP]
    for policy in manifests.of("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        assert any(selects(selector, pod) for pod in known), policy["metadata"]["name"]
