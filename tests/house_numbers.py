"""Numbers by which the size of the house is watched; `scripts/numbers` prints them.

Lines per folder, definitions per option, examples of docstrings. With --run the README's test command runs, too, and
its time is told; with pytest-cov installed also which share of lines and branches it reaches.
"""

import ast
import doctest
import importlib.util
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    print_lines()
    print_options()
    print_examples()
    if "--run" in sys.argv[1:]:
        run_suite()


def print_lines() -> None:
    print("Lines of Python")
    by_folder: Counter[str] = Counter()
    for path in (one for top in ("hfvision", "tests", "benchmarks") for one in (ROOT / top).rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        folder = "/".join(parts[:2]) if parts[0] == "hfvision" and len(parts) > 2 else parts[0]
        by_folder[folder] += len(path.read_text(encoding="utf-8").splitlines())
    for folder, lines in sorted(by_folder.items()):
        print(f"  {lines:7,}  {folder}")


def print_options() -> None:
    """How often each option is written as a field or a parameter between the command line and the Trainer."""
    from hfvision.reading_options import ReadingOptions
    from hfvision.training.arguments import VisionTrainingArguments

    own = {one.name for one in fields(VisionTrainingArguments)} - {
        one.name for base in VisionTrainingArguments.__mro__[1:2] for one in fields(base)
    }
    paths = [*(ROOT / "hfvision" / "training").rglob("*.py"), *(ROOT / "hfvision" / "cli").rglob("*.py")]
    paths.append(ROOT / "hfvision" / "reading_options.py")
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    for title, names in (("of training", own), ("of reading", {one.name for one in fields(ReadingOptions)})):
        definitions = {name: sum(_defines(tree, name) for tree in trees.values()) for name in sorted(names)}
        most = max(definitions, key=lambda name: definitions[name])
        mean = sum(definitions.values()) / len(definitions)
        print(f"Options {title}: {len(names)}, defined {mean:.1f} times each, {most} most often ({definitions[most]})")


def _defines(tree: ast.Module, name: str) -> int:
    """Fields and parameters of that name."""
    found = 0
    for node in ast.walk(tree):
        found += isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name
        found += isinstance(node, ast.arg) and node.arg == name
    return found


def print_examples() -> None:
    parser = doctest.DocTestParser()
    count = 0
    for path in (ROOT / "hfvision").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                count += bool(parser.get_examples(ast.get_docstring(node) or ""))
    print(f"Docstrings with examples that run: {count}")


def run_suite() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "auto"]
    measured = importlib.util.find_spec("pytest_cov") is not None
    if measured:
        command += ["--cov=hfvision", "--cov-branch", "--cov-report=term"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.monotonic() - start
    said = done.stdout.splitlines()
    print(f"Suite: {seconds / 60:.1f} minutes{' (with coverage, which takes time)' if measured else ''}; {said[-1]}")
    total = next((line for line in said if re.match(r"TOTAL\s", line)), None)
    print(f"Coverage of lines and branches: {total.split()[-1] if total else 'not measured, pytest-cov is missing'}")
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
