"""COCO instances: one file of images, annotations and categories, read as detection rows."""

from collections.abc import Iterator, Mapping
from typing import Any

from lit_g2rpo.errors import UserError

TABLES = ("images", "annotations", "categories")
QUESTION = "<image>Find every object of these kinds: {}."


def is_coco(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a COCO instances file."""
    return all(isinstance(value.get(name), list) for name in TABLES)


def coco_rows(value: Mapping[str, Any], path: Any) -> Iterator[dict[str, Any]]:
    """Make one row per image, with all its boxes and their categories as the answer; skip crowds.

    Args:
        value: the content of the file.
        path: how messages name it.

    Raises:
        UserError: if an annotation names a missing image or category, or has no box.
    """
    names: dict[Any, str] = {}
    boxes: dict[Any, list[dict[str, Any]]] = {}
    try:
        names = {category["id"]: str(category["name"]) for category in value["categories"]}
        boxes = {image["id"]: [] for image in value["images"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: COCO's images and categories need an id, and categories a name ({error})") from None
    for table, ids in (("images", boxes.keys()), ("categories", names.keys())):
        if len(ids) < len(value[table]):
            raise UserError(f"{path}: two of COCO's {table} have the same id; give each its own")
    for number, one in enumerate(value["annotations"], 1):
        if not isinstance(one, dict) or not (
            _is_in(one.get("image_id"), boxes) and _is_in(one.get("category_id"), names)
        ):
            raise UserError(f"{path}, annotation {number}: its image_id or category_id is not in the file")
        if one.get("iscrowd"):
            continue
        box = one.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
            raise UserError(f"{path}, annotation {number}: 'bbox' must be [x, y, width, height] in pixels")
        if max(box) <= 1:
            raise UserError(f"{path}, annotation {number}: 'bbox' {box} holds fractions of the image; give pixels")
        x, y, width, height = box
        found = {"bbox_2d": [x, y, x + width, y + height], "label": names[one["category_id"]]}
        boxes[one["image_id"]].append(found)
    question = QUESTION.format(", ".join(names.values()))
    for image in value["images"]:
        yield {
            "id": str(image["id"]),
            "question": question,
            "image": image.get("file_name"),
            "answer": boxes[image["id"]],
            "bbox_type": "real",
            "problem_type": "detection",
        } | {side: image[side] for side in ("width", "height") if side in image}


def _is_in(name: Any, found: Mapping[Any, Any]) -> bool:
    return isinstance(name, int | str) and name in found
