"""What the module that `hfvision push --with-code` adds to a repository needs besides the classes themselves.

transformers takes a class that a repository's module gives it for code of that repository, and copies its source file
beside every model that is saved later. Ours are an installed package's.
"""

from typing import Any

from hfvision.registry import tell_whom_to_serve


def keep_installed(*classes: Any) -> None:
    """Have transformers treat these config, model and image processor classes as it does without remote code."""
    for one in classes:
        one.register_for_auto_class = classmethod(_stay)
        if hasattr(one, "served_model_types"):
            tell_whom_to_serve(one)


def _stay(cls: Any, auto_class: Any = None) -> None:
    """In the place of the method by which transformers marks a class as a repository's own."""
