"""Fill a Hub with what ships in this package: the starter models, the digits and their cards.

    seed(endpoint="http://127.0.0.1:8000", token="hf_...", namespace="hfvision")

It acts as an ordinary client, through huggingface_hub: nothing here knows how the Hub on the other side is made. Doing
it again changes nothing, and commits nothing, where the Hub holds the same files already.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from hfvision.errors import ConfigError, UnknownNameError
from hfvision.hub_access import hub_errors, quiet_client
from hfvision.starters import STARTERS

if TYPE_CHECKING:
    import datasets

NAMESPACE = "hfvision"
DATASETS = ("digits", "digit-scenes")
DATA_OF = {"vit-digits": "digits"}  # starter -> what it was trained on; all others on digit-scenes

DATASET_CARD = """\
# {name}

{text}

## Use

```python
from datasets import load_dataset

data = load_dataset("{repo_id}")
print(data)
```

{columns}

## Source

{citation} Licence of the images: CC BY 4.0.
"""
TEXTS = {
    "digits": """\
1,797 handwritten digits of 8 x 8 pixels, white ink on black, in two fixed splits that hold every digit in equal
proportion. Both splits hold digits of the same thirteen people, so figures on the test split say nothing about other
people's handwriting.""",
    "digit-scenes": """\
Scenes of 96 x 96 pixels: two to four handwritten digits on a soft dark background, with exact masks, instances and
boxes. Training scenes are composed of the train split of the digits, validation scenes of the test split: no
image is in both.""",
}
COLUMNS = {
    "digits": "Columns: `image` (grey) and `label` (0 to 9).",
    "digit-scenes": (
        "Columns: `image` (RGB), `mask` (0 background, 1 + digit where a digit is visible), `instances` (the id of the "
        "object at each pixel) and `objects` (`id`, `bbox` as x, y, width, height in pixels, `category`, `area`)."
    ),
}
CATEGORIES = {  # the Hub's tasks
    "digits": ["image-classification"],
    "digit-scenes": ["image-segmentation", "object-detection"],
}


@dataclass(frozen=True)
class Seeded:
    """One repository after seeding."""

    repo_id: str
    repo_type: Literal["model", "dataset"]
    url: str
    commit: str  # the head of main
    changed: bool  # False: it held the same files before


def seed(
    *,
    endpoint: str | None = None,
    token: str | None = None,
    namespace: str = NAMESPACE,
    only: Iterable[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Seeded]:
    """Publish the starter models and digits datasets under `namespace`, each as one commit on main.

    endpoint and token default to HF_ENDPOINT and HF_TOKEN (or the stored login), as for every client; `only` names
    some of the models and datasets. `say` is told what happens.

    Raises UnknownNameError for a name that does not exist, ConfigError where the token may not write to `namespace`,
    HubAccessError where the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    known = [*DATASETS, *STARTERS]
    wanted = known if only is None else list(only)
    if unknown := [name for name in wanted if name not in known]:
        raise UnknownNameError(f"Nothing to seed is named {', '.join(unknown)}; there are {', '.join(known)}.")
    api = HfApi(endpoint=endpoint, token=token, library_name="hfvision")
    _check_namespace(api, namespace)
    done = []
    for name in [name for name in known if name in wanted]:  # datasets first: the models' cards name them
        repo_id = f"{namespace}/{name}"
        with TemporaryDirectory(prefix="hfvision-seed-") as work, hub_errors(api.endpoint), quiet_client():
            if name in STARTERS:
                files = _model_files(name, repo_id, namespace, Path(work))
                row = _publish(api, repo_id, "model", files)
            else:
                row = _publish(api, repo_id, "dataset", _dataset_files(name, repo_id, Path(work)))
        say(f"{row.repo_type} {row.repo_id}: {'published' if row.changed else 'was there already'}")
        done.append(row)
    return done


def _check_namespace(api: Any, namespace: str) -> None:
    """Raises ConfigError unless the token may write there: better than to fail at the first upload."""
    with hub_errors(api.endpoint):
        me = api.whoami()
    spaces = [me["name"], *(org["name"] for org in me.get("orgs", ()))]
    if namespace.lower() not in map(str.lower, spaces):
        me_name = me["name"]
        raise ConfigError(
            f"The token of {me_name} cannot publish as {namespace!r} on {api.endpoint}, only as {', '.join(spaces)}. "
            f"Choose one of these, or add the organisation: hfvision hub org add {namespace}; "
            f"hfvision hub org member {namespace} {me_name}"
        )


def _publish(api: Any, repo_id: str, repo_type: Literal["model", "dataset"], files: Mapping[str, Path]) -> Seeded:
    """One commit with all files; none where every file is the same already."""
    from huggingface_hub import CommitOperationAdd

    url = api.create_repo(repo_id, repo_type=repo_type, exist_ok=True)
    before = api.repo_info(repo_id, repo_type=repo_type).sha
    commit = api.create_commit(
        repo_id,
        repo_type=repo_type,
        operations=[CommitOperationAdd(path, file) for path, file in files.items()],
        commit_message="Publish what ships with hfvision",
    )
    return Seeded(repo_id, repo_type, str(url), commit.oid, commit.oid != before)


def _model_files(name: str, repo_id: str, namespace: str, work: Path) -> dict[str, Path]:
    """The starter's files; its card names the repository and its dataset instead of the folder in the package."""
    from huggingface_hub import ModelCard

    files = {file.name: file for file in sorted(STARTERS[name].iterdir()) if file.is_file()}
    card = ModelCard(files["README.md"].read_text(encoding="utf-8").replace(f'model="{name}"', f'model="{repo_id}"'))
    card.data["datasets"] = [f"{namespace}/{DATA_OF.get(name, 'digit-scenes')}"]
    files["README.md"] = work / "README.md"
    files["README.md"].write_text(str(card), encoding="utf-8")
    return files


def _dataset_files(name: str, repo_id: str, work: Path) -> dict[str, Path]:
    """A parquet file for each split, and a card that says where they are."""
    from huggingface_hub import DatasetCard, DatasetCardData

    from hfvision.data.digits import CITATION, LICENSE, load_digit_scenes, load_digits

    data: datasets.DatasetDict = {"digits": load_digits, "digit-scenes": load_digit_scenes}[name]()
    files = {}
    for split, rows in data.items():
        path = f"data/{split}-00000-of-00001.parquet"
        files[path] = work / f"{split}.parquet"
        _write(rows, files[path])
    front = DatasetCardData(
        license=LICENSE,
        pretty_name=name,
        task_categories=CATEGORIES[name],
        size_categories=["1K<n<10K"],
        tags=["hfvision"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in data],
            }
        ],
    )
    text = DATASET_CARD.format(name=name, repo_id=repo_id, text=TEXTS[name], columns=COLUMNS[name], citation=CITATION)
    files["README.md"] = work / "README.md"
    files["README.md"].write_text(str(DatasetCard(f"---\n{front}\n---\n\n{text}")), encoding="utf-8")
    return files


def _write(rows: "datasets.Dataset", out: Path) -> None:
    """Parquet in small row groups, so that a preview or a stream reads little; no progress bar, the data is small."""
    import pyarrow.parquet as pq

    table = rows.with_format("arrow")[:]
    features = rows.features.arrow_schema  # names the images and labels in the schema's metadata
    pq.write_table(table.cast(features), out, row_group_size=100, compression="zstd")
