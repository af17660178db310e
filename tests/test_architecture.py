"""Imports inside hfvision only point downwards, and importing it is free."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.strictness import WARNINGS_ARE_ERRORS

PACKAGE = Path(__file__).parents[1] / "hfvision"

# For each part, the parts that it may import besides itself. A part is a module or folder directly in hfvision.
GROUND = {
    "checkpoints",
    "confinement",
    "errors",
    "options",
    "processes",
    "reporting",
    "tasks",
    "termination",
    "tracing",
    "writing",
}
MODELS = {*GROUND, "catalog", "geometry", "labels", "layers", "losses", "models", "upsampling"}
PROCESSING = {*GROUND, "geometry", "objects", "processing", "upsampling"}
REGISTRY = {*MODELS, *PROCESSING, "detections", "metrics", "registry"}
TOOLS = {*REGISTRY, "creation", "data", "pipelines", "plots", "reading_options", "row_files", "starters"}
MAY_IMPORT = {
    "confinement": set(),
    "checkpoints": {"containers", "errors", "torch_files"},
    "containers": set(),
    "torch_files": {"errors"},
    "errors": set(),
    "options": set(),
    "reading_options": {"errors", "options", "tasks"},
    "processes": set(),
    "reporting": {"processes"},
    "row_files": {"errors", "writing"},
    "tasks": {"errors"},
    "termination": set(),
    "writing": {"errors", "termination"},
    "catalog": {"errors", "tasks"},
    "labels": {"errors", "reporting"},
    "geometry": {"errors"},
    "detections": {"errors", "geometry"},
    "objects": {"errors", "geometry", "reporting"},
    "tracing": set(),
    "upsampling": {"tracing"},
    "layers": {*GROUND, "geometry", "upsampling"},
    "losses": {*GROUND, "geometry", "layers", "upsampling"},
    "models": MODELS,
    "processing": {*GROUND, "geometry", "objects", "upsampling"},
    "metrics": {"errors", "geometry"},
    "registry": REGISTRY,
    "arithmetic": set(),
    "creation": {*REGISTRY, "arithmetic"},
    "__main__": {"cli"},
    "_import_hook": {"registry"},
    "data": {*REGISTRY, "reading_options"},
    "optimizing": {*REGISTRY, "data"},
    "pipelines": {*REGISTRY, "optimizing", "plots", "starters"},
    "plots": REGISTRY,
    "starters": REGISTRY,
    "hub": {"confinement", "errors", "reporting", "tasks", "writing", "__version__"},
    "hub_access": {"errors"},
    "seeding": {*TOOLS, "hub_access"},
    "mirroring": {"errors", "hub_access"},
    "doctor": TOOLS,
    "licences": {"catalog", "errors", "starters"},
    "cards": {*TOOLS, "catalog", "licences"},
    "remote": {"registry"},
    "publishing": {*TOOLS, "cards", "licences"},
    "conversion": {*TOOLS, "cards", "licences"},
    "training": {*TOOLS, "cards", "licences", "publishing"},
    "bench": {*TOOLS, "arithmetic", "conversion", "optimizing", "__version__"},
    "cli": {
        *{*TOOLS, "bench", "cards", "conversion", "doctor", "hub", "licences", "mirroring", "publishing", "seeding"},
        *{"termination", "training", "__version__"},
    },
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports_of(path):
    """The parts of hfvision that a file imports anywhere, inside functions too; also those that it names to load."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hfvision":
            in_package = node.module == "hfvision"
            names = [f"hfvision.{alias.name}" for alias in node.names] if in_package else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("hfvision.")]
        yield from (name.split(".")[1] for name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert part in MAY_IMPORT, f"{part} has no place in the order of imports"
    assert set(imports_of(path)) - MAY_IMPORT[part] - {part} == set()


def test_only_the_registry_touches_private_parts_of_transformers_mappings():
    touching = [path.name for path in modules() if "_extra_content" in path.read_text(encoding="utf-8")]
    assert touching == ["registry.py"]


def test_importing_hfvision_brings_neither_torch_nor_transformers():
    code = "import hfvision, sys; print([m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, *WARNINGS_ARE_ERRORS, "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_typing_marker_is_part_of_the_package():
    assert (PACKAGE / "py.typed").exists()
