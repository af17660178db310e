"""Layouts of images and masks that have a name: Pascal VOC, Cityscapes, CamVid, KITTI, Roboflow's masks.

Each reader takes a folder and gives a `MaskFolder`, or None for a folder that is not laid out so. The tools that write
own classes in these layouts (labelme, CVAT, Datumaro) name them in a file beside the data; a published data set is
recognized by the names of its files or by its ids, see `hfvision.data.mask_classes`.
"""

from pathlib import Path

from hfvision.data.annotation_files import text_lines
from hfvision.data.class_files import ROBOFLOW_FILE, declared_classes, is_pixel_table
from hfvision.data.image_folder import ONE_SUBSET, SPLITS, folders_in
from hfvision.data.mask_pairs import (
    Benchmark,
    MaskFolder,
    Pairs,
    files_in,
    listed_pairs,
    pairs_of,
    split_of,
)
from hfvision.errors import DatasetError
from hfvision.processing.label_map import Label, LabelMap

TRAIN_IDS, RAW_IDS, COLORS = "_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine_color"  # of Cityscapes
KITTI_IMAGES, KITTI_MASKS = "image_2", "semantic"
KITTI_INSTANCES = "instance"
CAMVID_ENDING = "annot"  # SPLITannot/ has the masks of SPLIT/


def voc_masks(folder: Path) -> MaskFolder | None:
    """FOLDER/JPEGImages, FOLDER/SegmentationClass; splits are the lists of FOLDER/ImageSets/Segmentation."""
    if not (folder / "JPEGImages").is_dir():
        return None
    listed = folder / "ImageSets" / "Segmentation"
    if not (folder / "SegmentationClass").is_dir():
        if listed.is_dir():
            raise DatasetError(
                f"{folder} is laid out as Pascal VOC segmentation, but has no SegmentationClass/: the tool that wrote "
                "it left the masks out. Datumaro and CVAT write polygons only as masks: convert them there "
                "(`datum transform -t polygons_to_masks`), or export them as COCO."
            )
        return None
    images = files_in(folder / "JPEGImages")
    masks = files_in(folder / "SegmentationClass", others_are_reported=False)
    lists = {path.stem.lower(): path for path in sorted(listed.glob("*.txt")) if path.stem.lower() in SPLITS}
    lists = lists or {path.stem: path for path in sorted(listed.glob("*.txt"))}
    splits: dict[str, Pairs] = {}
    for name, path in lists.items():
        names = [line.strip('"') for line in text_lines(path)]
        splits.setdefault(split_of(name), []).extend(listed_pairs(names, images, masks, path, "JPEGImages"))
    listed_images = {image for pairs in splits.values() for image, _ in pairs}
    unlisted = len(set(images.values()) - listed_images) if splits else 0
    said = [f"images in JPEGImages/ that no list of ImageSets/Segmentation names are left out: {unlisted:,}"]
    if not splits:  # most images of VOC have no mask: without lists the masks say which are meant
        splits = {"train": [(images.get(name), mask) for name, mask in masks.items()]}
    known = Benchmark(LabelMap.named("pascal-voc-21"), "pascal-voc-21", r"20(0[7-9]|1[0-2])_\d{6}$")
    return MaskFolder(
        "Pascal VOC segmentation", splits, known, lists_images=True, conclusions=tuple(said if unlisted else ())
    )


def cityscapes_masks(folder: Path) -> MaskFolder | None:
    """FOLDER/leftImg8bit/SPLIT/CITY, FOLDER/gtFine/SPLIT/CITY; *_labelTrainIds before *_labelIds before *_color."""
    if not ((folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir()):
        return None
    endings = (TRAIN_IDS, RAW_IDS, COLORS)
    ending = next((one for one in endings if next((folder / "gtFine").rglob(f"*{one}.png"), None)), RAW_IDS)
    raw = LabelMap.named("cityscapes-19")
    return MaskFolder(
        "Cityscapes",
        {
            split_of(path.name): pairs_of(
                files_in(path, ending="_leftImg8bit"), files_in(folder / "gtFine" / path.name, ending=ending)
            )
            for path in folders_in(folder / "leftImg8bit")
        },
        Benchmark(
            _of_train_ids(raw) if ending == TRAIN_IDS else raw,
            "cityscapes-19",
            r"[A-Za-z-]+_\d{6}_\d{6}(_leftImg8bit)?$",
        ),
        first_number=1,  # Datumaro puts the background before classes that have none
        lists_images=True,
        conclusions=(f"the masks are its files *{ending}.png",),
    )


def camvid_masks(folder: Path) -> MaskFolder | None:
    """FOLDER/SPLIT and FOLDER/SPLITannot; FOLDER/SPLIT.txt may list the pairs."""
    roots = [path for path in folders_in(folder) if (folder / f"{path.name}{CAMVID_ENDING}").is_dir()]
    roots = [path for path in roots if path.name.lower() in (*SPLITS, ONE_SUBSET)]
    splits: dict[str, Pairs] = {}
    said = []
    for root in roots:
        images, masks = files_in(root), files_in(folder / f"{root.name}{CAMVID_ENDING}")
        list_file = folder / f"{root.name}.txt"
        if list_file.is_file():
            names = [line.split()[0] for line in text_lines(list_file)]
            pairs = listed_pairs(names, images, masks, list_file, f"{root.name}/")
            if unlisted := len(set(images.values()) - {image for image, _ in pairs}):
                said.append(f"images in {root.name}/ that {list_file.name} does not name are left out: {unlisted:,}")
        else:
            pairs = pairs_of(images, masks)
        splits.setdefault(split_of(root.name), []).extend(pairs)
    return MaskFolder("CamVid", splits, first_number=1, lists_images=True, conclusions=tuple(said)) if splits else None


def kitti_masks(folder: Path) -> MaskFolder | None:
    """FOLDER/SPLIT/image_2 and FOLDER/SPLIT/semantic, with colors in semantic_rgb and instances in instance.

    Classes that are declared without a background count from 0 in `semantic`, where 0 is then both the first class
    and no class at all; only `instance` tells these apart.
    """
    roots = [path for path in folders_in(folder) if (path / KITTI_IMAGES).is_dir() and (path / KITTI_MASKS).is_dir()]
    if not roots:
        return None
    declared = declared_classes(folder)
    without_background = declared is not None and not any(one.is_background for one in declared[0])
    instances: dict[Path | None, Path] = {}
    splits: dict[str, Pairs] = {}
    for root in roots:
        masks = files_in(root / KITTI_MASKS)
        splits.setdefault(split_of(root.name), []).extend(pairs_of(files_in(root / KITTI_IMAGES), masks))
        if without_background:
            objects = files_in(root / KITTI_INSTANCES)
            instances |= {path: objects[name] for name, path in masks.items() if name in objects}
    if len(instances) < sum(mask is not None for pairs in splits.values() for _, mask in pairs):
        instances = {}
    known = Benchmark(LabelMap.named("cityscapes-19"), "cityscapes-19", r"\d{6}_\d\d$")
    said = (
        f"no background is declared, so 0 in {KITTI_MASKS}/ is both the first class and none: "
        f"{KITTI_INSTANCES}/ tells which, where objects are numbered from 1"
    )
    return MaskFolder(
        "KITTI segmentation",
        splits,
        known,
        instances=instances,
        lists_images=True,
        conclusions=(said,) if instances else (),
    )


def roboflow_masks(folder: Path) -> MaskFolder | None:
    """FOLDER/SPLIT/a.jpg beside FOLDER/SPLIT/a_mask.png and _classes.csv; or without SPLIT."""
    roots = [path for path in (folder, *folders_in(folder)) if (path / ROBOFLOW_FILE).is_file()]
    roots = [path for path in roots if is_pixel_table(path / ROBOFLOW_FILE)]
    splits: dict[str, Pairs] = {}
    for root in roots:
        files = files_in(root, others_are_reported=False)
        masks = {name: path for name, path in files.items() if name.endswith("_mask")}
        images = {name: path for name, path in files.items() if name not in masks}
        splits.setdefault("train" if root == folder else split_of(root.name), []).extend(pairs_of(images, masks))
    if not splits:
        return None
    tables = {root: declared_classes(root) for root in roots}
    contents = [table[0] for table in tables.values() if table is not None]
    if any(content != contents[0] for content in contents):
        raise DatasetError(f"{folder}: the files {ROBOFLOW_FILE} of its splits declare different classes.")
    return MaskFolder("Roboflow's PNG masks", splits, class_root=roots[0])


def _of_train_ids(label_map: LabelMap) -> LabelMap:
    """The map of label maps that hold train ids already, 255 and -1 being ignored."""
    rows = {
        label.train_id: Label(label.train_id, label.train_id, label.name, label.color) for label in label_map.labels
    }
    kept = (row for train_id, row in sorted(rows.items(), key=lambda item: item[0] or 0) if train_id is not None)
    return LabelMap((*kept, Label(255, None), Label(-1, None)))
