# Sourced by build.sh and try.sh: which engine there is, and what the images are called.
if command -v podman >/dev/null; then
    engine=podman
elif docker info >/dev/null 2>&1; then
    engine=docker
else
    echo "skipped: neither podman nor a running docker is here" >&2
    exit 77 # the customary code of a check that was skipped
fi

# Without systemd podman needs to be told what it otherwise asks it for.
if [ "$engine" = podman ] && [ ! -d /run/systemd/system ]; then
    export CONTAINERS_CONF="$PWD/images/containers.conf"
fi

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
# The tag is part of what Kubeflow's cache goes by: other code must have another one.
tag="$version-$revision"

image_name() { # cpu or gpu
    echo "${REGISTRY:-localhost}/bartizan-python-$1:$tag"
}
