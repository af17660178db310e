"""Code to copy: how to load what a page shows from this hub."""

import json

from hfvision.hub.repositories import Repo
from hfvision.tasks import TASKS

EXAMPLES = {task.name: task.example for task in TASKS if task.example and task.example.call}


def shell_snippet(repo: Repo, base: str) -> str:
    """What a shell is told of the hub before Python starts."""
    lines = [f"export HF_ENDPOINT={base}"]
    if repo.private or repo.gated:
        lines.append("export HF_TOKEN=hf_...  # a token that may read this")
    return "\n".join(lines)


def python_snippet(repo: Repo, revision: str) -> str:
    """Python that loads this revision of the repository."""
    name = json.dumps(repo.full_name)
    pinned = "" if revision == "main" else f", revision={json.dumps(revision)}"
    if repo.kind == "dataset":
        return f"from datasets import load_dataset\n\ndata = load_dataset({name}{pinned})"
    if repo.pipeline_tag in EXAMPLES and repo.library_name == "transformers":
        example = EXAMPLES[repo.pipeline_tag]
        return (
            "import hfvision\nfrom transformers import pipeline\n\n"
            f'{example.call} = pipeline("{repo.pipeline_tag}", model={name}{pinned})\n'
            f'image = "image.png"  # or a PIL image, an array\n' + example.use.format(call=example.call)
        )
    if repo.library_name == "transformers":
        return (
            "import hfvision\nfrom transformers import AutoImageProcessor, AutoModel\n\n"
            f"processor = AutoImageProcessor.from_pretrained({name}{pinned})\n"
            f"model = AutoModel.from_pretrained({name}{pinned})"
        )
    kind = "" if repo.kind == "model" else f", repo_type={json.dumps(repo.kind)}"
    return f"from huggingface_hub import snapshot_download\n\nfolder = snapshot_download({name}{kind}{pinned})"
