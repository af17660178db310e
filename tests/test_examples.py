"""The examples in docstrings: every public name has one, and all of them run and give what they say."""

import doctest
import tempfile
from importlib import import_module
from pathlib import Path

import pytest

import hfvision

ROOT = Path(hfvision.__file__).parent
FILES = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
MODULES = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
NAMES = sorted(set(hfvision.__all__) - {"__version__", "pipeline"})  # that one is transformers' own, documented there


def examples_of(module_name):
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(module_name), module_name)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_have_an_example(name):
    examples = doctest.DocTestParser().get_examples(getattr(hfvision, name).__doc__ or "")
    assert any(name in one.source + one.want for one in examples), f"hfvision.{name} has no example in its docstring"


@pytest.mark.parametrize("module_name", MODULES)
def test_examples_give_what_they_say(module_name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tests = examples_of(module_name)
    assert tests, "a line begins with >>> and is no example of a docstring"
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        runner.run(test, out=report.append)
    assert not runner.summarize(verbose=False).failed, "".join(report)
