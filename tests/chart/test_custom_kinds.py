"""Objects of operators fit the operators' own types, unknown fields included: TypeScript compares them."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from chart.rendering import Answer, Object, of_kind

pytestmark = [pytest.mark.slow]

FOLDER = Path(__file__).parents[2] / "out/chart/types"
MODELS = "@kubernetes-models"
PACKAGES = (
    "typescript@7",
    f"{MODELS}/keda@2",
    f"{MODELS}/prometheus-operator@6",
    f"{MODELS}/gateway-api@2",
)
TYPES = {
    "ScaledObject": f"{MODELS}/keda/keda.sh/v1alpha1",
    "ServiceMonitor": f"{MODELS}/prometheus-operator/monitoring.coreos.com/v1",
    "PodMonitor": f"{MODELS}/prometheus-operator/monitoring.coreos.com/v1",
    "PrometheusRule": f"{MODELS}/prometheus-operator/monitoring.coreos.com/v1",
    "HTTPRoute": f"{MODELS}/gateway-api/gateway.networking.k8s.io/v1",
}


@pytest.fixture(scope="module")
def compiler() -> Path:
    """Return TypeScript's compiler, beside the types; both are fetched once."""
    compiler = FOLDER / "node_modules/.bin/tsc"
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    if not compiler.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "package.json").write_text("{}")
        options = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
        done = subprocess.run(
            [npm, "install", *options, *PACKAGES], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"npm could not fetch the types: {done.stderr[-300:]}")
    return compiler


def _complaints(compiler: Path, objects: Sequence[Object]) -> str:
    imports = [f"import type {{I{kind}}} from '{module}';" for kind, module in TYPES.items()]
    values = [f"export const x{n}: I{one['kind']} = {json.dumps(one)};" for n, one in enumerate(objects)]
    (FOLDER / "objects.ts").write_text("\n".join([*imports, *values]))
    options = ("--noEmit", "--module", "nodenext", "--moduleResolution", "nodenext", "--skipLibCheck")
    done = subprocess.run(
        [str(compiler), *options, "objects.ts"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_objects_have_their_operators_types(rendered: Mapping[str, Answer], compiler: Path) -> None:
    objects = [one for answer in rendered.values() for one in of_kind(answer.objects, *TYPES)]
    assert {"ScaledObject", "ServiceMonitor", "PodMonitor", "HTTPRoute"} <= {one["kind"] for one in objects}
    assert _complaints(compiler, objects) == ""


def test_an_unknown_field_and_a_wrong_type_are_found(rendered: Mapping[str, Answer], compiler: Path) -> None:
    (scaler,) = of_kind(rendered["gpus"].objects, "ScaledObject")
    for spec in ({"minReplicas": 1}, {"minReplicaCount": "1"}):
        assert "error TS" in _complaints(compiler, [{**scaler, "spec": {**scaler["spec"], **spec}}])
